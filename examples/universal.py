"""Weights shared between layers, by recipe alone: one layer applied several times (arXiv 1807.03819)."""

recipe = {
    "base": "standard",
    "layers": [{"repeat": 1}, {"repeat": "rest", "shared": True}],
    "about": "A first layer of its own, and one layer applied for all the others.",
}
