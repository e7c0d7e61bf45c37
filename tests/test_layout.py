"""The layout of the package: imports go down, files stay small, the command line is quick."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import litmus

PACKAGE = Path(litmus.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
FLOORS = (
    "errors",
    "names",
    "limits",
    "bounds",
    "process",
    "yaml_json",
    "catalog",
    "files",
    "locks",
    "fork_server",
    "runtime",
    "nn",
    "model",
    "diagnostics",
    "data",
    "training",
    "generation",
    "interop",
    "compression",
    "probes",
    "auditing",
    "testing",
    "comparison",
    "claims",
    "runs",
    "serving",
    "cli",
    "__main__",
)
"""From the basement to the roof: a module imports from its own floor and those before it here."""
OUTSIDE = ("examples", "specimens")
"""Folders of tests of what lies outside the package."""
OPTIONAL = {"datasets", "gguf", "huggingface_hub", "pyarrow", "trackio", "wandb", "tensorboard", "transformers"}


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def floor_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """The dotted name of everything that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import_time(tree: ast.Module) -> ast.Module:
    """The module without the bodies of its functions and of `if TYPE_CHECKING`."""

    class Skip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)

    Skip().visit(tree)
    return tree


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.parent != PACKAGE or path.stem != "__init__"], ids=named
)
def test_no_file_imports_from_a_floor_above_its_own(path: Path) -> None:
    own = FLOORS.index(floor_of(path))
    for name in imports(ast.parse(path.read_text(encoding="utf-8"))):
        root, _, rest = name.partition(".")
        if root == "litmus" and rest != "__version__":
            assert rest.split(".")[0] in FLOORS[: own + 1], f"{named(path)} imports {name}"


def dotted(path: Path) -> str:
    return ".".join(("litmus", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports within functions and those for type checkers included."""
    modules = {dotted(path): path for path in MODULES if dotted(path) != "litmus"}
    graph = {}
    for module, path in modules.items():
        names = imports(ast.parse(path.read_text(encoding="utf-8")))
        imported = {name if name in modules else name.rpartition(".")[0] for name in names}
        graph[module] = (imported & set(modules)) - {module}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_the_folders_of_nn_import_each_other_in_one_direction() -> None:
    graph: dict[str, set[str]] = {}
    for path in (path for path in MODULES if path.parent.parent == PACKAGE / "nn"):
        names = [name.split(".") for name in imports(ast.parse(path.read_text(encoding="utf-8")))]
        folders = {parts[2] for parts in names if parts[:2] == ["litmus", "nn"] and len(parts) > 3}
        graph.setdefault(path.parent.name, set()).update(folders - {path.parent.name})
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_optional_packages_are_imported_where_they_are_used(path: Path) -> None:
    tree = at_import_time(ast.parse(path.read_text(encoding="utf-8")))
    assert not {name.split(".")[0] for name in imports(tree)} & OPTIONAL


def test_nothing_is_pickled() -> None:
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert not [word for word in ("pickle", "torch.load", "torch.save", "weights_only") if word in text], path


def test_links_are_resolved_in_the_one_way_that_takes_circles() -> None:
    for path in MODULES:  # Path.resolve raises RuntimeError for a link that leads to itself
        assert ".resolve()" not in path.read_text(encoding="utf-8"), path


def test_words_of_the_first_version_that_readers_stumbled_over_stay_out() -> None:
    old = re.compile(r"\b(stirred|stillborn|newborn|beside|rewinds|cached_numbers|another_layer)\b")
    for path in MODULES:
        assert not old.search(path.read_text(encoding="utf-8")), path


def test_files_are_short_enough_to_be_read() -> None:
    lengths = {named(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_every_module_says_what_it_is() -> None:
    for path in MODULES:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert docstring, f"{named(path)} has no docstring"


def test_tests_mirror_the_package() -> None:
    tests = Path(__file__).parent
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")} - {Path(name) for name in OUTSIDE}
    assert [str(folder) for folder in sorted(folders) if not (PACKAGE / folder).is_dir()] == []
    flat = [path.name for path in (tests / "nn").glob("test_*.py")]
    assert not flat, f"tests of litmus.nn belong in the folder of what they test: {flat}"


@pytest.mark.parametrize("module", ["litmus", "litmus.cli"])
def test_the_command_line_starts_without_torch(module: str) -> None:
    heavy = "{'torch', 'scipy', 'matplotlib', 'tokenizers'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.slow
def test_the_public_names_stay_what_they_are_when_something_was_built() -> None:
    code = "import litmus; litmus.build('standard', size='tiny', vocab_size=16); print(len(litmus.recipes()))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(shown.stdout) > 10
