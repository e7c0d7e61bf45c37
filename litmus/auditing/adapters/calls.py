"""How a foreign forward pass is called, by the names of its parameters and trial calls, and what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from litmus.nn import Batch

LABELS = "labels"
"""By convention of transformers these are the tokens of the text, and the model shifts them itself."""

TARGET_NAMES = ("targets", "target", LABELS, "y")
CACHE_NAMES = ("past_key_values", "past", "past_kv", "kv_cache", "cache_params", "cache")
IGNORED_VALUES = (-100, -1)
"""Targets that losses skip: torch's default and nanoGPT's."""


@dataclass(frozen=True)
class Calls:
    """The names of a forward pass's parameters for targets, a cache and a padding mask; "" where it takes none.

    logits_need_targets: without targets it returns the logits of the last position only. ignored: the target that its
    loss skips; None if it skips none. shifts: the targets are the tokens of the text, and its loss
    takes each as the target of the token before.
    """

    targets: str = ""
    cache: str = ""
    use_cache: bool = False
    padding_mask: str = ""
    position_ids: bool = False
    logits_need_targets: bool = False
    ignored: int | None = None
    shifts: bool = False

    @classmethod
    def of(cls, forward: Callable[..., Any]) -> Calls:
        """What the parameters' names say."""
        try:
            names = set(inspect.signature(forward).parameters)
        except (TypeError, ValueError):  # a builtin has no signature
            return cls()
        return cls(
            targets=next((name for name in TARGET_NAMES if name in names), ""),
            cache=next((name for name in CACHE_NAMES if name in names), ""),
            use_cache="use_cache" in names,
            padding_mask="attention_mask" if "attention_mask" in names else "",
            position_ids="position_ids" in names,
        )


class CallCache:
    """What the last call returned as its cache, and the padding mask of all tokens so far.

    reordered: the model's function from such a cache and row numbers to the cache of these rows, if it has one.
    """

    def __init__(self, rows: int, capacity: int, reordered: Callable[[Any, Tensor], Any] | None = None) -> None:
        self.rows, self.capacity, self.reordered = rows, capacity, reordered
        self.past: Any = None
        self.padding_mask: Tensor | None = None

    def reorder(self, rows: Tensor) -> None:
        """Keep the rows of these numbers (R,), in this order."""
        if hasattr(self.past, "reorder_cache"):
            self.past.reorder_cache(rows)
        else:
            assert self.reordered is not None
            self.past = self.reordered(self.past, rows)
        self.padding_mask = None if self.padding_mask is None else self.padding_mask[rows]

    def extended(self, batch: Batch) -> Tensor | None:
        """The padding mask (B, S) of all tokens so far and those of the batch; None where there is no padding."""
        new = torch.ones_like(batch.tokens, dtype=torch.bool) if batch.padding_mask is None else batch.padding_mask
        seen = new if self.padding_mask is None else torch.cat((self.padding_mask, new), 1)
        self.padding_mask = seen
        return None if seen.all() else seen


def logits_of(output: Any, tokens: Tensor) -> Any:
    """The logits (B, T, V) in what a forward pass returned for tokens (B, T); the whole of it if there are none."""
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif isinstance(output, (tuple, list)):
        floats = (item for item in output if isinstance(item, Tensor) and item.is_floating_point() and item.ndim >= 2)
        output = next(floats, output)
    elif not isinstance(output, Tensor):
        output = getattr(output, "logits", output)
    if isinstance(output, Tensor) and output.ndim == 2 and len(output) == tokens.numel() != len(tokens):
        return output.unflatten(0, tuple(tokens.shape))  # some flatten them for the cross-entropy
    return output


def loss_of(output: Any) -> Any:
    """The loss, a single number, in what a forward pass returned; None if there is none."""
    if isinstance(output, Mapping):
        return output.get("loss")
    if isinstance(output, (tuple, list)):
        return next((item for item in output if isinstance(item, Tensor) and item.numel() == 1), None)
    return output if isinstance(output, Tensor) and output.numel() == 1 else getattr(output, "loss", None)


def cache_of(output: Any) -> Any:
    """The cache in what a forward pass returned; None if there is none."""
    if isinstance(output, (tuple, list)):
        rest = [
            item for item in output[1:] if item is not None and not (isinstance(item, Tensor) and item.numel() == 1)
        ]
        return rest[-1] if rest else None
    take = output.get if isinstance(output, Mapping) else lambda name: getattr(output, name, None)
    return next((found for name in CACHE_NAMES if (found := take(name)) is not None), None)


def token_embedding(module: nn.Module, tokens: Tensor, call: Callable[[], object]) -> str:
    """The name of the first module that maps tokens (B, T) to vectors (B, T, D) during the call; "" if none does."""
    found: list[str] = []

    def hook_for(name: str) -> Callable[[nn.Module, tuple[object, ...], dict[str, object], object], None]:
        def hook(_: nn.Module, given: tuple[object, ...], named: dict[str, object], output: object) -> None:
            first = next((item for item in (*given, *named.values()) if isinstance(item, Tensor)), None)
            if first is None or first.is_floating_point() or first.shape != tokens.shape:
                return
            if isinstance(output, Tensor) and output.shape[:2] == tokens.shape and torch.equal(first, tokens):
                found.append(name)

        return hook

    handles = [m.register_forward_hook(hook_for(name), with_kwargs=True) for name, m in module.named_modules() if name]
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""
