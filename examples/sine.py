"""One thing overridden: the activation of a dense feedforward (Sitzmann et al. 2020, arXiv 2006.09661)."""

from litmus.nn import Dense


class Sine(Dense):
    def activation(self, h):
        return h.sin()


recipe = {"base": "standard", "feedforward": Sine, "about": "Sine as the activation."}
