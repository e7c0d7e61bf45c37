"""The head as a part: logits are capped smoothly at ± `cap` (Gemma 2, arXiv 2408.00118)."""

from litmus.nn import LinearHead


class SoftCappedHead(LinearHead):
    def __init__(self, config, layer, cap: float = 30.0):
        super().__init__(config, layer)
        self.cap = cap

    def forward(self, x):
        return self.cap * (super().forward(x) / self.cap).tanh()


recipe = {"base": "standard", "head": SoftCappedHead, "about": "Logits that cannot exceed a cap."}
