"""A router's bias adapts once per training step, survives a resume bit for bit, and stays exact in bf16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from litmus.diagnostics import layer_stats
from litmus.model import build
from litmus.training import trainer
from litmus.training.run.loading import load_run
from litmus.training.run.result import RunResult

Quick = Callable[..., RunResult]
ROUTED = {
    "base": "deepseek",
    "layers": [{"repeat": "rest"}],
    "feedforward": {"experts": 4, "top_k": 2, "router": {"groups": 2, "top_groups": 1, "bias_rate": 0.125}},
}
BIAS = "layers.0.feedforward.router.bias"


def saved(tmp_path: Path, folder: str, step: int) -> dict[str, torch.Tensor]:
    return load_file(tmp_path / folder / "checkpoints" / str(step) / "model.safetensors")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-autocast"])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_bias_moves_once_per_step_and_stays_in_fp32(
    quick: Quick, tmp_path: Path, precision: str, accumulation: int
) -> None:
    settings = {"budget": "3 steps", "checkpoint_every": 1, "keep_last": 9, "batch": 1, "accumulation": accumulation}
    quick(recipe=ROUTED, precision=precision, **settings)
    before = torch.zeros(4)
    for step in (1, 2, 3):
        weights = saved(tmp_path, "run", step)
        assert weights[BIAS].dtype == torch.float32
        assert set((weights[BIAS] - before).abs().tolist()) <= {0.0, 0.125}
        before = weights[BIAS]
    assert before.any()
    assert not any(name.endswith(".load") for name in weights)
    assert "objective.mtp_layers.0.layer.feedforward.router.bias" in weights
    assert torch.equal(load_run(tmp_path / "run").model.get_buffer(BIAS), before)


def test_a_resumed_training_goes_on_with_the_bias_it_had(quick: Quick, tmp_path: Path, monkeypatch: Any) -> None:
    settings = {"budget": "6 steps", "checkpoint_every": 2, "keep_last": 9}
    whole = quick("whole", recipe=ROUTED, **settings)
    original = trainer.TrainStep.step

    def interrupted(self: Any, *arguments: Any) -> Any:
        if interrupted.calls == 4:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        interrupted.calls += 1  # type: ignore[attr-defined]
        return original(self, *arguments)

    interrupted.calls = 0  # type: ignore[attr-defined]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer.TrainStep, "step", interrupted)
        quick("resumed", recipe=ROUTED, **settings)
    resumed = quick("resumed", recipe=ROUTED, **settings)
    one, other = saved(tmp_path, "whole", 6), saved(tmp_path, "resumed", 6)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert resumed.evaluation == whole.evaluation


def test_evaluation_and_generation_leave_the_bias_alone() -> None:
    model = build("moe-v3", vocab_size=61, dim=32, depth=2, heads=4, context=24)
    tokens = torch.randint(61, (2, 20))
    model.loss(tokens, tokens)
    model.eval()
    loads = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(tokens), model.token_losses(tokens, tokens), model.loss(tokens, tokens), layer_stats(model, tokens).routing
    assert all(torch.equal(buffer, loads[name]) for name, buffer in model.named_buffers())
    model.post_optimizer_step()
    assert all(model.get_buffer(f"layers.{layer}.feedforward.router.bias").any() for layer in (0, 1))
