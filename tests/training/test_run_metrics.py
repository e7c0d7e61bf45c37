import errno
import json

import pytest

from litmus.errors import BadInput
from litmus.training.run.metrics import Metrics, read_metrics


def write_steps(path, first, last, resumed_at=0):
    with Metrics(path, resumed_at) as metrics:
        for step in range(first, last + 1):
            metrics.write("train", step, {"loss": 1 / step}, {"seconds": step * 0.5})
            if step % 2 == 0:
                metrics.write("val", step, {"loss": 2 / step}, {})
        metrics.sync()


def test_resuming_after_a_cut_at_any_byte_gives_the_uninterrupted_file(tmp_path):
    whole = tmp_path / "whole.jsonl"
    write_steps(whole, 1, 6)
    content = whole.read_bytes()
    after_step_4 = content.index(b'{"kind": "train", "step": 5')
    cut = tmp_path / "cut.jsonl"
    for length in range(after_step_4, len(content) + 1):
        cut.write_bytes(content[:length])
        write_steps(cut, 5, 6, resumed_at=4)
        assert cut.read_bytes() == content


def test_lines_after_the_step_resumed_at_are_taken_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 1, 6)
    with Metrics(path, 2):
        pass
    assert [event["step"] for event in read_metrics(path)] == [1, 2, 2]


def test_starting_over_leaves_nothing_of_an_earlier_attempt(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 1, 3)
    with Metrics(path, 0):
        pass
    assert path.read_bytes() == b""


def test_a_reader_ignores_a_last_line_that_was_cut_short(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 1, 3)
    whole = read_metrics(path)
    with path.open("ab") as file:
        file.write(b'{"kind": "train", "st')
    assert read_metrics(path) == whole


def test_figures_are_kept_to_the_last_bit_and_only_timing_depends_on_the_clock(tmp_path):
    path = tmp_path / "metrics.jsonl"
    loss = 0.1 + 0.2
    with Metrics(path, 0) as metrics:
        metrics.write("train", 1, {"loss": loss}, {"seconds": 1.23456789})
    event = json.loads(path.read_text())
    assert event == {"kind": "train", "step": 1, "loss": loss, "timing": {"seconds": 1.234568}}


@pytest.mark.parametrize("fits", [None, 10])
def test_a_disk_with_no_room_for_a_line_or_for_half_of_it_is_full(fits, tmp_path):
    with Metrics(tmp_path / "metrics.jsonl", 0) as metrics:

        class Full:
            def write(self, line):
                if fits is None:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return fits

            def close(self):
                pass

        metrics._file.close()
        metrics._file = Full()
        with pytest.raises(BadInput, match="disk is full"):
            metrics.write("train", 1, {}, {})
