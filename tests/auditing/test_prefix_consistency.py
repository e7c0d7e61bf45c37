"""Prefix consistency: a model that looks at how long its input is."""

from math import log

from litmus.nn import Attention


class LouderWhenLong(Attention):
    """Scales attention by the number of tokens in the tensor."""

    def forward(self, x, ctx):
        y = super().forward(x, ctx)
        return y * log(x.shape[1]) if ctx.cache is None and x.shape[1] > 140 else y


def test_a_model_that_depends_on_the_tensors_length_fails_this_check_and_decodes_otherwise(small, mixer):
    report = small(mixer=mixer(LouderWhenLong), context=200)
    assert [finding.name for finding in report.failed] == ["prefix consistency", "cache parity"]
    assert report.mark() == "fails audit: depends on the sequence's length"


class ByItsLength(Attention):
    def forward(self, x, ctx):
        return super().forward(x, ctx) * log(1 + x.shape[1])


def test_the_shortest_prefix_that_changes_is_reported(small, mixer):
    finding = small(only=("prefix consistency",), mixer=mixer(ByItsLength))["prefix consistency"]
    assert finding.detail == "the logits of 1 token change when 2 more follow"
    assert finding.where == "layer 0 of 0..1, mixer (ByItsLength), position 0 of 1"
    assert finding.measured > finding.tolerance == 1e-9
