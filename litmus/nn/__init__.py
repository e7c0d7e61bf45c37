"""The parts of an architecture: norms, positions, mixers, feedforwards, blocks, and their caches.

Everything a plug-in file needs is here: declare a MixerConfig, FeedforwardConfig, NormConfig, PositionsConfig or
BlockConfig with a `kind` of your own and build your module in it.
"""

from litmus.nn.attend import attend, attention_weights
from litmus.nn.attention import Attention, AttentionConfig
from litmus.nn.blocks import BlockConfig, PreNormBlock, PreNormConfig
from litmus.nn.caches import Cache, write
from litmus.nn.feedforwards import FeedforwardConfig
from litmus.nn.linear import linear, residual_linear
from litmus.nn.mixers import Mixer, MixerConfig
from litmus.nn.norms import NormConfig, RMSNorm
from litmus.nn.objectives import Loss, Objective, ObjectiveConfig
from litmus.nn.parts import Part, Site
from litmus.nn.positions import PositionsConfig, Rotation
from litmus.nn.ssmax import SSMax, SSMaxConfig
from litmus.nn.step import Buffers, Step, Visibility

__all__ = [
    "Attention",
    "AttentionConfig",
    "BlockConfig",
    "Buffers",
    "Cache",
    "FeedforwardConfig",
    "Loss",
    "Mixer",
    "MixerConfig",
    "NormConfig",
    "Objective",
    "ObjectiveConfig",
    "Part",
    "PositionsConfig",
    "PreNormBlock",
    "PreNormConfig",
    "RMSNorm",
    "Rotation",
    "SSMax",
    "SSMaxConfig",
    "Site",
    "Step",
    "Visibility",
    "attend",
    "attention_weights",
    "linear",
    "residual_linear",
    "write",
]
