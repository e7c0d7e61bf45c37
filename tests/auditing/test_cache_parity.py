"""Cache parity: models whose decoding is another model than their training."""

from dataclasses import replace

import pytest
import torch

from litmus.nn import Attention
from litmus.nn.core.forward_context import ForwardContext

ONLY = ("cache parity",)


class RotatesAtZero(Attention):
    """A decoded query stands at position 0: only its own rotation is wrong."""

    def forward(self, x, ctx):
        if ctx.cache is None or x.shape[1] > 1:
            return super().forward(x, ctx)
        rotation, self.rotation = self.rotation, None
        try:
            return super().forward(x, ctx)
        finally:
            self.rotation = rotation


def test_a_model_that_decodes_wrongly_fails_this_check_alone(small, mixer):
    report = small(mixer=mixer(RotatesAtZero))
    assert [finding.name for finding in report.failed] == ["cache parity"]
    assert report.mark() == "fails audit: decodes differently than it was trained"
    assert report["cache parity"].where == "first at position 1, layer 0 of 0..1, mixer (RotatesAtZero)"


class ForgetsItsPrefill(Attention):
    def forward(self, x, ctx):
        y = super().forward(x, ctx)
        if ctx.cache is not None and x.shape[1] > 1:
            ctx.cache["k"].zero_()
            ctx.cache["v"].zero_()
        return y


def test_a_prompt_that_does_not_matter_is_the_first_thing_said(small, mixer):
    finding = small(only=ONLY, mixer=mixer(ForgetsItsPrefill))["cache parity"]
    assert finding.mark == "decoding ignores the prompt" and finding.measured == 0


class LeaksWithinAChunk(Attention):
    def forward(self, x, ctx):
        y = super().forward(x, ctx)
        return y + x[:, -1:] if ctx.cache is not None and x.shape[1] > 1 else y


class LeaksWithinLateChunks(Attention):
    """Right for the first chunk of a prompt; a second one sees its own last token."""

    def forward(self, x, ctx):
        y = super().forward(x, ctx)
        return y + x[:, -1:] if ctx.cache is not None and x.shape[1] > 1 and ctx.kv_len > x.shape[1] else y


class ReadsPadding(Attention):
    """Takes every slot in use for real, also those of shorter rows."""

    def forward(self, x, ctx):
        if ctx.cache is None or ctx.padding_mask is None:
            return super().forward(x, ctx)
        whole = ForwardContext(ctx.positions, None, None, None, ctx.cache, ctx.kv_len)
        return super().forward(x, whole)


class OneLengthForAllRows(Attention):
    """Writes and reads every row where the first one stands."""

    def forward(self, x, ctx):
        if ctx.cache is None or ctx.start_pos is not None or ctx.padding_mask is not None:
            return super().forward(x, ctx)
        positions = ctx.positions[:1].expand_as(ctx.positions)
        return super().forward(x, ForwardContext(positions, None, None, None, ctx.cache, ctx.kv_len))


class KeepsTheLastText(Attention):
    """A state that starts anew only when the whole cache does."""

    def new_cache(self, batch, capacity, *, device, dtype):
        buffers = super().new_cache(batch, capacity, device=device, dtype=dtype)
        self.seen = torch.zeros(batch, 1, 1, device=device, dtype=dtype)
        return buffers

    def forward(self, x, ctx):
        y = super().forward(x, ctx)
        total = (
            x.sum(-1, keepdim=True)
            if ctx.padding_mask is None
            else (x * ctx.padding_mask[..., None]).sum(-1, keepdim=True)
        )
        if ctx.cache is None:
            if ctx.document_ids is not None or ctx.padding_mask is not None:
                return y
            return y + total.cumsum(1)
        sums = self.seen + total.cumsum(1)
        self.seen = sums[:, -1:]
        return y + sums


@pytest.mark.parametrize(
    "faulty", [LeaksWithinAChunk, LeaksWithinLateChunks, ReadsPadding, OneLengthForAllRows, KeepsTheLastText]
)
def test_decoding_that_differs_from_the_full_pass_is_caught(small, mixer, faulty):
    finding = small(only=ONLY, mixer=mixer(faulty))["cache parity"]
    assert (finding.status, finding.mark) == ("fail", "decodes differently than it was trained")


class DecodesWronglyPastTokenHundred(Attention):
    def forward(self, x, ctx):
        y = super().forward(x, ctx)
        return y if ctx.cache is None else y * (1 + (ctx.positions > 100)[..., None])


def test_a_cache_that_breaks_past_a_block_edge_is_caught(small, mixer):
    report = small(only=ONLY, mixer=mixer(DecodesWronglyPastTokenHundred))
    assert "past block edges" in report["cache parity"].detail
    assert report["cache parity"].where.startswith("first at position 101, layer 0")


class CountsItself(Attention):
    """Rotates keys and queries by a position that the layer counts, not the cache."""

    seen = 0

    def forward(self, x, ctx):
        if ctx.cache is not None:
            self.seen = x.shape[1] if not int(ctx.positions.max() - x.shape[1] + 1) else self.seen + x.shape[1]
            ctx = replace(ctx, positions=ctx.positions - ctx.positions.max() + self.seen - 1)
        return super().forward(x, ctx)


def test_a_position_that_is_kept_outside_the_cache_is_found_by_two_texts_in_turns(small, mixer):
    finding = small(only=ONLY, mixer=mixer(CountsItself))["cache parity"]
    assert finding.detail.startswith("decoding two texts in turns differs")


class PageTable(Attention):
    """Tokens before the last page of 16 are read by the number of the row that wrote them."""

    def new_cache(self, batch, capacity, *, device, dtype):
        cache = super().new_cache(batch, capacity, device=device, dtype=dtype)
        return {**cache, "row": torch.arange(batch, device=device)[:, None].repeat(1, capacity)}

    def forward(self, x, ctx):
        if ctx.cache is not None:
            page = ctx.positions.max() // 16 * 16
            ctx.cache["row"][:, page:] = torch.arange(len(x), device=x.device)[:, None]
            x = x + 0.1 * (ctx.cache["row"][:, :1] - torch.arange(len(x), device=x.device)[:, None])[..., None]
        return super().forward(x, ctx)


def test_rows_that_are_moved_after_whole_pages_are_found(small, mixer):
    finding = small(only=ONLY, mixer=mixer(PageTable))["cache parity"]
    assert "decoding after rows were repeated and dropped differs" in finding.detail


class PacksItsWeights(Attention):
    """Decodes with a copy of weights that it made at the first token."""

    packed = None

    def forward(self, x, ctx):
        y = super().forward(x, ctx)
        if ctx.cache is None or x.shape[1] > 1:
            return y @ self.out.weight.T
        if self.packed is None or self.packed.dtype != x.dtype:
            self.packed = self.out.weight.detach().T.clone()
        return y @ self.packed


def test_weights_that_were_packed_before_a_step_are_found(small, mixer):
    finding = small(only=ONLY, mixer=mixer(PacksItsWeights))["cache parity"]
    assert finding.detail.startswith("after training on one batch, decoding in steps and chunks differs")
