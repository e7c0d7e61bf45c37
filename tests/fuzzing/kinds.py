"""A case of any kind."""

from __future__ import annotations

from fuzzing import damaging, drawing
from fuzzing.case import Case
from fuzzing.drawing import Documents, Draw

FROM_OPTIONS = (
    *[drawing.options] * 5, *[drawing.arguments] * 4, drawing.plugins, drawing.foreign_code, *[drawing.outputs] * 2,
    drawing.sequences, damaging.damaged_caches,
)  # fmt: skip
FROM_FILES = (
    *[drawing.recipe_files] * 5, *[damaging.damaged_runs] * 4, *[damaging.damaged_resumes] * 2,
    *[damaging.damaged_models] * 3, *[damaging.damaged_corpora] * 4, damaging.damaged_ggufs,
    *[damaging.damaged_threads] * 2,
)  # fmt: skip


def drawn(draw: Draw, documents: Documents) -> Case:
    """A case of any kind, the cheap ones more often."""
    number = draw.randrange(80)
    if number == 0:
        return drawing.dear_targets(draw)
    if number == 1:
        return damaging.damaged_comparisons(draw, documents)
    number = draw.randrange(len(FROM_OPTIONS) + len(FROM_FILES))
    if number < len(FROM_OPTIONS):
        return FROM_OPTIONS[number](draw)
    return FROM_FILES[number - len(FROM_OPTIONS)](draw, documents)
