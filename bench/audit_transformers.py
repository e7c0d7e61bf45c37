"""Audit every causal-LM class of the installed transformers that can be built tiny: docs/results/transformers_audit.md.

    python bench/audit_transformers.py --jobs 2                         # continues where it stopped
    python bench/confirm_transformers.py                                # the same without Litmus
    python bench/transformers_page.py                                   # writes the page

Each class is built from its default config with small numbers, with new weights, in a process of its own with a limit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import resource
import time
import warnings
from collections.abc import Iterator
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
from litmus.interop.hf.small_config import small_config
from litmus.testing import assert_loss_is_mean

ROWS = Path(__file__).parents[1] / "docs" / "results" / "transformers_audit.jsonl"
COLUMNS = ("forward pass", "causality", "prefix consistency", "cache parity", "position parity", "loss")
AUDIT = 2
"""Version of the audit in each row: from 2 on with a StaticCache and reordered rows, and experts in fp64."""

CPU_SECONDS, WALL_SECONDS = 90, 1500
MAX_PARAMETERS = 8_000_000

FILLED = {
    "head_dim": 8,
    "num_key_value_heads": 2,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "attn_layer_indices": [1],
    "layer_types": ["conv", "full_attention"],
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
    "default_language": "en_XX",
    "pad_token_id": 0,
}
"""What a default config lacks although its class needs it."""

CHANGED = {"is_decoder": True, "causal": True, "axial_pos_embds": False, "hash_seed": 0}
"""What makes a language model of a class that is also something else."""


def variants(plain: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Configs to try: with small numbers, with the missing values filled in, with an attention layer at the end."""
    config = small_config(plain)
    config |= {key: value for key, value in CHANGED.items() if key in config}
    yield config
    filled = with_missing(config)
    yield filled
    if isinstance(kinds := filled.get("layer_types"), list):
        yield filled | {"layer_types": [*kinds[:-1], "full_attention"]}


def with_missing(config: dict[str, Any]) -> dict[str, Any]:
    """The config with `FILLED` values in place of None, in its sub-configs too."""
    return {
        key: with_missing(value)
        if isinstance(value, dict) and key.endswith("config")
        else FILLED.get(key)
        if value is None
        else value
        for key, value in config.items()
    }


def build(kind: str) -> torch.nn.Module:
    """A tiny model of this model type, with new weights: of the first config that gives logits for a text."""
    config_class, said = CONFIG_MAPPING[kind], None
    for variant in variants(config_class().to_dict()):
        try:
            return build_from(config_class.from_dict(variant))
        except Exception as error:
            said = said or error
    assert said is not None
    raise said


def build_from(config: Any) -> torch.nn.Module:
    """The model of a config, once it was seen to be small and to give logits."""
    if hasattr(config, "is_decoder"):
        config.is_decoder = True
    torch.manual_seed(0)
    with torch.device("meta"):
        size = sum(p.numel() for p in transformers.AutoModelForCausalLM.from_config(config).parameters())
    if size > MAX_PARAMETERS:
        raise ValueError(f"{size:,} parameters with small numbers")
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model(torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]]))
    return model


def audited(kind: str, out: Any) -> None:
    """In a process of its own: send the findings of one model type, once more after each check."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    result = row(kind) | {"audit": AUDIT, "findings": {}}
    try:
        model = build(kind)
        target = target_of(model, quick=True)
    except BaseException as error:
        out.send({**result, "not_built": f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"})
        return
    result |= {"tolerance": target.rounding, "context": target.context}
    for name in COLUMNS[:-1]:
        finding = run_check(FORWARD if name == FORWARD.name else CHECKS[name], target, WALL_SECONDS)
        kept = {"status", "detail", "measured", "where"} if finding.status == "fail" else {"status"}
        result["findings"][name] = finding.model_dump(include=kept)
        out.send(result)
        if name == FORWARD.name and finding.status != "pass":
            return
    result["findings"]["loss"] = loss_finding(model)
    out.send(result)


def row(kind: str) -> dict[str, Any]:
    """The line of one model type, without what was found."""
    return {
        "kind": kind,
        "class": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind],
        "transformers": transformers.__version__,
        "torch": torch.__version__.split("+")[0],
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


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


def sweep(kinds: list[str], jobs: int, path: Path) -> None:
    """Audit the kinds that the file has no row of, `jobs` at a time; a row is appended as each is done."""
    left, running = [kind for kind in kinds if kind not in {row["kind"] for row in rows_of(path)}], []
    for kind in ("llama", "bart", "mamba", "mixtral"):  # what the processes share is imported once
        build(kind)
    fork = multiprocessing.get_context("fork")
    while left or running:
        while left and len(running) < jobs:
            receiver, sender = fork.Pipe(duplex=False)
            process = fork.Process(target=audited, args=(left[0], sender))
            process.start()
            sender.close()
            running.append((row(left.pop(0)) | {"audit": AUDIT, "findings": {}}, process, receiver, time.monotonic()))
        time.sleep(0.2)
        for item in list(running):
            result, process, receiver, started = item
            ended = not process.is_alive()
            with contextlib.suppress(EOFError):
                while receiver.poll():
                    result.update(receiver.recv())
            if not ended and time.monotonic() - started < 5 * WALL_SECONDS:
                continue
            process.kill()
            process.join()
            running.remove(item)
            if process.exitcode:
                result["unfinished"] = f"ended by exit code {process.exitcode}, or after {CPU_SECONDS} s of CPU time"
            with path.open("a") as file:
                file.write(json.dumps(result) + "\n")
            found = {name: finding["status"] for name, finding in result["findings"].items()}
            print(result["kind"], result.get("not_built", ""), result.get("unfinished", ""), found, flush=True)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that belong to the installed version of transformers; of two of a kind, the later."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return list({row["kind"]: row for row in rows if row["transformers"] == transformers.__version__}.values())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROWS)
    parser.add_argument("--only", nargs="*")
    parsed = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    print(datetime.now(UTC), torch.__version__, transformers.__version__)
    sweep(parsed.only or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), parsed.jobs, parsed.out)


if __name__ == "__main__":
    main()
