"""Position parity: models that take a token's place from the tensor, and models that have no places."""

import torch

from litmus.nn import Attention
from litmus.nn.core.forward_context import ForwardContext

ONLY = ("position parity",)


class CountsFromTheTensor(Attention):
    """A token's place is its column, padding included; while decoding it is right."""

    def forward(self, x, ctx):
        y = super().forward(x, ctx)
        columns = torch.arange(x.shape[1], dtype=x.dtype).expand(x.shape[:2])
        place = ctx.positions.to(x.dtype) if ctx.cache is not None else columns
        return y * (1 + place[..., None])


def test_a_model_that_takes_columns_for_positions_fails_this_check_alone(small, mixer):
    report = small(mixer=mixer(CountsFromTheTensor))
    assert [finding.name for finding in report.failed] == ["position parity"]
    assert report.mark() == "fails audit: mistakes padding or packing for position"


class ReadsPadding(Attention):
    """Attends to padding when there is no cache."""

    def forward(self, x, ctx):
        blind = ForwardContext(ctx.positions, ctx.start_pos, None, ctx.document_ids, ctx.cache, ctx.kv_len)
        return super().forward(x, ctx if ctx.cache is not None else blind)


def test_a_model_that_reads_padding_is_caught(small, mixer):
    assert "padding" in small(only=ONLY, mixer=mixer(ReadsPadding))["position parity"].detail


class BagOfWords(Attention):
    """Each token reads the mean of the embeddings before it, whatever their order."""

    def forward(self, x, ctx):
        return self.out(x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None])


def test_a_bag_of_words_is_caught(small, mixer):
    assert "does not see their order" in small(only=ONLY, depth=1, mixer=mixer(BagOfWords))["position parity"].detail


def test_one_layer_without_positions_may_ignore_the_order(small):
    assert small(only=ONLY, depth=1, positions={"kind": "none"}).passed
