"""Cases of files: runs, comparisons, models of other programs, corpora and caches that are damaged in some way."""

from __future__ import annotations

from typing import Any

from fuzzing import values
from fuzzing.case import RAW, Case, Change
from fuzzing.drawing import AGAIN, DRY, ON_A_RUN, RESUME, Command, Documents, Draw, case_of
from fuzzing.world import COMPARE


def damage(draw: Draw, documents: Documents, files: list[str]) -> Change:
    """One file of these, missing, cut short, replaced or with one value changed."""
    name = draw.choice(files)
    if name in documents.keys and draw.random() < 0.5:
        return Change("set", name, draw.choice(values.JSON_VALUES), tuple(draw.choice(documents.keys[name])))
    what = draw.choice(["missing", "empty", "garbage", "half", "flip", "insert", "folder", "link", "write"])
    share = round(draw.random(), 3)
    drawn: dict[str, Any] = {
        "half": share, "flip": share, "garbage": draw.choice([1, 300]), "folder": draw.random() < 0.5,
        "insert": [share, draw.choice(["\x00", "\udcff", "\n", "{", "\n\n{}\n", "9" * 5000, "x"])],
        "link": draw.choice(["/dev/null", "/dev/zero", "circle", "nowhere", "..", "/dev/full"]),
        "write": draw.choice([*values.CONTENTS, *RAW.values()]),
    }  # fmt: skip
    return Change(what, name, drawn.get(what))


def damaged_runs(draw: Draw, documents: Documents) -> Case:
    """A run with damaged files, read by any command that reads one."""
    run = draw.choice(["runs/tiny", "runs/imported", "runs/stopped", "saved"])
    files = [
        *documents.below(run),
        f"{run}/checkpoints",
        f"{run}/tokenizer",
        f"{run}/chat.json",
        f"{run}/checkpoints/4",
    ]
    files = [name for name in files if not name.endswith((".nfs0001", ".lock", "Trash/file", ".DS_Store", "notes.txt"))]
    changes = tuple(damage(draw, documents, files) for _ in range(draw.randint(1, 2)))
    command = draw.choice(ON_A_RUN)
    return case_of(draw, tuple(run if word == "RUN" else word for word in command), changes=changes)


def damaged_resumes(draw: Draw, documents: Documents) -> Case:
    """A training taken up again where files of its run are damaged."""
    run, command = draw.choice([("runs/tiny", AGAIN), ("runs/stopped", RESUME)])
    files = [*documents.below(run), f"{run}/checkpoints", f"{run}/checkpoints/2", f"{run}/tokenizer"]
    files = [name for name in files if not name.endswith((".nfs0001", "Trash/file", ".DS_Store", "notes.txt"))]
    changes = tuple(damage(draw, documents, files) for _ in range(draw.randint(1, 2)))
    other = draw.choice([(), (), ("--lr", "0.01"), ("--seed", "7"), ("--budget", "6 steps"), ("--set", "depth=2")])
    return case_of(draw, (*command, *other), changes=changes)


def damaged_comparisons(draw: Draw, documents: Documents) -> Case:
    """A finished comparison with damaged files, asked for again."""
    files = documents.below("runs/pair") or documents.below("runs/tiny")
    changes = tuple(damage(draw, documents, files) for _ in range(draw.randint(1, 2)))
    return case_of(draw, COMPARE, changes=changes)


def damaged_models(draw: Draw, documents: Documents) -> Case:
    """A model folder of another program, damaged, then imported."""
    folder = draw.choice(["hf-llama", "hf-qwen3", "hf-gpt2", "hf-deepseek", "exported"])
    files = [*documents.below(folder), f"{folder}/model.safetensors.index.json", f"{folder}/generation_config.json"]
    files += [f"{folder}/tokenizer_config.json", f"{folder}/special_tokens_map.json", f"{folder}/config.json"] * 2
    changes = [damage(draw, documents, files) for _ in range(draw.randint(1, 2))]
    if draw.randint(0, 3) == 0:
        key = draw.choice(_CONFIG_KEYS)
        changes.append(Change("set", f"{folder}/config.json", draw.choice(values.JSON_VALUES), (key,)))
    if draw.randint(0, 7) == 0:
        index = {"weight_map": draw.choice([draw.choice(values.JSON_VALUES), {"a": draw.choice(values.JSON_VALUES)}])}
        changes.append(Change("json", f"{folder}/model.safetensors.index.json", index))
    if draw.randint(0, 3):
        commands: list[Command] = [("import", folder, "--name", "other")]
        if draw.random() < 0.5:
            commands.append(
                draw.choice([("generate", "runs/other", "--max-new-tokens", "2"), ("export", "runs/other")])
            )
    else:
        commands = [("data", "show", "corpus.txt", "--tokenizer", f"{folder}/tokenizer.json")]
    return case_of(draw, *commands, changes=tuple(changes))


_CONFIG_KEYS = (
    *(
        "rope_scaling",
        "quantization_config",
        "architectures",
        "model_type",
        "layer_types",
        "sliding_window",
        "eos_token_id",
    ),
    *("bos_token_id", "rope_theta", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *(
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "torch_dtype",
        "dtype",
        "tie_word_embeddings",
        "hidden_act",
    ),
    *("head_dim", "intermediate_size", "attention_bias", "mlp_bias", "n_routed_experts", "rope_parameters", "auto_map"),
)


def damaged_corpora(draw: Draw, documents: Documents) -> Case:
    """A corpus that is damaged, or is not what its name says."""
    name = draw.choice(
        [
            "corpus.txt",
            "corpus.jsonl",
            "corpus.json",
            "corpus.csv",
            "corpus.parquet",
            "corpus.txt.gz",
            "corpus.jsonl.gz",
            "texts/0.txt",
            "x.zst",
            "x.bz2",
            "x.xz",
            "x.txt",
            "x.jsonl",
            "x.tsv",
            "x.parquet.gz",
            "x.csv.gz",
            "x.gz",
            "x",
            "texts/inner",
        ]
    )
    if name in documents.files and draw.random() < 0.5:
        changes = [damage(draw, documents, [name]) for _ in range(draw.randint(1, 2))]
    else:
        changes = [Change("write", name, draw.choice(values.CONTENTS))]
    if draw.randint(0, 5) == 0:
        changes.append(Change("link", "texts/link", draw.choice(["..", ".", "../corpus.txt", "nowhere", "link"])))
    if name.endswith((".jsonl", "jsonl.gz")) and draw.random() < 0.5:
        rows = [
            {draw.choice(["text", "id", "", "x"]): draw.choice(values.JSON_VALUES) for _ in range(2)} for _ in range(3)
        ]
        changes.append(Change("lines", name, rows * 40))
    place = draw.choice([name, name, name.split("/")[0], f"{name}:text", f"{name}:", "texts", ".", "*", "*.jsonl"])
    tokenizer = draw.choice(["bytes", "bytes", "bpe-300", "bpe-2000", "runs/tiny"])
    command = draw.choice([
        ("data", "prepare", place, "--tokenizer", tokenizer), ("data", "show", place, "--tokenizer", tokenizer),
        ("eval", "runs/tiny", "--data", place), (*DRY, "--data", place, "--tokenizer", tokenizer),
    ])  # fmt: skip
    return case_of(draw, command, changes=tuple(changes))


def damaged_ggufs(draw: Draw, documents: Documents) -> Case:
    """A GGUF file, damaged, then imported."""
    changes = [damage(draw, documents, ["llama.gguf"]) for _ in range(draw.randint(1, 2))]
    return case_of(draw, ("import", "llama.gguf", "--name", "other"), changes=tuple(changes))


THREAD_KEYS = ("thread_title", "thread_href", "message_timestamp", "message_username", "message", "messages", "text")


def damaged_threads(draw: Draw, documents: Documents) -> Case:
    """Conversations that are damaged, or have odd values in their columns."""
    if draw.random() < 0.5:
        changes = [damage(draw, documents, ["threads.jsonl"])]
    else:
        odd = [{draw.choice(THREAD_KEYS): draw.choice(values.JSON_VALUES) for _ in range(3)} for _ in range(2)]
        turns = draw.choice(["messages", "conversations", "prompt"])
        odd.append(
            {turns: [{"role": "user", "content": draw.choice(values.JSON_VALUES)}, draw.choice(values.JSON_VALUES)]}
        )
        changes = [Change("lines", "threads.jsonl", draw.choice([odd, odd[:1] * 9, odd * 9]))]
    command = draw.choice([
        ("data", "prepare", "--threads", "threads.jsonl", "--tokenizer", "bytes"),
        ("data", "show", "threads:threads.jsonl", "--tokenizer", draw.choice(["bytes", "bpe-300", "runs/tiny"])),
        (*DRY, "--data", "threads:threads.jsonl"),
        ("eval", "runs/tiny", "--data", "threads:threads.jsonl"),
    ])  # fmt: skip
    return case_of(draw, command, changes=tuple(changes))


def damaged_caches(draw: Draw) -> Case:
    """Files of the cache damaged, or the cache a file."""
    name = draw.choice(["tokens/*/*", "tokens/*/*", "tokens/*", "tokens", ".", "*/*"])
    what = draw.choice(["missing", "empty", "garbage", "half", "folder", "link"])
    value = {"half": 0.5, "link": "nowhere", "garbage": 1, "folder": False}.get(what)
    change = Change(what, f"CACHE/{name}", value, (draw.randint(0, 9),))
    command = draw.choice(
        [
            ("data", "show", "corpus.txt", "--tokenizer", "bytes"),
            ("data", "show", "corpus.jsonl", "--tokenizer", "bpe-300"),
            DRY,
            AGAIN,
            ("eval", "runs/tiny", "--limit-tokens", "64"),
        ]
    )
    return case_of(draw, command, changes=(change,))
