"""The parts of an architecture: norms, positions, mixers, feedforwards, blocks, and their caches.

Everything that a plug-in file needs can be imported from here; docs/plugins.md shows how.
"""

from litmus.nn.attention.attend import attend, attention_weights
from litmus.nn.attention.banded import Keys, Window, attend_window
from litmus.nn.attention.compressed import CompressedAttention, CompressedConfig
from litmus.nn.attention.gates import Gate, GateConfig
from litmus.nn.attention.mla import Mla, MlaConfig
from litmus.nn.attention.multihead import Attention, AttentionBase, AttentionBaseConfig, AttentionConfig
from litmus.nn.attention.ssmax import SSMax, SSMaxConfig
from litmus.nn.attention.window import WindowAttention, WindowConfig
from litmus.nn.core.aux_losses import AuxLosses, share_of_step
from litmus.nn.core.batch import IGNORED, Batch, reference_path
from litmus.nn.core.cache import Cache, update_kv
from litmus.nn.core.forward_context import AttentionMask, Buffers, ForwardContext
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.mixer import Mixer, MixerConfig
from litmus.nn.core.registry import Adapts, Part, PartlyActive
from litmus.nn.layers.blocks import Block, BlockConfig, PreNormBlock, PreNormConfig
from litmus.nn.layers.causal_conv import CausalConv, token_shifts
from litmus.nn.layers.embeddings import EmbeddingConfig, HeadConfig, LinearHead, LinearHeadConfig
from litmus.nn.layers.feedforwards import Dense, FeedforwardConfig, Swiglu
from litmus.nn.layers.linear import linear, residual_linear
from litmus.nn.layers.norms import NormConfig, RMSNorm
from litmus.nn.layers.positions import PositionsConfig, Rotation
from litmus.nn.layers.scan import recurrent_scan
from litmus.nn.mod.block import DepthBlock, DepthConfig
from litmus.nn.moe.experts import Experts, MixtureOfExperts, MoeConfig
from litmus.nn.moe.routers import Router, RouterConfig, Routing
from litmus.nn.moe.stats import RouterStats
from litmus.nn.objectives.mtp import MtpConfig, ParallelMtpConfig
from litmus.nn.objectives.objective import Loss, Objective, ObjectiveConfig, with_aux_losses
from litmus.nn.worker.block import WorkerConfig
from litmus.nn.worker.objective import WorkerObjectiveConfig

__all__ = [
    "IGNORED",
    "Adapts",
    "Attention",
    "AttentionBase",
    "AttentionBaseConfig",
    "AttentionConfig",
    "AttentionMask",
    "AuxLosses",
    "Batch",
    "Block",
    "BlockConfig",
    "Buffers",
    "Cache",
    "CausalConv",
    "CompressedAttention",
    "CompressedConfig",
    "Dense",
    "DepthBlock",
    "DepthConfig",
    "EmbeddingConfig",
    "Experts",
    "FeedforwardConfig",
    "ForwardContext",
    "Gate",
    "GateConfig",
    "HeadConfig",
    "Keys",
    "LayerContext",
    "LinearHead",
    "LinearHeadConfig",
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
    "PartlyActive",
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
    "Swiglu",
    "Window",
    "WindowAttention",
    "WindowConfig",
    "WorkerConfig",
    "WorkerObjectiveConfig",
    "attend",
    "attend_window",
    "attention_weights",
    "linear",
    "recurrent_scan",
    "reference_path",
    "residual_linear",
    "share_of_step",
    "token_shifts",
    "update_kv",
    "with_aux_losses",
]
