"""Generation against transformers' `generate`, on the same weights: a Llama and a DeepseekV3, one text and sixteen.

Needs transformers. Greedy, so that both write the same tokens, which is checked in fp32 before anything is timed.
Writes generate_hf.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import interleaved, spread, write_table
from mla_decode import DTYPES, LATENT, SHAPE

import litmus
from litmus.generation import Engine, Request, Sampling
from litmus.interop import export_model
from litmus.model import Decoder

Tokens = list[list[int]]
BATCHES = (1, 16)


def models(context: int, size: str | None) -> dict[str, Decoder]:
    """A model of each shape that transformers has too."""
    changes = {"context": context}
    deepseek = {**changes, **({} if size else {**{key: SHAPE[key] for key in ("dim", "depth", "heads")}, **LATENT})}
    vocabulary = SHAPE["vocab_size"]
    return {
        "standard (LlamaForCausalLM)": litmus.build("standard", size=size or "small", vocab_size=vocabulary, **changes),
        "deepseek (DeepseekV3ForCausalLM)": litmus.build(
            "deepseek", size=size, vocab_size=vocabulary, overrides=deepseek
        ),
    }


def ours(model: Decoder, prompts: Tokens, new: int, *, compile: bool) -> Callable[[], Tokens]:
    """The engine, made once as a model is loaded once."""
    engine = Engine(model, max_batch_size=len(prompts), capacity=len(prompts[0]) + new, compile=compile)

    def run() -> Tokens:
        numbers = [engine.submit(Request(prompt, Sampling(temperature=0), new)) for prompt in prompts]
        written: dict[int, list[int]] = {number: [] for number in numbers}
        for event in engine.run():
            if event.token is not None:
                written[event.id].append(event.token)
        return list(written.values())

    return run


def theirs(model: Decoder, dtype: torch.dtype, prompts: Tokens, new: int) -> Callable[[], Tokens]:
    """transformers with the same weights."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        export_model(model, None, Path(folder) / "hf")
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(Path(folder) / "hf", dtype=dtype).eval()
    loaded.generation_config.eos_token_id = None
    tokens = torch.tensor(prompts)
    options = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(tokens)}
    return lambda: loaded.generate(tokens, **options)[:, len(prompts[0]) :].tolist()


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--size", help="size of both models; standard small and a 6-layer deepseek when not given")
    parser.add_argument("--compile", action="store_true", help="measure the compiled engine too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rows = []
    for name, model in models(arguments.prompt + arguments.new, arguments.size).items():
        for dtype_name, dtype in DTYPES.items():
            model = model.eval().to(dtype)
            for batch in BATCHES:
                prompts = torch.randint(SHAPE["vocab_size"], (batch, arguments.prompt)).tolist()
                sides = {
                    "transformers": theirs(model, dtype, prompts, arguments.new),
                    "engine": ours(model, prompts, arguments.new, compile=False),
                }
                if arguments.compile:
                    sides["engine, compiled"] = ours(model, prompts, arguments.new, compile=True)
                if dtype == torch.float32:
                    expected = sides["transformers"]()
                    for way, side in sides.items():
                        assert side() == expected, f"{name}, batch {batch}: {way} writes other tokens"
                seconds = interleaved(sides, arguments.rounds, warmup=1)
                for way, taken in seconds.items():
                    rate = f"{batch * arguments.new / statistics.median(taken):,.1f}"
                    faster = spread(seconds["transformers"], taken)
                    rows.append((name, dtype_name, batch, way, rate, faster))
    write_table(
        "generate_hf",
        "Generation against transformers on the same weights",
        ("model", "type", "texts at a time", "way", "new tokens/s (median)", "times transformers' rate (middle half)"),
        rows,
        [
            f"{arguments.new} greedy tokens after prompts of {arguments.prompt}, prompts included in the time; in fp32 "
            f"both write the same tokens, which is checked first."
        ],
    )


if __name__ == "__main__":
    main()
