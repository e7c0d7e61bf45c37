"""The parts of an architecture: norms, positions, mixers, feedforwards, blocks, and their caches.

Everything a plug-in file needs is here: declare a MixerConfig, FeedforwardConfig, NormConfig, PositionsConfig or
BlockConfig with a `kind` of your own and build your module in it.
"""

from litmus.nn.attention.attend import attend, attention_weights
from litmus.nn.attention.banded import Keys, Window, attend_window
from litmus.nn.attention.compressed import Latent, LatentConfig
from litmus.nn.attention.gates import Gate, GateConfig
from litmus.nn.attention.mla import Mla, MlaConfig
from litmus.nn.attention.multihead import Attention, AttentionBase, AttentionBaseConfig, AttentionConfig
from litmus.nn.attention.ssmax import SSMax, SSMaxConfig
from litmus.nn.attention.window import WindowAttention, WindowConfig
from litmus.nn.core.aux_losses import AuxLosses
from litmus.nn.core.cache import Cache, update_kv
from litmus.nn.core.forward_context import AttentionMask, Buffers, ForwardContext
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.mixer import Mixer, MixerConfig
from litmus.nn.core.registry import Adapts, Part
from litmus.nn.layers.blocks import BlockConfig, PreNormBlock, PreNormConfig
from litmus.nn.layers.feedforwards import FeedforwardConfig
from litmus.nn.layers.linear import linear, residual_linear
from litmus.nn.layers.norms import NormConfig, RMSNorm
from litmus.nn.layers.positions import PositionsConfig, Rotation
from litmus.nn.mod.block import DepthBlock, DepthConfig
from litmus.nn.moe.experts import Experts, MixtureOfExperts, MoeConfig
from litmus.nn.moe.routers import Router, RouterConfig, RouterStats, Routing
from litmus.nn.objectives.mtp import MtpConfig, ParallelMtpConfig
from litmus.nn.objectives.objective import Loss, Objective, ObjectiveConfig
from litmus.nn.worker.block import WorkerConfig
from litmus.nn.worker.objective import WorkerObjectiveConfig

__all__ = [
    "Adapts",
    "Attention",
    "AttentionBase",
    "AttentionBaseConfig",
    "AttentionConfig",
    "AttentionMask",
    "AuxLosses",
    "BlockConfig",
    "Buffers",
    "Cache",
    "DepthBlock",
    "DepthConfig",
    "Experts",
    "FeedforwardConfig",
    "ForwardContext",
    "Gate",
    "GateConfig",
    "Keys",
    "Latent",
    "LatentConfig",
    "LayerContext",
    "Loss",
    "Mixer",
    "MixerConfig",
    "MixtureOfExperts",
    "Mla",
    "MlaConfig",
    "MoeConfig",
    "MtpConfig",
    "NormConfig",
    "Objective",
    "ObjectiveConfig",
    "ParallelMtpConfig",
    "Part",
    "PositionsConfig",
    "PreNormBlock",
    "PreNormConfig",
    "RMSNorm",
    "Rotation",
    "Router",
    "RouterConfig",
    "RouterStats",
    "Routing",
    "SSMax",
    "SSMaxConfig",
    "Window",
    "WindowAttention",
    "WindowConfig",
    "WorkerConfig",
    "WorkerObjectiveConfig",
    "attend",
    "attend_window",
    "attention_weights",
    "linear",
    "residual_linear",
    "update_kv",
]
