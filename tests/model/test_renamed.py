"""A plug-in file of an earlier version is told the new name of what it uses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import litmus.nn
from litmus.auditing import audit
from litmus.errors import BadInput, Failed
from litmus.model import build, resolve
from litmus.model.plugins import plugin_faults
from litmus.model.renamed import ATTRIBUTES, IMPORTS, METHODS, MODULES, OVERRIDES

CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"
PLUGIN = """
from typing import Literal
from litmus.nn import Attention, AttentionConfig

class Config(AttentionConfig):
    kind: Literal["stale"] = "stale"

    def build(self, layer):
        return Stale(self, layer)

class Stale(Attention):
    def {method}(self, {arguments}):
        return {result}

recipe = {{"base": "standard", "dim": 32, "heads": 2, "depth": 1, "vocab_size": 61, "mixer": {{"kind": "stale"}}}}
"""


@pytest.fixture
def old(tmp_path: Path):
    def written(code: str) -> Path:
        path = tmp_path / "old.py"
        path.write_text(code)
        return path

    return written


@pytest.mark.parametrize("name", IMPORTS)
def test_an_old_import_is_told_the_new_name(name, old):
    path = old(f"import math\nfrom litmus.nn import {name}\n")
    told = f"imports {name} from litmus.nn, which is now {IMPORTS[name]}"
    with pytest.raises(BadInput, match=rf"old\.py does not run: ImportError: {told} \(line 2\)"):
        build(path)
    assert told in audit(path, quick=True, only=["causality"]).failed[0].detail


@pytest.mark.parametrize("module", MODULES)
def test_an_old_module_is_told_the_new_name(module, old):
    with pytest.raises(BadInput, match=rf"imports {module}, which is now {MODULES[module]} \(line 1\)"):
        build(old(f"from {module} import audit\n"))


@pytest.mark.parametrize("name", ATTRIBUTES["ForwardContext"])
def test_an_old_attribute_is_told_the_new_name(name, old):
    path = old(PLUGIN.format(method="forward", arguments="x, ctx", result=f"x + ctx.{name}"))
    told = f"ForwardContext.{name} is now ForwardContext.{ATTRIBUTES['ForwardContext'][name]}"
    assert (
        audit(resolve(path), quick=True, only=["causality"]).failed[0].detail == f"it crashed: AttributeError: {told}"
    )
    with pytest.raises(Failed, match=told), plugin_faults(resolve(path), "a test of"):
        raise AttributeError(f"'ForwardContext' object has no attribute '{name}'")


@pytest.mark.parametrize("name", OVERRIDES["Module"])
def test_an_old_method_that_nothing_calls_is_told_the_new_name(name, old):
    path = old(PLUGIN.format(method=name, arguments="*given", result="None"))
    now = OVERRIDES["Module"][name]
    with pytest.raises(BadInput, match=rf"the plug-in .*old\.py defines Stale\.{name}, which is now {now}"):
        build(path)


@pytest.mark.parametrize("base", ["BlockConfig", "NormConfig", "Router", "RouterConfig"])
def test_an_old_method_of_a_part_is_told_the_new_name(base, old):
    ((before, now),) = OVERRIDES[base].items()
    path = old(f"from litmus.nn import {base}\n\nclass Stale({base}):\n    def {before}(self, *given):\n        pass\n")
    with pytest.raises(BadInput, match=rf"the plug-in .*old\.py defines Stale\.{before}, which is now {now}"):
        build(path)


@pytest.mark.parametrize("name", METHODS)
def test_an_old_method_that_a_class_calls_is_told_the_new_name(name, old):
    path = old(PLUGIN.format(method="forward", arguments="x, ctx", result=f"self.{name}(x, ctx)"))
    told = f"it crashed: AttributeError: Stale.{name} is now Stale.{METHODS[name]}"
    assert audit(resolve(path), quick=True, only=["causality"]).failed[0].detail == told


def test_a_plug_in_may_use_an_old_name_for_a_method_of_its_own(old):
    code = PLUGIN.format(method="project", arguments="*given", result="None")
    assert resolve(old(f"{code}\nclass Words:\n    def over(self):\n        pass\n")).name == "old"


def test_the_new_names_exist_and_the_old_ones_do_not():
    for before, now in IMPORTS.items():
        assert hasattr(litmus.nn, now) and not hasattr(litmus.nn, before)
    for kind, renamed in ATTRIBUTES.items():
        names = dir(getattr(litmus.nn, kind)) + list(getattr(getattr(litmus.nn, kind), "__dataclass_fields__", ()))
        assert [now for now in renamed.values() if now not in names] == []
    names = {*dir(litmus.nn.AttentionBase), *dir(litmus.nn.Adapts), *dir(litmus.nn.Router), "build"}
    renamed = [*METHODS.values(), *(now for methods in OVERRIDES.values() for now in methods.values())]
    assert [now for now in renamed if now not in names] == []


def test_every_class_of_the_changelogs_table_for_plug_ins_is_known():
    table = CHANGELOG.read_text(encoding="utf-8").partition("| before | now |")[2].partition("\n- ")[0]
    before = re.findall(r"^  \| (.*?) \| ", table, flags=re.M)
    names = {name for cell in before for name in re.findall(r"`([A-Z]\w+)`", cell)}
    assert len(names) > 5 and sorted(names - set(IMPORTS)) == []
