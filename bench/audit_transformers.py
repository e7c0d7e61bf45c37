"""Audit every causal-LM class of the installed transformers that can be built tiny: docs/results/transformers_audit.md.

    python bench/audit_transformers.py --jobs 2 --out results.jsonl     # continues where it stopped
    python bench/audit_transformers.py --page --out results.jsonl       # writes the page

Each class is built from its default config with small numbers, with new weights, in a process of its own with a limit.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import resource
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from litmus.auditing.adapters import target_of
from litmus.auditing.check import run_check
from litmus.auditing.checks import CHECKS, FORWARD
from litmus.errors import BadInput
from litmus.testing import assert_loss_is_mean

COLUMNS = ("forward pass", "causality", "prefix consistency", "cache parity", "position parity", "loss")
PAGE = Path(__file__).parents[1] / "docs" / "results" / "transformers_audit.md"
CPU_SECONDS, WALL_SECONDS = 150, 1500
MAX_PARAMETERS = 8_000_000

SIZES: list[tuple[str, int]] = [
    (r"vocab_size", 101),
    (r"hidden_size|d_model|n_embd|dim|embedding_size|emb_dim|word_embed_proj_dim|decoder_hidden_size", 32),
    (r"(num_)?(hidden_|encoder_|decoder_)?layers|n_layers?|num_blocks|depth|num_decoder_layers|num_encoder_layers", 2),
    (r"(num_)?(encoder_|decoder_)?(attention_)?heads|n_heads?|(num_)?(encoder_|decoder_)attention_heads", 4),
    (r"num_(key_value|global_key_value|kv|query)_(heads|groups)|kv_heads|num_kv_heads|swa_num_key_value_heads", 2),
    (r"(head_dim|kv_channels|swa_head_dim|global_head_dim|attention_head_dim|d_kv)", 8),
    (r".*intermediate_size|ffn_dim|.*_ffn_dim|n_inner|d_ff|d_inner|ffn_hidden_size|dim_ff|mlp_hidden_size", 48),
    (r"max_(position_embeddings|seq_len|sequence_length)|n_positions|n_ctx|seq_length|block_size|context_length|"
     r"max_target_positions", 64),
    (r"sliding_window|attention_window_size|sliding_window_size|window_size|local_window_size", 8),
    (r"attention_chunk_size|chunk_size|mamba_chunk_size", 16),
    (r"(num_(local_)?|n_routed_|moe_num_|num_routed_)experts|moe_num_experts|num_moe_experts", 4),
    (r"(num_experts_per_(tok|token)|moe_topk|moe_top_k|top_k_experts|moe_k|experts_per_token|num_selected_experts)", 2),
    (r"n_group|topk_group|num_expert_group", 1),
    (r"n_shared_experts|num_shared_experts|moe_num_shared_experts", 1),
    (r"first_k_dense_replace", 1),
    (r"q_lora_rank|kv_lora_rank|index_head_dim|o_lora_rank", 16),
    (r"qk_nope_head_dim|qk_rope_head_dim|v_head_dim|qk_head_dim", 8),
    (r"index_topk", 16),
    (r"index_n_heads", 2),
    (r"rotary_dim|d_head", 8),
    (r"state_size|mamba_d_state|ssm_state_size|d_state|time_step_rank|mamba_dt_rank", 8),
    (r"mamba_n_heads|mamba_num_heads", 8),
    (r"mamba_d_head|mamba_head_dim", 8),
    (r"mamba_n_groups|n_groups", 1),
    (r"lru_width|attention_hidden_size", 32),
    (r"linear_num_(key|value)_heads", 2),
    (r"linear_(key|value)_head_dim", 8),
    (r"hidden_size_per_layer_input|laurel_rank", 8),
    (r"vocab_size_per_layer_input", 101),
]  # fmt: skip
"""Names of config keys and what they become; keys that a config does not have, or has as None, are left alone."""


def small(config: dict[str, Any]) -> dict[str, Any]:
    """A config's mapping with small numbers, sub-configs too."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and key.endswith("config"):
            value = small(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            for pattern, number in SIZES:
                if re.fullmatch(pattern, key):
                    value = min(value, number)
                    break
        out[key] = value
    vocabulary = out.get("vocab_size")
    if isinstance(vocabulary, int):
        fallback = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        for key in [key for key in out if key.endswith(("token_id", "token_index"))]:
            if (isinstance(out[key], int) and out[key] >= vocabulary) or isinstance(out[key], list):
                out[key] = fallback.get(key, 3)
    heads = out.get("num_attention_heads")
    if isinstance(heads, int) and config.get("num_key_value_heads") == config.get("num_attention_heads"):
        out["num_key_value_heads"] = heads
    kinds = config.get("layer_types") or config.get("layers_block_type")
    if isinstance(kinds, list) and kinds:
        chosen = list(dict.fromkeys(kinds))
        chosen = chosen if len(chosen) > 1 else chosen * 2
        for key in ("layer_types", "layers_block_type"):
            if isinstance(config.get(key), list):
                out[key] = chosen
        for key in ("num_hidden_layers", "n_layers", "n_layer"):
            if key in out:
                out[key] = len(chosen)
    for key, value in config.items():  # other lists with one entry per layer
        layers = config.get("num_hidden_layers")
        if isinstance(value, list) and len(value) == layers and key not in ("layer_types", "layers_block_type"):
            out[key] = value[: out["num_hidden_layers"]]
    if "is_decoder" in out:
        out["is_decoder"] = True
    for key in ("num_experts_per_tok", "num_experts_per_token"):
        if key in out and out[key] is None:
            out[key] = 2
    if "causal" in out:
        out["causal"] = True
    out.pop("per_layer_config", None)
    return out


def build(kind: str) -> torch.nn.Module:
    """A tiny model of this model type, with new weights."""
    config_class = CONFIG_MAPPING[kind]
    plain = config_class().to_dict()
    config = config_class.from_dict(small(plain))
    if hasattr(config, "is_decoder"):
        config.is_decoder = True
    torch.manual_seed(0)
    with torch.device("meta"):
        size = sum(p.numel() for p in transformers.AutoModelForCausalLM.from_config(config).parameters())
    if size > MAX_PARAMETERS:
        raise ValueError(f"{size:,} parameters with small numbers")
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def audited(kind: str, out: Any) -> None:
    """In a process of its own: the findings of one model type."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    result: dict[str, Any] = {"kind": kind, "class": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind], "findings": {}}
    try:
        model = build(kind)
    except BaseException as error:
        out.send({**result, "not_built": f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"})
        return
    try:
        target = target_of(model, quick=True)
    except BaseException as error:
        out.send(
            {**result, "not_built": f"no forward pass: {type(error).__name__}: {' '.join(str(error).split())[:150]}"}
        )
        return
    result |= {"tolerance": target.rounding, "context": target.context}
    for name in COLUMNS[:-1]:
        finding = run_check(FORWARD if name == FORWARD.name else CHECKS[name], target, WALL_SECONDS)
        result["findings"][name] = finding.model_dump(include={"status", "detail", "measured", "tolerance", "where"})
        if name == FORWARD.name and finding.status != "pass":
            break
    else:
        result["findings"]["loss"] = loss_finding(model)
    out.send(result)


def loss_finding(model: torch.nn.Module) -> dict[str, Any]:
    try:
        assert_loss_is_mean(model)
    except BadInput as error:
        return {"status": "not applicable", "detail": str(error)}
    except AssertionError as error:
        return {"status": "fail", "detail": str(error)}
    except Exception as error:
        return {"status": "fail", "detail": f"it crashed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    return {"status": "pass", "detail": "the mean over all targets"}


KINDS: list[tuple[str, str, str, str]] = [
    ("causality", r"replacing the tokens|gradient", "sees later tokens", "sees_future"),
    ("causality", r"in training mode", "its loss sees the token that it scores", "unshifted_loss"),
    ("loss", r"is no mean", "its loss is not that of the next tokens", "unshifted_loss"),
    ("cache parity", r"^decoding token by token", "decoding token by token differs", "cache_beyond_window"),
    ("cache parity", r"^(decoding in chunks|(a )?prefill [io])", "decoding in chunks differs", "second_chunk"),
    ("cache parity", r"greedy generation for one prompt", "`generate` differs from forward", "generate_differs"),
    ("cache parity", r"padding on the left|in one batch", "left padding changes decoding", "left_padding"),
    ("position parity", r"on the left", "left padding changes the logits", "left_padding"),
]  # fmt: skip
"""(check, what its detail says, the kind of finding, the script in bench/transformers_findings that shows the kind)."""


def kinds_of(result: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The findings of a kind that was confirmed by hand, with figures, and the checks with others, which were not."""
    confirmed, others = [], []
    for name, finding in result["findings"].items():
        if finding["status"] != "fail":
            continue
        found = [kind for check, said, kind, _ in KINDS if check == name and re.search(said, finding["detail"])]
        if not found or finding["detail"].startswith("it crashed"):
            others.append(name)
            continue
        figure = "" if finding.get("measured") is None else f" ({finding['measured']:.2g})"
        confirmed.append(f"{found[0]}{figure}")
    if "prefix consistency" in others:  # it may explain all others, as a leak explains it
        if not any(kind.startswith("sees later tokens") for kind in confirmed):
            return [], [name for name, finding in result["findings"].items() if finding["status"] == "fail"]
        others.remove("prefix consistency")
    return confirmed, others


def page(path: Path) -> str:
    """The page of a file of results."""
    results = sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda r: r["class"].lower())
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    built = [result for result in results if not result.get("not_built")]
    rows, sound, unclear = [], [], []
    for result in built:
        confirmed, others = kinds_of(result)
        if confirmed:
            rows.append(f"| `{result['class']}` | {'; '.join(confirmed)} | {', '.join(others)} |")
        elif others:
            unclear.append(f"`{result['class']}` ({', '.join(others)})")
        else:
            sound.append(f"`{result['class']}`")
    not_built = [
        f"| `{r['class']}` | {r['not_built'].replace('|', ' ')[:100]} |" for r in results if r.get("not_built")
    ]
    scripts = [f"- {kind}: `python bench/transformers_findings/{script}.py`" for _, _, kind, script in KINDS]
    left = len(known) - len(results)
    return PAGE_TEXT.format(
        transformers=transformers.__version__,
        torch=torch.__version__.split("+")[0],
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        known=len(known),
        built=len(built),
        sound=len(sound),
        faulty=len(rows),
        unclear=len(unclear),
        not_built=len(not_built),
        left=f" {left} were not reached." if left else "",
        rows="\n".join(rows),
        scripts="\n".join(dict.fromkeys(scripts)),
        unclear_list=", ".join(unclear) or "None.",
        sound_list=", ".join(sound),
        not_built_rows="\n".join(not_built),
    )


PAGE_TEXT = """# The causal language models of transformers, audited

transformers {transformers}, torch {torch}, {date}, fp64 on a CPU. Written by `python bench/audit_transformers.py`.

Of {known} model types, {built} were built tiny from their default config, with new weights, and audited: causality,
prefix consistency, cache parity (with `generate`), position parity, and whether the loss is the mean over the next
tokens. {sound} pass all, {faulty} have findings, {unclear} have results that nobody confirmed, {not_built} could
not be built.{left}
Figures are differences in standard deviations of the logits; the limit is 1e-9.

A finding is about these classes with these configs. Some are the class's own definition (a prefix model attends to its
whole prompt); either way batched, cached or trained results differ from those of model(tokens).

## Findings

| class | finding | failed checks without a confirmed cause |
|---|---|---|
{rows}

Each kind is shown without Litmus by a short script:

{scripts}

## Not confirmed

A check failed in these classes and nobody has confirmed it yet: it may be the tiny config, or the audit.

{unclear_list}

## Passed

{sound_list}

## Not built

| class | why |
|---|---|
{not_built_rows}
"""


def sweep(kinds: list[str], jobs: int, path: Path) -> None:
    """Audit the kinds that the file has no result of, `jobs` at a time; results are appended as JSON lines."""
    done = {json.loads(line)["kind"] for line in path.read_text().splitlines()} if path.exists() else set()
    left, running = [kind for kind in kinds if kind not in done], []
    fork = multiprocessing.get_context("fork")
    while left or running:
        while left and len(running) < jobs:
            kind = left.pop(0)
            receiver, sender = fork.Pipe(duplex=False)
            process = fork.Process(target=audited, args=(kind, sender))
            process.start()
            sender.close()
            running.append((kind, process, receiver, time.monotonic()))
        time.sleep(0.2)
        for item in list(running):
            kind, process, receiver, started = item
            if not receiver.poll() and process.is_alive() and time.monotonic() - started < 2 * WALL_SECONDS:
                continue
            try:
                result = receiver.recv() if receiver.poll(1) else None
            except EOFError:
                result = None
            process.kill()
            process.join()
            running.remove(item)
            if result is None:
                ended = f"ended with exit code {process.exitcode}, or took {CPU_SECONDS} s"
                result = {
                    "kind": kind,
                    "class": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind],
                    "not_built": ended,
                    "findings": {},
                }
            with path.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(kind, result.get("not_built") or {k: f["status"] for k, f in result["findings"].items()}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=PAGE.with_suffix(".jsonl"))
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--page", action="store_true", help="write the page from the results, without an audit")
    parsed = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    print(datetime.now(UTC), torch.__version__, transformers.__version__)
    if parsed.page:
        PAGE.write_text(page(parsed.out), encoding="utf-8")
        return
    sweep(parsed.only or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), parsed.jobs, parsed.out)


if __name__ == "__main__":
    main()
