"""The budget of a training and the fraction of it that is used."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from litmus.errors import BadInput, shown

Unit = Literal["steps", "tokens", "seconds", "flops"]

_SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18}
_SECONDS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
}
_AMOUNT = re.compile(r"(?P<number>[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(?P<unit>[a-z ]*)", re.IGNORECASE)
_COUNT_UNIT = re.compile(r"(?P<scale>[kmbgtpe]?)\s*(?P<unit>steps?|tokens?|flops?)")
_VALID = "'300 steps', '2M tokens', '60s', '5min', '1e15 flops' or '1 PFLOP' are valid"


@dataclass(frozen=True)
class Usage:
    """What a training has used so far; seconds are those of training steps, without validation, sampling or saving."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    flops: float = 0.0

    def __add__(self, more: Usage) -> Usage:
        return Usage(
            self.steps + more.steps, self.tokens + more.tokens, self.seconds + more.seconds, self.flops + more.flops
        )


@dataclass(frozen=True)
class Budget:
    """An amount of steps, tokens, seconds of training or FLOPs."""

    amount: float
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read '300 steps', '2M tokens', '60s', '5min', '1.5h', '1e15 flops', '1 PFLOP'; BadInput for anything else."""
        match = _AMOUNT.fullmatch(text.strip())
        if match is None:
            raise BadInput(f"budget {shown(text)} cannot be read; {_VALID}")
        number, written = float(match["number"]), match["unit"].strip()
        name = written.lower()
        if number <= 0 or not math.isfinite(number):
            raise BadInput(f"budget {shown(text)} is not a positive amount, so nothing would be trained; {_VALID}")
        if name in _SECONDS:
            return cls(number * _SECONDS[name], "seconds")
        counted = _COUNT_UNIT.fullmatch(name)
        if counted is None:
            found = f"the unit {shown(written)}, which is unknown" if name else "no unit"
            raise BadInput(f"budget {shown(text)} has {found}; {_VALID}")
        unit: Unit = {"s": "steps", "t": "tokens", "f": "flops"}[counted["unit"][0]]  # type: ignore[assignment]
        amount = number * _SCALES[counted["scale"]]
        if unit in ("steps", "tokens") and amount != int(amount):
            raise BadInput(f"budget {shown(text)} is not a whole number of {unit}; {_VALID}")
        return cls(amount, unit)

    def fraction(self, usage: Usage) -> float:
        """The fraction of the budget that is used, between 0 and 1."""
        return min(1.0, getattr(usage, self.unit) / self.amount)

    def fraction_mid_step(self, usage: Usage, step: Usage) -> float:
        """The fraction used in the middle of a step of cost `step`, at which the learning rate is evaluated."""
        return min(1.0, (getattr(usage, self.unit) + getattr(step, self.unit) / 2) / self.amount)

    def steps(self, step: Usage) -> int | None:
        """Number of steps of cost `step` in this budget (the last may exceed it); None for seconds."""
        return None if self.unit == "seconds" else math.ceil(self.amount / getattr(step, self.unit))

    def __str__(self) -> str:
        return f"{self.amount:,.10g} {'FLOPs' if self.unit == 'flops' else self.unit}"
