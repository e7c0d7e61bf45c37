"""Terms that layers add to the training loss, such as the balance of a router, and the tokens they may look at."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from litmus.nn.loss import IGNORED


@dataclass(frozen=True)
class Terms:
    """What layers leave for the objective while a training loss is computed.

    counted: (B, T) False where a token serves no scored target; statistics over tokens leave it out.
    left: the (weight, value) of each layer, by the name of the term.
    """

    counted: Tensor
    left: dict[str, list[tuple[float, Tensor]]] = field(default_factory=dict)

    @classmethod
    def before(cls, targets: Tensor) -> Terms:
        """For targets (B, T): a token counts up to the last scored target of its row; padding comes after it."""
        return cls((targets != IGNORED).flip(1).cummax(1).values.flip(1))

    def counting(self, targets: Tensor) -> Terms:
        """The same collection for layers whose vectors serve other targets (B, T)."""
        return replace(self, counted=Terms.before(targets).counted)

    def leave(self, name: str, value: Tensor, weight: float) -> None:
        """Add `weight` · `value` to the training loss; `value` is reported under `name`."""
        self.left.setdefault(name, []).append((weight, value))
