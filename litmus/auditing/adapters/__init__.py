"""Adapters: what a model of each kind can be asked, behind the calls of a Decoder."""

from __future__ import annotations

from typing import Any

from litmus.auditing.adapters.decoder import DecoderTarget
from litmus.auditing.adapters.module import ModuleTarget
from litmus.auditing.adapters.transformers import TransformersTarget, is_transformers_model
from litmus.auditing.target import AuditTarget
from litmus.errors import BadInput
from litmus.model import Decoder, Recipe


def target_of(source: Any, *, quick: bool, vocab_size: int | None = None, context: int | None = None) -> AuditTarget:
    """The target for a Recipe, a Decoder, any other `nn.Module`, or a function from tokens to logits."""
    if isinstance(source, (Recipe, Decoder)):
        return DecoderTarget(source, quick=quick)
    if not callable(source):
        raise BadInput(f"{type(source).__name__} is no model, module or function from tokens to logits")
    kind = TransformersTarget if is_transformers_model(source) else ModuleTarget
    return kind(source, quick=quick, vocab_size=vocab_size, context=context)
