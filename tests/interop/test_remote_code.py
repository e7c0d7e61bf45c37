"""Models that transformers has no class for, exported with a modelling file of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from litmus.data.tokens.tokenizer import ByteTokenizer
from litmus.errors import BadInput
from litmus.generation import generate
from litmus.interop import export_model, read_model
from litmus.interop.hf.remote_code import modelling_file
from litmus.model import Decoder, build
from litmus.model.storage import weights

SMALL: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 4, "context": 64}
WITHOUT_EQUIVALENT: dict[str, tuple[str, dict[str, Any]]] = {
    "ssmax": ("ssmax", {"mixer.ssmax": {"bias": True}, "mixer.qk_norm": True}),
    "ssmax-nope": ("ssmax-nope", {}),
    "learned": ("learned", {"mixer.kv_heads": 2}),
    "sinusoidal": ("sinusoidal", {"norm": {"kind": "layernorm", "bias": False}}),
    "super-small": ("super-small", {}),
    "relu2-in-one-layer": (
        "standard",
        {"layers": [{"repeat": 1, "feedforward": {"kind": "relu2"}}, {"repeat": "rest"}]},
    ),
    "minideepseek": ("minideepseek-small", {"mixer.kv_rank": 8, "mixer.latent_query": True}),
    "moe": ("moe", {}),
    "moe-v3": ("moe-v3", {"positions": {"kind": "none"}}),
}
TOKENS = torch.randint(0, 256, (2, 24), generator=torch.Generator().manual_seed(3))


@pytest.fixture(params=WITHOUT_EQUIVALENT)
def foreign(request: pytest.FixtureRequest, rough: Callable[..., Decoder]) -> Decoder:
    recipe, overrides = WITHOUT_EQUIVALENT[request.param]
    made = rough(build(recipe, vocab_size=300, overrides={**SMALL, **overrides}), torch.float32)
    for name, buffer in made.named_buffers():
        if name.endswith("router.bias"):
            buffer += 0.05 * torch.randn(buffer.shape)
    return made.eval()


def test_it_comes_back_bit_for_bit(foreign: Decoder, tmp_path: Path) -> None:
    assert export_model(foreign, ByteTokenizer(), tmp_path / "out", remote_code=True) == "LitmusForCausalLM"
    recipe, tensors = read_model(tmp_path / "out", name="back")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in weights(foreign).items())
    assert {**recipe.to_dict(), "name": "", "about": ""} == {**foreign.recipe.to_dict(), "name": "", "about": ""}


def test_the_modelling_file_needs_nothing_of_litmus() -> None:
    imported = [line for line in modelling_file().splitlines() if line.startswith(("import ", "from "))]
    assert imported and not [line for line in imported if "litmus" in line]


def test_a_part_that_the_modelling_file_lacks_is_refused(tmp_path: Path) -> None:
    from typing import Literal

    from litmus.nn.layers.feedforwards import SwigluConfig

    class Doubled(SwigluConfig):
        kind: Literal["doubled"] = "doubled"  # type: ignore[assignment]

    model = build("standard", overrides={**SMALL, "feedforward": {"kind": "doubled"}})
    with pytest.raises(
        BadInput, match=r"feedforward is 'doubled' \(set feedforward to gelu or relu2 or swiglu or moe\)"
    ):
        export_model(model, None, tmp_path / "out", remote_code=True)


@torch.no_grad()
def test_transformers_computes_its_logits_and_generates_the_same(
    foreign: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    export_model(foreign, ByteTokenizer(), tmp_path / "out", remote_code=True)
    theirs, told = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", trust_remote_code=True, output_loading_info=True
    )
    assert not any(told.values())
    assert (theirs.eval()(TOKENS).logits - foreign(TOKENS)).abs().max() < 1e-4

    rows = [TOKENS[0, :4].tolist(), TOKENS[1, :9].tolist()]
    padded = torch.tensor([[0] * 5 + rows[0], rows[1]])
    mask = torch.tensor([[0] * 5 + [1] * 4, [1] * 9])
    options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    texts = theirs.generate(padded, attention_mask=mask, **options)[:, 9:]
    assert texts.tolist() == generate(foreign, rows, max_new_tokens=10, temperature=0.0)
    alone = theirs.generate(torch.tensor(rows[1:]), use_cache=False, **options)[:, 9:]
    assert alone[0].tolist() == texts[1].tolist()
