"""Nothing that a file says makes Litmus run code: one place executes any, and it runs what the user has named."""

from __future__ import annotations

import ast
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import litmus
from litmus.cli import main
from litmus.data.tokens.tokenizer import ByteTokenizer
from litmus.interop import export_model
from litmus.model import build

PACKAGE = Path(litmus.__file__).parent
EXECUTES = {"model/plugins.py": {"exec", "compile"}}
"""The calls by which text becomes code, where they are allowed."""

RUNS_TEXT = {"exec", "eval", "compile", "__import__", "execfile", "run_path", "run_module", "exec_module"}
UNPICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "runpy", "code", "codeop"}
UNSAFE = {"torch.load", "torch.jit.load", "torch.hub.load", "np.load", "numpy.load", "yaml.load", "yaml.unsafe_load",
          "yaml.full_load", "os.system", "os.popen"}  # fmt: skip
TRUSTS = {"auditing/sources.py": {"trust_remote_code"}}
"""With what the user said: False unless --trust-plugin."""
LOADS = {"yaml_json.py": {"yaml.load"}}
"""With a loader of plain values only, which its own tests hold to that."""


def calls(tree: ast.AST) -> list[str]:
    """What is called, as it is written; a method of an object counts by its last name only where it is dangerous."""
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_but_that_of_plugins_turns_text_into_code(path: Path) -> None:
    tree, name = ast.parse(path.read_bytes()), str(path.relative_to(PACKAGE))
    called = calls(tree)
    assert {call for call in called if call in RUNS_TEXT} <= EXECUTES.get(name, set())
    assert not {call for call in called if call.split(".")[-1] in RUNS_TEXT - {"eval", "compile"} and "." in call}
    assert {call for call in called if call in UNSAFE} <= LOADS.get(name, set())
    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & UNPICKLES
    keywords = {word.arg: word.value for node in ast.walk(tree) if isinstance(node, ast.Call) for word in node.keywords}
    assert not keywords.keys() & {"trust_remote_code", "allow_pickle"} - TRUSTS.get(name, set())
    assert "shell" not in keywords


class Touches:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as others publish models, in every corner of which there is code that would touch `ran`."""
    monkeypatch.chdir(tmp_path)
    folder, mark = tmp_path / "published", tmp_path / "ran"
    model = build("standard", vocab_size=257, overrides={"dim": 16, "depth": 1, "heads": 2, "context": 64})
    export_model(model, ByteTokenizer(), folder)
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
    for name in ("modeling_evil.py", "configuration_evil.py", "tokenization_evil.py", "plugin.py", "__init__.py",
                 "conftest.py", "sitecustomize.py", "torch.py", "litmus.py"):  # fmt: skip
        (folder / name).write_text(code)
    torch.save(Touches(mark), folder / "pytorch_model.bin")
    for name in ("training_args.bin", "optimizer.pt", "model.pkl"):
        (folder / name).write_bytes(pickle.dumps(Touches(mark)))
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "configuration_evil.C", "AutoModelForCausalLM": "modeling_evil.M"}
    config["custom_pipelines"] = {"text-generation": {"impl": "modeling_evil.P"}}
    (folder / "config.json").write_text(json.dumps(config))
    trick = (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{% for x in cycler.__init__.__globals__.os.popen('touch ran') %}"
    )
    told = {"chat_template": trick, "auto_map": {"AutoTokenizer": ["tokenization_evil.T", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "chat_template.jinja").write_text(trick)
    return folder


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


def test_a_published_folder_full_of_code_is_imported_and_used_without_running_any(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("import", "published", "--name", "theirs") == 0, capsys.readouterr().err
    monkeypatch.chdir(published)
    theirs = str(tmp_path / "runs" / "theirs")
    assert run("generate", theirs, "--prompt", "a", "--max-new-tokens", "2", "--device", "cpu") == 0
    assert run("export", theirs, "--out", str(tmp_path / "out")) == 0
    assert not (tmp_path / "ran").exists()
    assert not list((tmp_path / "runs").rglob("*.py")) + list((tmp_path / "runs").rglob("*.bin"))


def test_a_folder_with_pickled_weights_alone_is_refused_and_they_are_not_opened(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (published / "model.safetensors").unlink()
    assert run("import", "published", "--name", "theirs") == 2
    assert "safetensors" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_a_chat_template_calls_nothing_and_reaches_no_attribute(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    assert run("import", "published", "--name", "theirs") == 0
    for user in ("{text.__class__}", "{text}{text.__class__.__mro__}", "{0.__class__}{text}", "{text!r:{x}}"):
        written = {"user": user, "assistant": "{text}"}
        (tmp_path / "chat.json").write_text(json.dumps(written))
        monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
        capsys.readouterr()
        code = run("chat", "runs/theirs", "--template", "chat.json", "--max-new-tokens", "2", "--device", "cpu")
        out, err = capsys.readouterr()
        assert code in (0, 2) and "class 'str'" not in out + err
    for trick in ("{{ ''.__class__.__mro__ }}", "{{ cycler.__init__.__globals__.os.popen('touch ran') }}"):
        (tmp_path / "their.jinja").write_text(trick)
        monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
        assert run("chat", "runs/theirs", "--template", "their.jinja", "--device", "cpu") == 0
        assert "the chat template cannot be rendered" in capsys.readouterr().out
    assert not (tmp_path / "ran").exists()
