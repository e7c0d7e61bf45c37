"""Whether what a router does after each step keeps its experts in use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from litmus.auditing.adapters.decoder import DecoderTarget
from litmus.auditing.check import Evidence, needs
from litmus.auditing.modes import NoDropout
from litmus.nn import Routing
from litmus.runtime.device import seeded

STEPS = 60
MAX_MORE = 0.15
"""Growth of the busiest expert's share of the tokens' choices: balancing lets it fall to one over their number."""


@needs("recipe")
def experts_stay_balanced(target: DecoderTarget) -> Iterator[Evidence]:
    """Hooks after training steps that move a router's choice spread the tokens, and do not gather them."""
    model = target.build_model().train()
    tokens, targets = target.tokens(4, target.length(24), seed=90), target.tokens(4, target.length(24), seed=91)
    before = busiest_shares(model, tokens, targets)
    if not any(hasattr(part, "post_optimizer_step") for name in before for part in model.get_submodule(name).modules()):
        return
    for _ in range(STEPS):
        model.post_optimizer_step()
        after = busiest_shares(model, tokens, targets)
    name = max(after, key=lambda router: after[router] - before[router])
    if after[name] > before[name] + MAX_MORE:
        yield Evidence(
            f"after {STEPS} steps the busiest expert has {after[name]:.0%} of the tokens' choices, {before[name]:.0%} "
            "at first: the hook after a step gathers tokens in place of spreading them",
            fault=True,
            measured=after[name] - before[name],
            tolerance=MAX_MORE,
            where=name,
            mark="unbalances its experts",
            meaning="Most experts fall out of use, and the model is one of fewer parameters than it says.",
        )


@torch.no_grad()
def busiest_shares(model: Any, tokens: Tensor, targets: Tensor) -> dict[str, float]:
    """The largest share of choices that one expert gets in a training pass, by the name of the router."""
    found: dict[str, float] = {}

    def hook_for(name: str) -> Any:
        def hook(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Routing):
                counts = torch.bincount(output.experts.flatten())
                found[name] = float(counts.max() / counts.sum())

        return hook

    handles = [part.register_forward_hook(hook_for(name)) for name, part in model.named_modules() if name]
    try:
        with seeded(6), NoDropout():
            model.loss(tokens, targets)
    finally:
        for handle in handles:
            handle.remove()
    return found
