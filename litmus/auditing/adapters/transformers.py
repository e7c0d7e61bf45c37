"""A causal language model of transformers: masks, positions, caches and greedy generation."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from litmus.auditing.adapters.module import CallCache, ForeignModel, ModuleTarget
from litmus.auditing.check import max_difference
from litmus.auditing.target import NewCache, generator
from litmus.nn import Batch


def is_transformers_model(source: object) -> bool:
    """Whether this is a model of transformers, without importing that package."""
    package = sys.modules.get("transformers")
    return package is not None and isinstance(source, package.PreTrainedModel)


class TransformersModel(ForeignModel):
    """A transformers model with the calls of a Decoder."""

    def options(self, batch: Batch, cache: CallCache | None) -> dict[str, Any]:
        """With padding, also positions that do not count it, as `generate` gives them."""
        options = super().options(batch, cache)
        if self.calls.position_ids and (mask := options.get(self.calls.padding_mask)) is not None:
            options["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -batch.tokens.shape[1] :]
        return options


class TransformersTarget(ModuleTarget):
    """A model of transformers under audit. Its texts have no special tokens; padding is its own padding token."""

    wrapper = TransformersModel
    module: nn.Module

    def learn_calls(self, vocab_size: int | None) -> None:
        self.config = self.module.config.get_text_config(decoder=True)  # type: ignore[union-attr, operator]
        pad = getattr(self.config, "pad_token_id", None)
        self.pad = pad if isinstance(pad, int) and pad >= 0 else 0
        super().learn_calls(vocab_size)
        if self.module.can_generate():  # type: ignore[operator]
            del self.missing["generate"]
        if not self.lacks("padding mask"):
            self.learn_padding()

    def shifts_labels(self) -> bool:
        """By convention; a class that does not is one whose loss is wrong."""
        return True

    def learn_padding(self) -> None:
        """Whether padding needs explicit positions, as `generate` gives them, and works in fp64."""
        differences = {}
        for dtype in (self.dtype, torch.float32):
            for explicit in (self.calls.position_ids, False):
                model = self.build_model(dtype=dtype)
                model.calls = replace(self.calls, position_ids=explicit)
                differences[dtype, explicit] = self.effect_of_padding(model)
            if min(differences.values()) < torch.inf:
                break
        best = min(differences, key=lambda key: differences[key])
        if self.casts and differences[best] < torch.inf:
            self.dtype = best[0]  # some mask with a number that overflows in fp64
        self.calls = replace(self.calls, position_ids=best[1])

    def effect_of_padding(self, model: ForeignModel) -> float:
        """The largest difference that padding on the left makes to the logits of a text; inf if it breaks the model."""
        text = self.tokens(1, 6)
        row = torch.cat((self.padding(1, 3), text), 1)
        valid = torch.arange(9)[None] >= 3
        try:
            with torch.no_grad():
                return max_difference(model(Batch(row, padding_mask=valid))[:, 3:], model(text))
        except Exception:
            return torch.inf

    @cached_property
    def plain(self) -> Tensor:
        """All tokens but the special ones, which a model may treat otherwise."""
        names = [name for name in vars(self.config) if name.endswith(("_token_id", "_token_index"))]
        special = {value for name in names if isinstance(value := getattr(self.config, name), int)}
        return torch.tensor([token for token in range(self.vocab_size) if token not in {*special, self.pad}])

    @property
    def distinct_tokens(self) -> int:
        return len(self.plain)

    def tokens(self, batch: int, length: int, seed: int = 0) -> Tensor:
        return self.plain[torch.randint(len(self.plain), (batch, length), generator=generator(seed, batch, length))]

    def other_tokens(self, tokens: Tensor, seed: int = 1) -> Tensor:
        step = torch.randint(1, len(self.plain), tokens.shape, generator=generator(seed, *tokens.shape))
        return self.plain[(torch.searchsorted(self.plain, tokens) + step) % len(self.plain)]

    def few_tokens(self, numbers: Tensor) -> Tensor:
        return self.plain[numbers % len(self.plain)]

    def padding(self, batch: int, length: int, seed: int = 0) -> Tensor:
        return torch.full((batch, length), self.pad)

    def other_caches(self) -> Mapping[str, NewCache]:
        """A `StaticCache`, where the model's class says that it can be compiled, which takes one."""
        import transformers

        def static(rows: int, capacity: int) -> CallCache:
            cache = self.model.new_cache(rows, capacity)
            cache.past = transformers.StaticCache(config=self.config, max_cache_len=capacity)
            return cache

        return {"a StaticCache": static} if getattr(self.module, "_can_compile_fullgraph", False) else {}

    def generate(self, prompts: Sequence[Tensor], count: int) -> list[Tensor]:
        """`count` tokens after each prompt (T,), greedily, from `model.generate` with padding on the left."""
        import transformers

        width = max(len(prompt) for prompt in prompts)
        rows = torch.stack([torch.cat((self.padding(1, width - len(p))[0], p)) for p in prompts])
        valid = torch.stack([torch.arange(width) >= width - len(p) for p in prompts])
        module: Any = self.model.module
        module.generation_config = transformers.GenerationConfig(pad_token_id=self.pad)
        with self.model.exactly():
            texts = module.generate(rows, attention_mask=valid.long(), max_new_tokens=count, do_sample=False)
        return list(texts[:, width:])
