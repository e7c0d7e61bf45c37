"""A feedforward declared by hand, with an option that pydantic constrains, in a block of one norm (GPT-J)."""

from typing import Literal

import pydantic
from torch import nn

from litmus.nn import Block, FeedforwardConfig, linear, residual_linear


class SquaredGateConfig(FeedforwardConfig):
    kind: Literal["squared_gate"] = "squared_gate"
    times: int = pydantic.Field(3, ge=1, le=16)

    def build(self, layer):
        return SquaredGate(self.times * layer.dim, layer)


class SquaredGate(nn.Module):
    """W_down (relu(W_gate x)² · W_up x)."""

    def __init__(self, hidden, layer):
        super().__init__()
        self.gate, self.up = linear(layer.dim, hidden), linear(layer.dim, hidden)
        self.down = residual_linear(hidden, layer)

    def forward(self, x, ctx):
        return self.down(self.gate(x).relu().square() * self.up(x))


class Parallel(Block):
    """x + mixer(norm(x)) + feedforward(norm(x))."""

    def __init__(self, layer):
        super().__init__()
        self.norm = layer.norm()
        self.mixer, self.feedforward = layer.new_mixer(), layer.new_feedforward()

    def forward(self, x, ctx):
        normed = self.norm(x)
        return x + self.mixer(normed, ctx) + self.feedforward(normed, self.feedforward_context(ctx))


recipe = {
    "base": "standard",
    "block": Parallel,
    "feedforward": {"kind": "squared_gate"},
    "about": "A squared gate beside the attention, both after one norm.",
}
