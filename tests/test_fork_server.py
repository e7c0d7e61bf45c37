"""Processes that run a function behave the same whether forked by the server or started as a new interpreter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from litmus import fork_server
from litmus.fork_server import communicate, start_process

FUNCTIONS = """
import json, os, sys, time

def mirror():
    given = sys.stdin.read()
    print(json.dumps([given, sys.argv[1:], os.getcwd(), os.environ.get("ASKED"), "torch" in sys.modules]))

def ends():
    exec(sys.argv[1])

def lives():
    print(os.getpid(), flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["forked", "new interpreter"])
def functions(request, tmp_path, monkeypatch):
    """The name of a module with functions to run."""
    if request.param == "new interpreter":
        monkeypatch.setattr(sys, "platform", "elsewhere")
    name = f"functions_{tmp_path.name}"  # which the server has not imported yet
    (tmp_path / f"{name}.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_it_has_the_arguments_folder_environment_and_streams_that_it_is_given(functions, tmp_path, monkeypatch):
    for asked in ("first", "second"):
        (tmp_path / asked).mkdir()
        monkeypatch.chdir(tmp_path / asked)
        monkeypatch.setenv("ASKED", asked)
        found = json.loads(communicate(start_process(functions, "mirror", "a b", "é"), b"given", 60))
        assert found[:4] == ["given", ["a b", "é"], str(tmp_path / asked), asked]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("pass", 0),
        ("sys.exit(3)", 3),
        ("sys.exit()", 0),
        ("os._exit(4)", 4),
        ("1 / 0", 1),
        ("os.kill(os.getpid(), 9)", -9),
        ("os.kill(os.getpid(), 15)", -15),
    ],
)
def test_its_exit_code_is_known(functions, code, expected):
    process = start_process(functions, "ends", code, stderr=subprocess.PIPE, encoding="utf-8")
    said = process.stderr.read()
    assert process.wait(60) == process.returncode == expected
    assert ("ZeroDivisionError" in said) == (expected == 1)


def test_it_can_be_stopped_at_any_time(functions):
    for number, way in ((15, "terminate"), (9, "kill")):
        early, process = start_process(functions, "lives"), start_process(functions, "lives")
        getattr(early, way)()
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        getattr(process, way)()
        assert early.wait(60) == process.wait(60) == -number
    with pytest.raises(TimeoutError):
        communicate(start_process(functions, "lives"), b"", 0.5)


def alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only there a child is forked, and known by a file in /proc")
@pytest.mark.parametrize("outlives", [False, True])
def test_a_child_of_a_killed_parent_is_killed_unless_it_outlives_parents(outlives, tmp_path):
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    program = f"""
import sys
from litmus.fork_server import start_process
child = start_process("functions", "lives", outlives_parent={outlives})
print(child.stdout.readline().decode(), flush=True)
sys.stdin.read()
"""
    path = os.pathsep.join([str(tmp_path), *(entry for entry in sys.path if entry)])
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()
    until = time.monotonic() + (1 if outlives else 60)
    while alive(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert alive(child) == outlives
    if outlives:
        os.kill(child, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="there is no fork server elsewhere")
def test_a_killed_server_is_replaced_and_its_children_keep_running(tmp_path, monkeypatch):
    (tmp_path / "of_a_server.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    process = start_process("of_a_server", "lives")
    number = int(process.stdout.readline())
    fork_server._Server.end()
    assert communicate(start_process("of_a_server", "mirror"), b"", 60)
    assert alive(number)
    process.kill()
    assert process.wait(60) == -9


def test_an_environment_of_any_length_is_taken(functions, monkeypatch):
    monkeypatch.setenv("ASKED", "x" * 120_000)
    found = json.loads(communicate(start_process(functions, "mirror", "y" * 20_000), b"", 60))
    assert len(found[3]) == 120_000 and len(found[1][0]) == 20_000
