"""Show what the audit of transformers finds by a few plain calls per class, without a check of Litmus.

    python bench/confirm_transformers.py     # continues where it stopped

A text of 12 tokens, longer than the sliding windows of the small models (8). Each figure is the largest difference of
two results that should be equal, in standard deviations of the logits, in fp32; above `LIMIT` it is no rounding.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from audit_transformers import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, build, row, rows_of
from torch import Tensor
from torch.nn.functional import cross_entropy

CONFIRMED = Path(__file__).parents[1] / "docs" / "results" / "transformers_confirmed.jsonl"
LIMIT = 1e-3
TOKENS, PADDING, SECONDS = 12, 3, 120


class Model:
    """A tiny model of one class, all weights perturbed, and a text without special tokens."""

    def __init__(self, kind: str) -> None:
        self.model = build(kind)
        self.config = self.model.config.get_text_config(decoder=True)
        random = torch.Generator().manual_seed(0)
        for parameter in self.model.parameters():
            scale = 0.1 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5
            parameter.data += scale * torch.randn(parameter.shape, generator=random)
        special = {value for name, value in vars(self.config).items() if name.endswith("_token_id")}
        plain = torch.tensor([token for token in range(4, 100) if token not in special])
        self.text = plain[torch.randperm(len(plain), generator=random)[: TOKENS + 1]][None]
        self.text, self.spare = self.text[:, :TOKENS], self.text[:, TOKENS:]
        self.takes = inspect.signature(self.model.forward).parameters
        self.pad = self.config.pad_token_id if isinstance(getattr(self.config, "pad_token_id", None), int) else 0
        self.logits = self.model(self.text).logits
        self.std = float(self.logits.std())

    def difference(self, logits: Tensor, positions: slice = slice(None)) -> float:
        """The largest difference to the logits of the text, in their standard deviations."""
        return float((logits - self.logits[:, positions]).abs().max()) / self.std

    def sees_later_tokens(self) -> float:
        other = torch.cat((self.text[:, :-1], self.spare), 1)
        return self.difference(self.model(other).logits[:, :-1], slice(-1))

    def loss_is_not_of_the_next_tokens(self) -> float:
        loss = self.model(self.text, labels=self.text).loss
        return abs(float(loss - cross_entropy(self.logits[0, :-1], self.text[0, 1:]))) / self.std

    def decoding_differs(self) -> float:
        return self.decoded([1] * TOKENS)

    def decoding_in_chunks_differs(self) -> float:
        return self.decoded([5, 4, 3])

    def decoding_with_a_static_cache_differs(self) -> float | None:
        if not self.model._can_compile_fullgraph:
            return None
        cache = transformers.StaticCache(config=self.config, max_cache_len=TOKENS + 4)
        return self.decoded([5, *[1] * (TOKENS - 5)], cache)

    def decoding_after_reordering_differs(self) -> float | None:
        """Two texts change places in the cache, as in beam search, before the last token."""
        other = self.text.flip(1)
        texts = torch.cat((self.text, other))
        name = next((name for name in ("past_key_values", "cache_params") if name in self.takes), "")
        cache = self.model(texts[:, :-1], use_cache=True)[name] if name else None
        if not hasattr(cache, "reorder_cache"):
            return None
        cache.reorder_cache(torch.tensor([1, 0]))
        logits = self.model(texts.flip(0)[:, -1:], use_cache=True, **{name: cache}).logits[:, -1]
        return float((logits.flip(0) - self.model(texts).logits[:, -1]).abs().max()) / self.std

    def decoded(self, sizes: list[int], cache: Any = None) -> float | None:
        name = next((name for name in ("past_key_values", "cache_params") if name in self.takes), "")
        if not name:
            return None
        logits = []
        for chunk in self.text.split(sizes, 1):
            out = self.model(chunk, use_cache=True, **({} if cache is None else {name: cache}))
            cache = out[name]
            logits.append(out.logits)
        return self.difference(torch.cat(logits, 1))

    def left_padding_changes_the_logits(self) -> float | None:
        """The smaller one of the differences with explicit positions and without."""
        if "attention_mask" not in self.takes:
            return None
        tokens = torch.cat((torch.full((1, PADDING), self.pad), self.text), 1)
        mask = (torch.arange(TOKENS + PADDING) >= PADDING).long()[None]
        explicit = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if "position_ids" in self.takes else {}
        found = [self.model(tokens, attention_mask=mask, **more).logits[:, PADDING:] for more in ({}, explicit)]
        return min(map(self.difference, found))

    def generate_differs_from_forward(self) -> float | None:
        """How far the tokens of `generate` lie below the largest logit of the forward pass."""
        if not self.model.can_generate():
            return None
        self.model.generation_config = transformers.GenerationConfig(pad_token_id=self.pad)
        mask, count = torch.ones_like(self.text), 5
        texts = self.model.generate(self.text, attention_mask=mask, max_new_tokens=count, do_sample=False)
        logits = self.model(texts).logits[:, TOKENS - 1 : -1]
        chosen = logits.gather(-1, texts[:, TOKENS:, None])[..., 0]
        return float((logits.amax(-1) - chosen).max()) / self.std


CLAIMS: dict[str, Callable[[Model], float | None]] = {
    "sees later tokens": Model.sees_later_tokens,
    "its loss is not that of the next tokens": Model.loss_is_not_of_the_next_tokens,
    "decoding token by token differs": Model.decoding_differs,
    "decoding in chunks differs": Model.decoding_in_chunks_differs,
    "decoding with a StaticCache differs": Model.decoding_with_a_static_cache_differs,
    "decoding after rows were reordered differs": Model.decoding_after_reordering_differs,
    "left padding changes the logits": Model.left_padding_changes_the_logits,
    "`generate` differs from forward": Model.generate_differs_from_forward,
}


def figures(kind: str, out: Any) -> None:
    """In a process of its own: the figure of each claim, None where a class has no such call, or what it raises."""
    torch.set_num_threads(1)
    found: dict[str, float | str | None] = {}
    with torch.no_grad():
        try:
            model = Model(kind)
        except BaseException as error:
            out.send({"not_built": said(error)})
            return
        for name, claim in CLAIMS.items():
            try:
                found[name] = claim(model)
            except Exception as error:
                found[name] = said(error)
    out.send({"figures": found})


def said(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=CONFIRMED)
    parser.add_argument("--only", nargs="*")
    parsed = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    done = {row["kind"] for row in rows_of(parsed.out)}
    build("llama")  # what the processes share is imported once
    fork = multiprocessing.get_context("fork")
    for kind in parsed.only or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        if kind in done:
            continue
        receiver, sender = fork.Pipe(duplex=False)
        process = fork.Process(target=figures, args=(kind, sender))
        process.start()
        sender.close()
        found = {"not_built": f"its process died, or gave no result within {SECONDS} s"}
        with contextlib.suppress(EOFError):
            found = receiver.recv() if receiver.poll(SECONDS) else found
        process.kill()
        process.join()
        with parsed.out.open("a") as file:
            file.write(json.dumps({**row(kind), **found}) + "\n")


if __name__ == "__main__":
    main()
