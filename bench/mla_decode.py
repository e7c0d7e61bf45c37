"""Decoding with latent attention: the latents read as they are, expanded each time, or keys and values kept in full.

Writes mla_attention.md (attention alone, by length) and mla_decode.md (whole models, one token at a time). Where
transformers is installed, the second has its DeepseekV3 with the same weights as another row.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import interleaved, spread, write_table
from torch import Tensor

import litmus
from litmus.generation import Engine, Request, Sampling
from litmus.interop import export_model
from litmus.model import Decoder
from litmus.nn import Mla, attend

LENGTHS = (256, 1024, 4096)
SHAPE = {"vocab_size": 8192, "dim": 512, "depth": 6, "heads": 8}
LATENT = {"mixer.kv_rank": 256, "mixer.nope_dim": 64, "mixer.value_dim": 64, "mixer.rope_dim": 32}
SPARE = 512
"""Tokens that can be decoded after the longest prompt."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def attention_alone(mla: Mla, length: int, dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    """One query attends to `length` tokens, from what each way keeps of them."""
    q = torch.randn(1, 1, mla.heads, mla.nope + mla.rope).to(dtype)
    latents = torch.randn(1, length, mla.rank + mla.rope).to(dtype)
    k, v = (full.contiguous() for full in mla.expanded(latents))

    def joined() -> Tensor:
        keys, values = (torch.cat((full[:, :-1], full[:, -1:]), dim=1) for full in (k, v))
        return attend(q, keys, values, "all", None)

    return {
        "keys and values in full, joined to the new": joined,
        "keys and values in full, in place": lambda: attend(q, k, v, "all", None),
        "latents, expanded": lambda: attend(q, *mla.expanded(latents), "all", None),
        "latents, absorbed": lambda: mla.absorbed(q, latents, "all", None),
    }


def by_length(rounds: int) -> None:
    """Write mla_attention.md."""
    rows = []
    model = latent_model("on")
    for name, dtype in DTYPES.items():
        mla: Any = model.to(dtype).layers[0].mixer
        for length in LENGTHS:
            seconds = interleaved(attention_alone(mla, length, dtype), rounds, warmup=5)
            absorbed = seconds["latents, absorbed"]
            for way, taken in seconds.items():
                microseconds = f"{1e6 * statistics.median(taken):,.0f}"
                rows.append((name, f"{length:,}", way, microseconds, spread(taken, absorbed)))
    write_table(
        "mla_attention",
        "Latent attention alone, one query",
        ("type", "cached tokens", "what is kept and how it is read", "us (median)", "times absorbed (middle half)"),
        rows,
        [
            f"One layer of {mla.heads} heads; {mla.nope} + {mla.rope} wide keys, {mla.value} wide values, latents of "
            f"{mla.rank}. From queries and cache to the heads' outputs, without the maps around them."
        ],
    )


def latent_model(absorb: str) -> Decoder:
    """A model of latent attention."""
    return litmus.build(
        "mla", context=max(LENGTHS) + SPARE, overrides={**LATENT, "mixer.absorb": absorb}, **SHAPE
    ).eval()


def decoding(model: Decoder, prompt: Tensor, *, compile: bool = False) -> tuple[Callable[[], object], float]:
    """One more token after `prompt` (1, T), and the bytes that the cache holds per token and layer, measured."""
    engine = Engine(model, max_batch_size=1, capacity=model.recipe.context, compile=compile)
    engine.submit(Request(prompt[0].tolist(), Sampling(temperature=0), max_new_tokens=SPARE))
    while not engine.step():  # the prompt enters in pieces
        pass
    return engine.step, engine.cache.bytes() / engine.capacity / model.recipe.depth


def transformers_decoding(model: Decoder, dtype: torch.dtype, prompt: Tensor) -> tuple[Callable[[], object], float]:
    """The same of transformers' DeepseekV3 with the model's weights, checked to give its logits."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        export_model(model, None, Path(folder) / "hf")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(Path(folder) / "hf", dtype=dtype).eval()
    if dtype == torch.float32:
        apart = (theirs(prompt[:, :64]).logits - model(prompt[:, :64])).abs().max()
        assert apart < 1e-3, f"transformers differs by {apart}"
    state = theirs(prompt, use_cache=True, logits_to_keep=1)
    token, cache = state.logits[:, -1].argmax(-1, keepdim=True), state.past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)

    def step() -> None:
        logits = theirs(token, past_key_values=cache, use_cache=True).logits
        token.copy_(logits[:, -1].argmax(-1, keepdim=True))

    return step, held / prompt.shape[1] / model.recipe.depth


def end_to_end(rounds: int) -> None:
    """Write mla_decode.md."""
    rows = []
    length = max(LENGTHS)
    prompt = torch.randint(SHAPE["vocab_size"], (1, length))
    with_transformers = importlib.util.find_spec("transformers") is not None
    for name, dtype in DTYPES.items():
        absorbing = latent_model("auto").to(dtype)
        ways = {
            "multi-head attention": (litmus.build("standard", context=length + SPARE, **SHAPE).eval().to(dtype), False),
            "latents, expanded": (latent_model("off").to(dtype), False),
            "latents, absorbed": (absorbing, False),
            "latents, absorbed, compiled": (absorbing, True),
        }
        sides, held = {}, {}
        for way, (model, compile) in ways.items():
            sides[way], held[way] = decoding(model, prompt, compile=compile)
        if with_transformers:
            way = "transformers' DeepseekV3"
            sides[way], held[way] = transformers_decoding(absorbing, dtype, prompt)
        seconds = interleaved(sides, rounds, warmup=3)
        absorbed = seconds["latents, absorbed"]
        for way, taken in seconds.items():
            rate = f"{1 / statistics.median(taken):,.1f}"
            rows.append((name, way, rate, spread(taken, absorbed), f"{held[way]:,.0f}"))
    write_table(
        "mla_decode",
        f"Decoding after {length:,} tokens",
        (
            "type",
            "model",
            "tokens/s (median)",
            "times absorbed's time (middle half)",
            "cache bytes per token and layer",
        ),
        rows,
        [
            f"One sequence, token by token, whole models: {SHAPE['depth']} layers of {SHAPE['dim']}, {SHAPE['heads']} "
            f"heads, vocabulary {SHAPE['vocab_size']:,}. Cache bytes are those of the live buffers."
            + ("" if with_transformers else " transformers was not installed.")
        ],
    )


@torch.inference_mode()
def main() -> None:
    """Measure, and write both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    by_length(arguments.rounds)
    end_to_end(arguments.rounds)


if __name__ == "__main__":
    main()
