"""Building on the meta device."""

from __future__ import annotations

import os
import subprocess
import sys

import torch
from torch import nn

from litmus.runtime.meta import meta_device


def test_modules_have_shapes_and_no_values_and_random_fills_are_left_out() -> None:
    with meta_device():
        layer, table = nn.Linear(3, 5), nn.Embedding(7, 2)
        weight = nn.init.trunc_normal_(torch.empty(4, 4), std=0.1)
        noise = torch.empty(2).normal_()
    shapes = [(5, 3), (7, 2), (4, 4), (2,)]
    tensors = [layer.weight, table.weight, weight, noise]
    assert [(tuple(tensor.shape), tensor.device.type) for tensor in tensors] == [(shape, "meta") for shape in shapes]


def test_real_tensors_are_filled() -> None:
    with meta_device():
        real = nn.init.normal_(torch.zeros(100, device="cpu"))
    assert 0.5 < float(real.std()) < 1.5


def test_checking_a_recipe_does_not_import_the_compiler() -> None:
    code = """if True:
        import sys
        from litmus.model import build, resolve
        from litmus.model.bounds import check_trained
        recipe = resolve("standard", size="tiny")
        check_trained(recipe, 8, 128)
        build(recipe)
        print("torch._dynamo" in sys.modules)
    """
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.stdout.split() == ["False"], done.stderr
