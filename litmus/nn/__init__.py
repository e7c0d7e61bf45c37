"""The parts of an architecture: norms, positions, mixers, feedforwards, blocks, and their caches.

Everything a plug-in file needs is here: declare a MixerConfig, FeedforwardConfig, NormConfig, PositionsConfig or
BlockConfig with a `kind` of your own and build your module in it.
"""

from litmus.nn.attend import attend, attention_weights
from litmus.nn.attention import Attention, AttentionBase, AttentionBaseConfig, AttentionConfig
from litmus.nn.aux_losses import AuxLosses
from litmus.nn.blocks import BlockConfig, PreNormBlock, PreNormConfig
from litmus.nn.caches import Cache, update_kv
from litmus.nn.depths import DepthBlock, DepthConfig
from litmus.nn.feedforwards import FeedforwardConfig
from litmus.nn.forward_context import AttentionMask, Buffers, ForwardContext
from litmus.nn.gates import Gate, GateConfig
from litmus.nn.latent import Latent, LatentConfig
from litmus.nn.linear import linear, residual_linear
from litmus.nn.mixers import Mixer, MixerConfig
from litmus.nn.mla import Mla, MlaConfig
from litmus.nn.moe import Experts, MixtureOfExperts, MoeConfig
from litmus.nn.mtp import MtpConfig, ParallelMtpConfig
from litmus.nn.norms import NormConfig, RMSNorm
from litmus.nn.objectives import Loss, Objective, ObjectiveConfig
from litmus.nn.parts import Adapts, LayerContext, Part
from litmus.nn.positions import PositionsConfig, Rotation
from litmus.nn.routing import Router, RouterConfig, RouterStats, Routing
from litmus.nn.ssmax import SSMax, SSMaxConfig
from litmus.nn.window import WindowAttention, WindowConfig
from litmus.nn.windowed import Keys, Window, attend_window
from litmus.nn.worker import WorkerConfig
from litmus.nn.worker_objective import WorkerObjectiveConfig

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
