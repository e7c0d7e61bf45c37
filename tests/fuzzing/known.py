"""Cases that once went wrong, each for its kind: tried before any that are drawn."""

from __future__ import annotations

from collections.abc import Iterator

from fuzzing.case import Case, Change
from fuzzing.commands import Streams
from fuzzing.drawing import AGAIN, BENCH, DRY, RESUME
from fuzzing.world import BAD, SHORT

GENERATE = ("generate", "runs/tiny", "--max-new-tokens", "4")


def known(slow: bool) -> Iterator[Case]:
    """All of them; each takes about a second, or a minute where `slow` lets plug-ins loop until they are stopped."""
    yield from _numbers()
    yield from _recipes()
    yield from _models()
    yield from _files()
    yield from _streams()
    yield Case((("train", "built-recurses.py", *SHORT, "--folder", "new", "--keep-failed"),), endless=True)
    for deed in BAD if slow else [deed for deed in BAD if deed != "loops"]:
        for moment in ("bad", "built"):
            yield Case((("train", f"{moment}-{deed}.py", *SHORT, "--dry-run"),))
            yield Case((("bench", "decode", f"{moment}-{deed}.py", *BENCH[3:]),))


def _numbers() -> Iterator[Case]:
    for change in (
        "dim=9223372036854775808",
        "depth=100000000",
        "heads=0",
        "vocab_size=1e400",
        "context=2147483648",
        "dropout=nan",
        "mixer.kv_heads=-1",
        f"dim={'9' * 5000}",
        "norm.eps=inf",
        "positions.theta=-1",
    ):
        yield Case(((*DRY, "--set", change),))
        yield Case((("recipes", "standard", "--set", change),))
    for option in (
        "--batch=1000000",
        f"--batch=1{'0' * 20}",
        "--context=2147483648",
        "--lr=inf",
        "--lr=nan",
        "--seed=-1",
        "--budget=inf steps",
        f"--budget={'9' * 400} steps",
        "--threads=1000000",
        "--accumulation=99999999999",
        "--sample-bytes=0",
        "--held-out=nan",
        "--option=betas=[nan, 1]",
        "--option=warmup=1e400",
    ):
        yield Case(((*DRY, option),))
    yield Case((("generate", "runs/tiny", "--n", "100000"),))
    for option in (
        "--max-new-tokens=9223372036854775808",
        "--temperature=nan",
        "--top-k=99999999999999999999",
        "--rows=100000000",
        "--seed=9223372036854775808",
        "--seed=-1",
        "--beams=1000000",
        "--logit-bias=5=1e999",
        "--logit-bias=\udcff=1",
        "--stop-token=300",
        "--no-repeat-ngram=99999999999999999999",
    ):
        yield Case(((*GENERATE, option),))
    for option in (
        "--prompt-tokens=1000000",
        "--prompt-tokens=",
        "--new-tokens=1000000",
        "--repeats=1000000000",
        "--batch=100000000",
        "--threads=0",
        "--json=/dev/null",
        "--json=/dev/full",
        "--figure=new.xyz",
    ):
        yield Case(((*BENCH, option),))
    for tokenizer in ("bpe-99999999999", "bpe-9223372036854775808", "bpe-1", "bpe-", "", "full"):
        yield Case((("data", "prepare", "corpus.txt", "--tokenizer", tokenizer),))


def _recipes() -> Iterator[Case]:
    for text in (
        "base: 2020-01-01",
        f"base: standard\ndim: {'9' * 400}",
        "base: standard\nlayers: " + "[" * 5000,
        "base: standard\ndim: 16\ndim: 32\n",
        "base: standard\nname: ../../x",
        "base: standard\nname: 2020-01-01",
        "base: standard\nname: " + "x" * 300,
        'base: standard\nname: "a\\nb\\e[31m"',
        "base: x.yaml",
        "a: &a [*a]",
        "base: standard\n? [a]\n: b\n",
        "base: standard\ndim: .nan",
        "base: standard\nabout: \x00",
    ):
        yield Case(
            (("recipes", "x.yaml"), ("train", "x.yaml", *SHORT, "--dry-run")), (Change("write", "x.yaml", text),)
        )


def _models() -> Iterator[Case]:
    config, tokenizer, index = "config.json", "tokenizer.json", "model.safetensors.index.json"
    for file, key, value in (
        (config, "rope_scaling", "linear"),
        (config, "quantization_config", "fp8"),
        (config, "rope_theta", {"a": 1}),
        (config, "hidden_size", "16"),
        (config, "hidden_size", 2**63),
        (config, "num_hidden_layers", 10**8),
        (config, "architectures", None),
        (config, "architectures", "LlamaForCausalLM"),
        (config, "eos_token_id", [[1]]),
        (config, "vocab_size", "@@digits"),
        (config, "rms_norm_eps", "@@nan"),
        (config, "layer_types", "x"),
        (config, "num_attention_heads", 0),
        (config, "torch_dtype", 5),
        (config, "hidden_act", []),
        (tokenizer, "added_tokens", None),
        (tokenizer, "model", None),
        (tokenizer, "model", "BPE"),
        (tokenizer, "x", "@@deep"),
    ):
        yield Case((("import", "hf-llama", "--name", "x"),), (Change("set", f"hf-llama/{file}", value, (key,)),))
    for value in (
        None,
        "x",
        [],
        {"a": None},
        {"a": ["b"]},
        {"a": "../../notes.txt"},
        {"a": "x" * 300},
        {"a": "@@mappings"},
    ):
        changes = (Change("json", f"hf-llama/{index}", {"weight_map": value}),)
        yield Case((("import", "hf-llama", "--name", "x"),), changes)
    for change in (
        Change("half", "hf-llama/model.safetensors", 0.9),
        Change("garbage", "hf-llama/model.safetensors", 9),
        Change("folder", "hf-llama/model.safetensors", True),
        Change("empty", "hf-llama/config.json"),
    ):
        yield Case((("import", "hf-llama", "--name", "x"),), (change,))


def _files() -> Iterator[Case]:
    for run, command in (("runs/tiny", AGAIN), ("runs/stopped", RESUME)):
        for name in (
            "metrics.jsonl",
            "run.yaml",
            "recipe.yaml",
            "checkpoints/2/state.json",
            "checkpoints",
            "audit.json",
        ):
            for change in (Change("missing", f"{run}/{name}"), Change("folder", f"{run}/{name}", True)):
                yield Case((command,), (change,), endless=True)
        yield Case(((*command, "--lr", "0.01"),), (Change("missing", f"{run}/metrics.jsonl"),), endless=True)
    for name in ("full", "notes.txt", "/dev/null", "dangling", "circle", "linked", "", "x" * 300, "corpus.txt/x"):
        yield Case((("export", "runs/tiny", "--out", name),))
        yield Case((("chat", "runs/tiny", "--max-new-tokens", "2"),), streams=Streams(stdin=f"/save {name}\n"))
        yield Case(((*GENERATE, "--file", name),))
    for name in ("corpus.txt.gz", "corpus.jsonl.gz", "corpus.parquet"):
        yield Case((("data", "prepare", name, "--tokenizer", "bytes"),), (Change("half", name, 0.7),))
    for line in (
        '{"text": null}',
        '{"id": "a"}',
        '{"text": ' + "9" * 5000 + "}",
        "[" * 5000,
        '{"text": "\\ud800"}',
        "\x00",
    ):
        changes = (Change("write", "x.jsonl", (line + "\n") * 99),)
        yield Case((("data", "show", "x.jsonl", "--tokenizer", "bytes"),), changes)
    yield Case((("data", "prepare", "x.txt", "--tokenizer", "bpe-300"),), (Change("write", "x.txt", "a" * 2_000_000),))
    for command in (
        ("generate", "runs/foreign", "--max-new-tokens", "2"),
        ("recipes", "based.yaml"),
        ("export", "foreign"),
    ):
        yield Case((command,))


def _streams() -> Iterator[Case]:
    commands = (
        ("recipes",),
        ("recipes", "deepseek"),
        ("eval", "runs/tiny", "--limit-tokens", "64"),
        AGAIN,
        GENERATE,
        ("data", "show", "corpus.txt", "--tokenizer", "bytes"),
        ("chat", "runs/tiny", "--max-new-tokens", "2"),
    )
    for command in commands:
        yield Case((command,), streams=Streams(stdin=None, stdout="closed", stderr="closed"))
        yield Case((command,), streams=Streams(stdout="full"))
        yield Case((command,), streams=Streams(stdout="unread", encoding="ascii"))
        yield Case((command,), streams=Streams(stdin="the\n", encoding="cp1252", stderr="full"))
