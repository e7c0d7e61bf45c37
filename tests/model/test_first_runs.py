"""A plug-in file that this user has not run yet is run elsewhere first: it may end that process, and no other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from litmus.errors import BadInput
from litmus.model import plugins, resolve
from litmus.model.trust import TRUST_FILE

Write = Callable[..., Path]
DECLARES = "recipe = {'base': 'standard', 'dim': 64}\n"

pytestmark = pytest.mark.usefixtures("fresh_state")


@pytest.fixture(autouse=True)
def a_process_to_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_trial_runs_disabled", False)


def written(folder: Path, code: str) -> Path:
    (folder / "idea.py").write_text(code + DECLARES)
    return folder / "idea.py"


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import os; os._exit(3)\n", r"idea.py ended the process that read it, with exit code 3; a plug-in declares"),
        ("import os; os.kill(os.getpid(), 9)\n", r"idea.py ended .* by SIGKILL \(out of memory, perhaps\); a plug-in"),
        ("print('returned'); import os; os._exit(0)\n", r"idea.py ended .* with exit code 0"),
        (
            "import torch\nx = []\nwhile True:\n    x.append(torch.empty(1 << 30))\n",
            r"idea.py does not run: .*allocate.* \(line 4\)",
        ),
    ],
)
def test_a_file_that_ends_the_process_that_reads_it_is_named_in_one_sentence(
    code: str, sentence: str, tmp_path: Path, fresh_state: Path
) -> None:
    with pytest.raises(BadInput, match=sentence):
        resolve(written(tmp_path, code))
    assert not (fresh_state / TRUST_FILE).exists()


def test_a_file_that_never_comes_back_is_stopped_even_if_it_cannot_be_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "MAX_PLUGIN_SECONDS", 1.0)
    with pytest.raises(BadInput, match=r"idea.py was still running after 1 s \(line [12]\) and was stopped; a plug-in"):
        resolve(written(tmp_path, "while True:\n    pass\n"))
    monkeypatch.setattr(plugins, "STARTUP_SECONDS", 4.0)
    deaf = "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\ntime.sleep(999)\n"
    with pytest.raises(BadInput, match=r"idea.py was still running after 1 s and could not be interrupted; a plug-in"):
        resolve(written(tmp_path, deaf))


def test_code_that_a_recipe_file_brings_is_tried_too(tmp_path: Path) -> None:
    written(tmp_path, "import os; os._exit(3)\n")
    (tmp_path / "mine.yaml").write_text("base: idea.py\n")
    with pytest.raises(BadInput, match=r"idea.py ended the process that read it, with exit code 3"):
        resolve(tmp_path / "mine.yaml", trust_plugin=True)


def test_an_error_that_a_file_raises_comes_from_this_process_with_its_cause(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"ZeroDivisionError: division by zero \(line 1\)") as error:
        resolve(written(tmp_path, "1 / 0\n"))
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_each_version_is_tried_once_and_then_runs_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = f"with open({str(tmp_path / 'runs')!r}, 'a') as file:\n    file.write('x')\n"
    path = written(tmp_path, count)

    def runs() -> int:
        monkeypatch.setattr("litmus.model.trust._named", set())  # as in a new process
        for name in [name for name in sys.modules if name.startswith(plugins.PLUGIN_PREFIX)]:
            del sys.modules[name]
        before = len((tmp_path / "runs").read_text()) if (tmp_path / "runs").exists() else 0
        assert resolve(path).dim == 64
        return len((tmp_path / "runs").read_text()) - before

    assert [runs(), runs()] == [2, 1]
    path.write_text(path.read_text() + "\n")
    assert [runs(), runs()] == [2, 1]


def test_what_a_file_prints_is_shown_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    resolve(written(tmp_path, "print('declared')\n"))
    assert capfd.readouterr().out == "declared\n"


@pytest.mark.parametrize("words", [("train",), ("compare", "standard")], ids=" ".join)
def test_every_command_ends_with_the_sentence(words: tuple[str, ...], tmp_path: Path) -> None:
    path = written(tmp_path, "import os; os._exit(0)\n")
    done = subprocess.run(
        [sys.executable, "-c", "from litmus.cli import main; main()", *words, str(path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    said = done.stderr.splitlines()
    assert said[-1].startswith(f"litmus: {path} ended the process that read it, with exit code 0; a plug-in declares")
    assert sum(line.startswith("litmus: ") for line in said) == 1 and "Traceback" not in done.stderr
