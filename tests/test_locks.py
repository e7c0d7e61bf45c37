"""One process at a time in a folder, and a sentence about the one that is there."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from litmus.errors import BadInput
from litmus.locks import folder_lock, lock_file

HOLD = """
import sys
from pathlib import Path
from litmus.locks import folder_lock
with folder_lock(Path(sys.argv[1]), "training in"):
    print("held", flush=True)
    sys.stdin.read()
"""
RACE = """
import sys, time
from pathlib import Path
from litmus.errors import BadInput
from litmus.locks import folder_lock
print("ready", flush=True)
sys.stdin.readline()
try:
    with folder_lock(Path(sys.argv[1]), "training in"):
        print("mine", flush=True)
        sys.stdin.read()
except BadInput as error:
    print(error, flush=True)
"""


def begun(program: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.communicate()
    assert process.returncode == 0


def test_the_second_comer_gets_one_sentence_with_the_first_ones_process_and_host(tmp_path: Path) -> None:
    first = begun(HOLD, tmp_path / "run")
    assert line(first) == "held"
    for _ in range(2):  # being refused does not erase what the first one wrote
        with pytest.raises(BadInput) as refused, folder_lock(tmp_path / "run", "comparing in"):
            pass
        assert str(refused.value).startswith(
            f"another process is training in {tmp_path / 'run'} (process {first.pid} on {socket.gethostname()}, since "
        )
        assert "\n" not in str(refused.value)
    end(first)
    with folder_lock(tmp_path / "run", "training in"):
        pass


def test_a_lock_does_not_outlive_its_process(tmp_path: Path) -> None:
    first = begun(HOLD, tmp_path / "run")
    assert line(first) == "held"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert lock_file(tmp_path / "run").exists()
    with folder_lock(tmp_path / "run", "training in"):
        pass


@pytest.mark.slow
def test_of_many_that_begin_at_the_same_moment_exactly_one_gets_the_folder(tmp_path: Path) -> None:
    for number in range(5):
        racers = [begun(RACE, tmp_path / str(number)) for _ in range(4)]
        for racer in racers:
            assert line(racer) == "ready"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
        answers = [line(racer) for racer in racers]
        for racer in racers:
            end(racer)
        assert answers.count("mine") == 1, answers
        assert all("another process is training in" in answer for answer in answers if answer != "mine"), answers


def test_handed_from_one_to_the_next_it_is_never_held_twice(tmp_path: Path) -> None:
    inside, most = 0, 0

    def take_turns() -> None:
        nonlocal inside, most
        for _ in range(50):
            with folder_lock(tmp_path / "run", "training in", on_wait=lambda sentence: None):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=take_turns) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert list(tmp_path.iterdir()) == []


def test_a_lock_survives_the_replacement_of_its_folder_and_leaves_nothing_behind(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with folder_lock(run, "training in"):
        run.rename(tmp_path / "old")
        run.mkdir()
        with pytest.raises(BadInput, match="another process is training in"), folder_lock(run, "training in"):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "run"]


def test_a_folder_and_a_link_to_it_have_one_lock(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with (
        folder_lock(tmp_path / "real", "training in"),
        pytest.raises(BadInput, match="another process"),
        folder_lock(tmp_path / "link", "training in"),
    ):
        pass


def test_who_waits_is_told_for_whom_and_goes_on_when_the_folder_is_free(tmp_path: Path) -> None:
    first = begun(HOLD, tmp_path / "run")
    assert line(first) == "held"
    said: list[str] = []

    def told(sentence: str) -> None:
        said.append(sentence)
        assert first.stdin is not None
        first.stdin.close()

    with folder_lock(tmp_path / "run", "training in", on_wait=told):
        assert re.search(rf"process {first.pid} on .*waiting for it", said[0])
    first.wait()


def test_a_forked_child_does_not_keep_the_lock_of_its_parent(tmp_path: Path) -> None:
    code = """
import os, sys, time
from pathlib import Path
from litmus.locks import folder_lock
with folder_lock(Path(sys.argv[1]), "training in"):
    child = os.fork()
    if child == 0:
        os.close(1), os.close(2)
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    os.kill(os.getpid(), 9)
"""
    parent = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True)
    child = int(parent.stdout)
    try:
        with folder_lock(tmp_path / "run", "training in"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_where_the_folder_above_cannot_be_written_the_lock_lies_inside() -> None:
    code = """
import os, sys
import encodings.utf_8_sig  # while this process may still read where Python lies
from pathlib import Path
from litmus.errors import BadInput
from litmus.locks import folder_lock, lock_file
run = Path(sys.argv[1])
if os.getuid() == 0:
    os.setuid(65534)
assert lock_file(run) == run / ".lock"
with folder_lock(run, "training in"):
    try:
        with folder_lock(run, "training in"):
            pass
    except BadInput as error:
        print(error)
try:
    with folder_lock(run.parent / "other", "training in"):
        pass
except BadInput as error:
    print(error)
"""
    with tempfile.TemporaryDirectory() as home:
        run = Path(home) / "run"
        run.mkdir()
        run.chmod(0o777)
        Path(home).chmod(0o555)
        ended = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True)
        Path(home).chmod(0o755)
        assert ended.returncode == 0, ended.stderr
        first, second = ended.stdout.splitlines()
        assert first.startswith(f"another process is training in {run} (process ")
        assert second.startswith(f"{home}/other cannot be written: Permission denied")
