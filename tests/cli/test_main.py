"""The command line as a person meets it: hostile values of every option, broken streams, every error a sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from litmus import process
from litmus.catalog import recipes
from litmus.cli import main
from litmus.cli.app import tree
from litmus.errors import BadInput, Failed

Call = Callable[..., tuple[int, str, str]]
COMMAND = [sys.executable, "-c", "from litmus.cli import main; main()"]
HARMLESS = {
    "import": ["no-such-folder"],
    "eval": ["no-such-run"],
    "generate": ["no-such-run"],
    "chat": ["no-such-run"],
    "superweights": ["no-such-run"],
    "prune": ["no-such-run"],
    "quantize": ["no-such-run"],
    "probe": ["no-such-probe", "standard"],
    "export": ["no-such-run"],
    "audit": ["no-such-recipe"],
    "train": ["no-such-recipe"],
    "compare": ["no-such-recipe", "standard"],
    "recipes": ["no-such-recipe"],
    "bench decode": ["no-such-recipe"],
    "claims list": ["--results", "no-such-folder"],
    "claims run": ["no-such-claim"],
    "claims report": ["--results", "no-such-folder"],
    "data prepare": ["no-such-corpus"],
    "data show": ["no-such-corpus"],
    "data list": [],
    "runs list": ["--runs", "no-such-folder"],
    "runs show": ["no-such-run"],
    "runs compare": ["no-such-run"],
    "runs remove": ["no-such-run"],
}
HOSTILE = (
    "", "x", "-1", "0", "1e400", "nan", "inf", "-inf", "9" * 30, "9" * 5000, "2147483648", "1.5", "\u0663", "a=b", "=",
    "a=[", "a=" + "[" * 5000, "dim=9223372036854775808", "a=2024-01-01", "=1", "a: b: c", "\udcff\udcfe", "\x1b[31m\n",
    "x" * 5000,
)  # fmt: skip


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """call("recipes", ...) -> (exit code, stdout, stderr), in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def typed(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return typed


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with the words that call it."""
    command = command or tree()
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, inner in command.commands.items():
        yield from commands(inner, (*path, name))


OPTIONS = [
    (path, option)
    for path, command in commands()
    for param in command.params
    if param.param_type_name == "option" and not getattr(param, "is_flag", False)
    for option in param.opts[:1]
]


def test_every_command_is_tried_with_something_harmless() -> None:
    assert {" ".join(path) for path, _ in commands()} == set(HARMLESS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "option"), OPTIONS, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_any_value_of_any_option_is_answered_in_one_sentence(path: tuple[str, ...], option: str, call: Call) -> None:
    for value in HOSTILE:
        code, _, err = call(*path, *HARMLESS[" ".join(path)], f"{option}={value}")
        assert code == 2, (value, err)
        assert err.startswith("litmus: ") and err.count("\n") == 1 and len(err) < 600, (value, err)
        assert "internal error" not in err, (value, err)


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_the_help_of_every_command_has_an_example_that_calls_it(path: tuple[str, ...], call: Call) -> None:
    code, out, _ = call(*path, "--help")
    assert code == 0
    assert "Examples" in out and f"litmus {' '.join(path)}" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["--"], "Missing command; see: litmus --help"),
        (["--quiet"], "Missing command; see: litmus --help"),
        (["runs", "--"], "Missing command; see: litmus runs --help"),
        (["data", "lst"], "unknown command 'lst' of litmus data; did you mean 'list'?"),
        (["compare", "--seed", "3"], "unknown option --seed of litmus compare; did you mean '--seeds'"),
        (["train", "--batch", "x"], "--batch = 'x' is not valid; it must be a whole number from 1 to 2,147,483,647"),
        (["train", "--seed", "9" * 350], "is not valid; it must be a whole number from 0 to 4,294,967,295"),
        (["export", "."], ". is not a run folder: it has no run.yaml"),
        (["train", "--lr"], "--lr needs a value"),
        (["eval"], "litmus eval needs the argument RUN"),
        (["data", "list", "x"], "litmus data list takes no further argument, found 'x'"),
        (["export", "x", "--to", "gguf"], "--to = 'gguf' is unknown; valid: hf"),
        (["audit", "stndard"], "unknown recipe 'stndard'; did you mean 'standard'?"),
        (["recipes", "standard", "--size", "tiy"], "unknown size 'tiy'; did you mean 'tiny'?"),
    ],
)
def test_an_error_of_the_command_line_names_what_was_found_and_what_is_valid(
    arguments: list[str], sentence: str, call: Call
) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err and err.count("\n") == 1


def test_the_recipes_are_listed_without_torch_and_in_80_columns(tmp_path: Path) -> None:
    script = (
        "import sys; from litmus.cli.recipes import recipes; recipes(); print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"}
    )
    assert done.stderr == "False\n"
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    assert {line.split()[0] for line in done.stdout.splitlines() if line.strip()} >= set(recipes())


@pytest.mark.slow
def test_the_recipes_are_json_on_request_and_one_is_printed_as_yaml(call: Call) -> None:
    listed = json.loads(call("recipes", "--json", "--size", "small")[1])
    assert [row["name"] for row in listed] == recipes() and {row["dim"] for row in listed} == {512}
    code, out, _ = call("recipes", "ssmax", "--set", "context=64")
    assert code == 0 and "context: 64" in out and "kind: attention" in out
    assert json.loads(call("recipes", "ssmax", "--json")[1])["name"] == "ssmax"


def test_flags_of_litmus_may_stand_behind_the_command(call: Call) -> None:
    code, _, err = call("audit", "stndard", "--debug")
    assert code == 2 and err.startswith("Traceback") and err.endswith("did you mean 'standard'?\n")
    assert process.DEBUG not in os.environ
    assert call("--version")[1].startswith("litmus ")


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (BadInput("it is bad"), 2, "it is bad"),
        (Failed("it failed"), 1, "it failed"),
        (BadInput(f"{'x' * 4000} cannot be written"), 2, "(4,018 characters)"),
        (FileNotFoundError(2, "No such file or directory", "x\ny"), 2, "'x\\ny': No such file or directory"),
        (MemoryError(), 2, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "not enough memory"),
        (RecursionError("maximum recursion depth exceeded"), 2, "nested too deeply"),
        (UnicodeEncodeError("ascii", "ä", 0, 1, "ordinal not in range"), 2, "in its encoding"),
        (OverflowError("too large"), 2, "too large"),
        (EOFError("Compressed file ended"), 2, "ended too early: Compressed file ended"),
        (KeyError("x"), 1, "internal error, a fault of Litmus: KeyError"),
        (
            type("PanicException", (BaseException,), {})("boom"),
            1,
            "internal error, a fault of Litmus: PanicException: boom",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (process.Terminated(), 143, "interrupted"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_whatever_is_raised_becomes_one_sentence_and_a_code(
    error: BaseException, code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise error

    assert process.run(work) == code
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1 and err.startswith("litmus: ")


def shell(line: str, **environment: str) -> tuple[int, str, str]:
    """A line of bash in which LITMUS is the command."""
    words = " ".join(f"'{word}'" for word in COMMAND)
    done = subprocess.run(
        ["bash", "-c", line.replace("LITMUS", words)], capture_output=True, env={**os.environ, **environment}
    )
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "code", "err"),
    [
        ("LITMUS data list | head -1 > /dev/null; exit ${PIPESTATUS[1]}", 0, ""),
        ("LITMUS recipes | true; exit ${PIPESTATUS[0]}", 141, ""),  # rich leaves by itself there
        ("LITMUS data list >&-", 0, ""),
        ("LITMUS data list <&- >&- 2>&-", 0, ""),
        ("LITMUS data lst 2>&-", 2, ""),
        ("LITMUS data list > /dev/full", 2, "litmus: standard output cannot be written: No space left on device\n"),
    ],
)
def test_a_broken_stream_costs_no_traceback(line: str, code: int, err: str) -> None:
    done = shell(line)
    assert (done[0], done[2]) == (code, err)


def test_nobody_reading_the_output_ends_a_command_quietly() -> None:
    script = (
        "from litmus import process as p\np.begin()\n"
        "p.end(p.run(lambda: [print('x' * 99) for _ in range(9999)] and None))"
    )
    done = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "$SCRIPT" | head -1; exit ${{PIPESTATUS[0]}}'],
        capture_output=True,
        env={**os.environ, "SCRIPT": script},
    )
    assert (done.returncode, done.stderr) == (141, b"")


def test_work_whose_product_is_a_folder_outlives_a_full_disk_behind_its_output(tmp_path: Path) -> None:
    script = (
        "from litmus import process as p\nfrom pathlib import Path\nimport sys\n"
        "@p.defer_output_errors()\ndef work():\n    print('shown', flush=True)\n"
        "    Path(sys.argv[1]).write_text('kept')\n"
        "p.begin()\np.end(p.run(work))"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "x")], stdout=full, stderr=subprocess.PIPE)
    assert (tmp_path / "x").read_text() == "kept"
    assert done.returncode == 2 and b"standard output cannot be written" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_encoding_of_the_output_can_show_every_recipe(encoding: str) -> None:
    code, out, err = shell("LITMUS recipes", PYTHONIOENCODING=encoding)
    assert (code, err) == (0, "") and "ssmax-nope" in out
    code, out, err = shell("LITMUS recipes", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (code, err) == (0, "") and "ssmax-nope" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 143, "terminated")],
)
def test_a_signal_ends_a_command_with_one_sentence(number: int, code: int, word: str) -> None:
    script = (
        "import signal, sys, time\nfrom litmus import process as p\n"
        "for name in ('SIGINT', 'SIGTERM', 'SIGHUP'): signal.signal(getattr(signal, name), signal.SIG_DFL)\n"
        "p.begin()\nprint('ready', flush=True)\np.end(p.run(lambda: time.sleep(60)))"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None and running.stdout.readline() == "ready\n"
    time.sleep(0.2)
    running.send_signal(number)
    _, err = running.communicate(timeout=50)
    assert (running.returncode, err) == (code, f"litmus: {word}\n")


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (15, 143, "terminated")])
def test_a_signal_that_comes_during_a_destructor_is_not_lost(number: int, code: int, word: str) -> None:
    script = f"""
import signal, time
from litmus import process

class Deleted:
    def __del__(self):
        signal.raise_signal({int(number)})

def work():
    Deleted()
    time.sleep(60)

signal.signal(signal.SIGINT, signal.SIG_DFL)
process.begin()
process.end(process.run(work))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (code, f"litmus: {word}\n")


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "30000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "None")],
)
def test_threads_of_a_command_soon_sleep_unless_the_user_says_otherwise(given, spins):
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    script = "import os; from litmus import process; process.begin(); print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", script], env={**kept, **given}, capture_output=True, text=True)
    assert done.stdout.strip() == spins
