"""The time to the first token of a reply in a chat, with the KV cache kept from the turn before and without it.

A model of SmolLM2-135M's shape with random weights; a message of --message tokens follows a conversation of each
length. Writes chat_turns.md.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable

import torch
from measure import interleaved, spread, write_table

import litmus
from litmus.generation import Engine, Request, Sampling

SHAPE = {"vocab_size": 49152, "dim": 576, "depth": 30, "heads": 9, "context": 8192}
PARTS = {"mixer.kv_heads": 3, "feedforward.hidden": 1536, "positions.theta": 100_000.0}
LENGTHS = (128, 512, 2048)


def first_token(engine: Engine, conversation: list[int], draw: random.Random, message: int) -> Callable[[], None]:
    """Answer a new message after the conversation, with one token."""

    def answer() -> None:
        new = [draw.randrange(SHAPE["vocab_size"]) for _ in range(message)]
        engine.submit(Request([*conversation, *new], Sampling(temperature=0), max_new_tokens=1))
        for _ in engine.run():
            pass

    return answer


def first_token_of_another(
    engine: Engine, conversation: list[int], draw: random.Random, message: int
) -> Callable[[], None]:
    """The same after a conversation that begins in another way each time, so that nothing of it is in the cache."""

    def answer() -> None:
        first_token(engine, [draw.randrange(SHAPE["vocab_size"]), *conversation[1:]], draw, message)()

    return answer


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--message", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = litmus.build("standard", **SHAPE, overrides=PARTS)
    draw, rows = random.Random(0), []
    for length in LENGTHS:
        conversation = [draw.randrange(SHAPE["vocab_size"]) for _ in range(length)]
        capacity = length + arguments.message + 1
        engines = [Engine(model, max_batch_size=1, capacity=capacity) for _ in range(2)]
        sides = {
            "all of it": first_token_of_another(engines[0], conversation, draw, arguments.message),
            "what is new": first_token(engines[1], conversation, draw, arguments.message),
        }
        seconds = interleaved(sides, arguments.rounds, warmup=1)
        for name, own in seconds.items():
            gain = spread(seconds["all of it"], own)
            rows.append([length, name, f"{1e3 * statistics.median(own):,.0f}", gain])
    title = f"Chat: time to a reply's first token, after a message of {arguments.message} tokens"
    write_table(
        "chat_turns",
        title,
        ["tokens before the message", "prefilled", "ms (median)", "times as fast (middle half)"],
        rows,
        ["SmolLM2-135M's shape, fp32, random weights."],
    )


if __name__ == "__main__":
    main()
