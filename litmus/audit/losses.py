"""The training loss as a function: called twice with the same seed it gives the same, whatever the model keeps."""

from __future__ import annotations

import torch
from torch import Tensor

from litmus.model import Decoder, Loss


def training_loss(model: Decoder, tokens: Tensor, targets: Tensor, *, seed: int) -> Loss:
    """model.loss in training mode with all randomness drawn from `seed`, leaving the model's buffers as they were."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loss = model.loss(tokens, targets)
    with torch.no_grad():
        for buffer, before in kept:
            if not torch.equal(buffer, before):
                buffer.copy_(before)
    return loss
