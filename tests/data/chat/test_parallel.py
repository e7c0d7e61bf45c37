"""Several processes write what one writes."""

import pytest

from litmus.data.chat.parallel import write_windows
from litmus.data.chat.reading import ThreadSettings
from litmus.data.chat.template import ChatTemplate, named_speakers
from litmus.data.chat.threads import Threads, write_threads
from litmus.data.chat.windows import WindowSettings, WindowWriter
from litmus.data.messages import no_log
from litmus.data.tokens.tokenizer import ByteTokenizer
from litmus.errors import BadInput


@pytest.fixture
def threads(rows, write, tmp_path):
    """Twelve threads; the first says much more than the others."""
    rows += [{**rows[0], "message": f"{number} more of it", "message_timestamp": "2024-05-01"} for number in range(40)]
    folder = tmp_path / "threads"
    folder.mkdir()
    options = {"held_out": 0.2, "sample_bytes": None, "log": no_log}
    write_threads(folder, [(write(rows), "jsonl")], ThreadSettings(), **options)
    return Threads(folder)


def written(folder, threads, processes, template=None, **options):
    folder.mkdir()
    tokenizer = ByteTokenizer()
    tokenizer.save(folder)
    how = WindowSettings.of(ThreadSettings(**options), with_roles=False)
    writer = WindowWriter(how, template or named_speakers(), tokenizer)
    counts = write_windows(folder, "train", threads, writer, no_log, processes=processes)
    return counts, {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("processes", [3])
def test_several_processes_write_the_bytes_of_one(threads, tmp_path, processes):
    options = {"window": 3, "max_tokens": 90, "targets": "author:user1,user2", "keep_head": True, "pseudonyms": True}
    assert len(threads.ranges("train", processes)) > 1
    alone, together = (written(tmp_path / f"{n}", threads, n, **options) for n in (1, processes))
    assert alone == together and alone[0].windows_cut_to_fit > 0


def test_the_ranges_of_a_split_hold_its_threads_once_and_about_equally_much(threads):
    whole = list(threads.of("train"))
    for parts in (1, 2, 4, 50):
        ranges = threads.ranges("train", parts)
        assert [thread for numbers in ranges for thread in threads.of("train", numbers)] == whole
        sizes = [sum(len(thread.turns) for thread in threads.of("train", numbers)) for numbers in ranges]
        assert max(sizes) <= sum(sizes) / parts + max(len(thread.turns) for thread in whole)


def test_what_one_process_refuses_is_said_by_several(threads, tmp_path):
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(BadInput, match=r"threads.jsonl line \d+: .*roles must alternate"):
        written(tmp_path / "refused", threads, 2, template)
