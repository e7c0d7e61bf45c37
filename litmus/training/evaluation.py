"""The score of a model: bits per byte and nats per token over held-out tokens, each scored exactly once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict
from torch import Tensor

from litmus.data import TokenData, document_ids, held_out_windows
from litmus.data.windows import check_one_window
from litmus.errors import BadInput
from litmus.nn import RouterStats

FIGURE_TOKENS = 4096
"""About how many tokens the figures of layers and routers are over."""


def _by_layer(raw: Any) -> Any:
    """Older files have a list, which can only be read as that of the layers from 0 on."""
    return dict(enumerate(raw)) if isinstance(raw, list) else raw


T = TypeVar("T")
ByLayer = Annotated[dict[int, T], BeforeValidator(_by_layer)]
"""One figure for each layer that has it, by the layer's number from 0."""


class Evaluation(BaseModel):
    """What a model scored on the first `tokens` tokens of the held-out split, `bytes` bytes of text.

    nats_per_token: mean negative log-likelihood. bits_per_byte: sum of nats / (ln 2 · bytes), which unlike the former
    can be compared between tokenizers. loss_by_position: mean nats at each place of a window; later places have
    more context. attention_entropy: mean entropy of the attention weights in nats, by layer. layer_figures: what else
    layers tell of themselves, by the names in litmus.nn.attention.stats. routing: how evenly the router of each layer
    of experts spread its tokens. These three have a figure for each layer, from 0, that has one, over about 4096
    tokens, in windows from all over the held-out split.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    nats_per_token: float
    bits_per_byte: float
    perplexity: float
    tokens: int
    bytes: int
    loss_by_position: list[float]
    attention_entropy: ByLayer[float] | None = None
    layer_figures: dict[str, ByLayer[float]] = {}
    routing: ByLayer[RouterStats] | None = None


@torch.no_grad()
def evaluate(
    model: Any,
    data: TokenData,
    *,
    context: int,
    batch: int,
    limit_tokens: int | None = None,
    limit_bytes: int | None = None,
    isolate_documents: bool = False,
) -> Evaluation:
    """Score `model` in evaluation mode over the held-out split in non-overlapping windows of `context` tokens.

    `limit_tokens` or `limit_bytes` end it early; otherwise every held-out token counts. Neither the model's mode nor
    its parameters are changed.
    """
    if limit_bytes is not None:
        limit_tokens = tokens_within(data, limit_bytes)
    device = next(model.parameters()).device
    tokenizer = data.tokenizer
    given = () if tokenizer.prefix == (tokenizer.end,) else tokenizer.prefix
    nats = torch.zeros(context, dtype=torch.float64)
    scored = torch.zeros(context, dtype=torch.int64)
    text_bytes = 0
    was_training = model.training
    model.eval()
    try:
        windows = held_out_windows(
            data.held_out,
            context=context,
            batch=batch,
            limit_tokens=limit_tokens,
            prefix=tokenizer.window_prefix,
            given=given,
        )
        for inputs, targets in windows:
            counted = targets != -100
            text_bytes += int(data.text_bytes(targets[counted].numpy(), inputs[counted].numpy()).sum())
            inputs, targets = inputs.to(device), targets.to(device)
            documents = document_ids(inputs, tokenizer.prefix[0]) if isolate_documents else None
            losses = model.token_losses(inputs, targets, documents=documents).cpu()  # (B, T)
            width = losses.shape[1]
            nats[:width] += losses.double().sum(0)
            scored[:width] += counted.sum(0)
        sample = _sample(data.held_out, context, int(scored.sum())).to(device)
        figures, routing = model.observe(sample)
    finally:
        model.train(was_training)
    tokens = int(scored.sum())
    if not text_bytes:
        raise BadInput(
            f"the held-out split holds {tokens} tokens of text to score; give a larger corpus or held_out share"
        )
    total = float(nats.sum())
    reached = scored > 0
    return Evaluation(
        nats_per_token=total / tokens,
        bits_per_byte=total / (math.log(2) * text_bytes),
        perplexity=math.exp(min(total / tokens, 700.0)),
        tokens=tokens,
        bytes=text_bytes,
        loss_by_position=(nats[reached] / scored[reached]).tolist(),
        attention_entropy=figures.pop("attention_entropy", None),
        layer_figures=figures,
        routing=routing or None,
    )


def check_scorable(data: TokenData, context: int, limits: Iterable[int | None]) -> None:
    """BadInput unless the held-out split has a window of `context` tokens, and text to score within each limit."""
    check_one_window(data.held_out, context, "held-out")
    for limit in limits:
        # Only the end token has no bytes, and there is text between any two of them.
        targets = np.asarray(data.held_out[1 : 1 + (4 if limit is None else min(limit, 4))], dtype=np.int64)
        if not data.token_bytes[targets].any():
            raise BadInput(
                f"the first {len(targets)} held-out tokens hold no text to score; give a larger corpus or held_out "
                f"share, or score more tokens"
            )


def tokens_within(data: TokenData, limit_bytes: int) -> int:
    """How many held-out targets it takes to score at most `limit_bytes` bytes of text."""
    # There is text between any two documents, and only the tokens that separate them have no bytes.
    reach = 2 + (1 + len(data.tokenizer.between)) * limit_bytes
    targets = np.asarray(data.held_out[1:reach], dtype=np.int64)
    ends = np.cumsum(data.text_bytes(targets, np.asarray(data.held_out[: reach - 1][: len(targets)], dtype=np.int64)))
    tokens = int(np.searchsorted(ends, limit_bytes, side="right"))
    if tokens == 0 or ends[tokens - 1] == 0:
        raise BadInput(f"{limit_bytes} bytes are less than the first held-out token; ask for more")
    return tokens


def _sample(tokens: np.ndarray, context: int, scored: int) -> Tensor:
    """(B, T) of the windows without padding that were scored, about FIGURE_TOKENS tokens spread evenly over them."""
    width = min(context, scored)
    windows = np.asarray(tokens[: scored - scored % width]).reshape(-1, width)
    rows = min(len(windows), max(1, FIGURE_TOKENS // width))
    return torch.from_numpy(windows[np.linspace(0, len(windows) - 1, rows).round().astype(int)].astype(np.int64))
