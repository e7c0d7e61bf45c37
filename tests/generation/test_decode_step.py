"""The compiled decode step: the same tokens, from a few graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import litmus
from litmus.generation import Engine, Request, Sampling, decode_step
from litmus.model import Decoder


@pytest.mark.parametrize("name", ["standard", "mla"])
def test_a_compiled_step_decodes_the_same_from_few_graphs(
    name: str, rough: Callable[..., Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = rough(litmus.build(name, vocab_size=61, overrides={"dim": 32, "depth": 2, "heads": 4, "context": 80}))
    graphs: list[Any] = []

    def count(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(decode_step, "MIN_GRAPH_KV_LEN", 16)
    monkeypatch.setattr(
        decode_step, "compiled", lambda call, device: torch.compile(call, dynamic=False, backend=count, fullgraph=True)
    )
    found = []
    for compile in (False, True):
        engine = Engine(model, max_batch_size=3, max_prefill_tokens=8, compile=compile)
        for n, prompt in enumerate([[1, 2, 3], [4] * 17, [5], [6, 7]]):
            engine.submit(Request(prompt, Sampling(), 50, seed=n))
        found.append([(event.id, event.token) for event in engine.run()])
    assert found[0] == found[1]
    assert len(graphs) == 4  # up to 16, 32, 64 and 80 cached tokens, whatever rows are there


@pytest.mark.parametrize(("number", "size"), [(1, 128), (128, 128), (129, 256), (1000, 1024), (1025, 1500)])
def test_cache_slots_are_round_up_up_to_powers_of_two_within_the_capacity(number: int, size: int) -> None:
    assert decode_step._round_up(number, 1500) == size
