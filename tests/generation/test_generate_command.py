"""`litmus generate` as a user types it."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import litmus
from litmus.cli import main
from litmus.data.tokens.tokenizer import ByteTokenizer
from litmus.generation import Engine, generate
from litmus.interop import export_model, import_run
from litmus.training.run.loading import load_run

Result = tuple[int, str, str]
Call = Callable[..., Result]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small untrained model with a byte tokenizer."""
    folder = tmp_path_factory.mktemp("generate")
    model = litmus.build("standard", vocab_size=300, overrides={"dim": 32, "depth": 2, "heads": 4, "context": 64})
    export_model(model, ByteTokenizer(), folder / "exported")
    import_run(folder / "exported", folder / "run")
    return folder / "run"


@pytest.fixture
def call(run: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> Call:
    """call("--prompt", ...) -> (exit code, stdout, stderr)."""

    def typed(*arguments: str, folder: Path = run) -> Result:
        with pytest.raises(SystemExit) as ended:
            main(["generate", str(folder), "--device", "cpu", *arguments])
        out, err = capsysbinary.readouterr()
        code = ended.value.code
        return code if isinstance(code, int) else 0, out.decode(), err.decode()

    return typed


@pytest.fixture
def expected(run: Path) -> Callable[..., list[str]]:
    loaded = load_run(run)
    plain: dict[str, Any] = {"tokenizer": loaded.tokenizer, "max_new_tokens": 12}
    return lambda prompts, **options: generate(loaded.model, prompts, **{**plain, **options})


LENGTH = ("--max-new-tokens", "12")


def test_one_prompt_is_continued_and_not_printed(call: Call, expected: Any) -> None:
    code, out, _ = call("--prompt", "hello", *LENGTH)
    assert (code, out) == (0, expected(["hello"])[0] + "\n")


def test_no_prompt_starts_a_document(call: Call, expected: Any) -> None:
    assert call(*LENGTH)[1] == expected([""])[0] + "\n"


def test_several_continuations_draw_from_following_seeds(call: Call, expected: Any) -> None:
    _, out, _ = call("--prompt", "a", "--n", "3", "--seed", "5", *LENGTH)
    assert out == "\n---\n".join(expected(["a"] * 3, seed=5)) + "\n"


def test_the_lines_of_a_file_are_prompts_and_json_says_all_of_each(call: Call, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes("ä b\r\n\nlast".encode())
    code, out, _ = call("--file", str(tmp_path / "prompts.txt"), "--json", "--logprobs", *LENGTH)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["prompt"] for row in rows] == ["ä b", "", "last"]
    assert all(len(row["tokens"]) == len(row["logprobs"]) and max(row["logprobs"]) < 0 for row in rows)
    assert {row["finished"] for row in rows} <= {"length", "stop"}
    assert all(row["text"] == ByteTokenizer().decode(row["tokens"]) for row in rows)


def test_standard_input_is_one_prompt(call: Call, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"two\nlines")))
    assert call("--stdin", *LENGTH)[1] == expected(["two\nlines"])[0] + "\n"


def test_every_option_reaches_the_sampling(call: Call, expected: Any) -> None:
    typed = {
        "temperature": 1.5, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.95, "repetition_penalty": 1.2,
        "presence_penalty": 0.1, "frequency_penalty": 0.2, "no_repeat_ngram": 2, "min_new_tokens": 3, "seed": 4,
    }  # fmt: skip
    flags = [part for name, value in typed.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    named = ("--bad-word", "e", "--logit-bias", "x=5", "--logit-bias", "65=3", "--stop", "xx", "--stop-token", "q")
    _, out, _ = call("--prompt", "a", *flags, *named, *LENGTH)
    words: dict[str, Any] = {"bad_words": ["e"], "logit_bias": {120: 5.0, 65: 3.0}}
    assert out == expected(["a"], **typed, **words, stop=[256, ord("q")], stop_strings=["xx"])[0] + "\n"


def test_decoding_options_decode(call: Call) -> None:
    for options in (["--precision", "bf16"], ["--int8"], ["--int4"], ["--rows", "1", "--overflow", "slide"]):
        assert call("--prompt", "a", "--n", "2", "--max-new-tokens", "80", *options)[0] == 0


def test_ctrl_c_keeps_what_was_generated(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    step, steps = Engine.step, iter(range(99))

    def interrupted(engine: Engine) -> Any:
        if next(steps) % 5 == 4:
            raise KeyboardInterrupt
        return step(engine)

    monkeypatch.setattr(Engine, "step", interrupted)
    code, out, err = call(
        "--prompt", "a", "--n", "2", "--json", "--logprobs", "--stop-token", "0", "--temperature", "2"
    )
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 130 and "Traceback" not in err
    assert [(row["finished"], len(row["tokens"])) for row in rows] == [("interrupted", 4)] * 2
    code, out, _ = call("--prompt", "a")
    assert code == 130 and out.endswith("\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--stop-token", "qq"], "unknown stop token 'qq': as tokens it is 'q', 'q'; give one token's text or its id"),
        (["--stop-token", "257"], "unknown stop token 257; this tokenizer has the ids 0 to 256"),
        (["--stop", ""], "an empty stop string would stop everything"),
        (["--logit-bias", "e"], "logit bias 'e' is not of the form TOKEN=AMOUNT"),
        (["--logit-bias", "e=inf"], "logit bias 'e=inf' is not of the form TOKEN=AMOUNT"),
        (["--prompt", "\udcff"], "the prompt is not UTF-8: byte 0 is 0xff"),
        (["--logit-bias", "\udcff=1"], "the token of a logit bias is not UTF-8: byte 0 is 0xff"),
        (["--bad-word", "\udcff"], "--bad-word is not UTF-8: byte 0 is 0xff"),
        (["--n", "100000"], "one command writes at most 10,000 continuations"),
        (["--prompt", "a" * 64], "prompt 0 has 65 tokens and the context is 64; shorten it to 63"),
        (["--file", "nowhere.txt"], "nowhere.txt cannot be read: No such file or directory"),
        (["--prompt", "a", "--stdin"], "--prompt and --stdin were given together; choose one of them"),
        (["--temperature", "-1"], "--temperature = '-1' is not valid; it must be a number of at least 0"),
        (["--top-p", "0"], "top_p = 0.0 is not valid"),
        (["--max-new-tokens", "0"], "--max-new-tokens = '0' is not valid; it must be a whole number from 1"),
        (["--overflow", "wrap"], "overflow 'wrap' is unknown"),
        (["--rows", "0"], "--rows = '0' is not valid"),
        (["--rows", "999999999"], "needs"),
        (["--top-q", "1"], "unknown option --top-q of litmus generate; did you mean '--top-p'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments: list[str], sentence: str, call: Call) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err and len(err.strip().splitlines()) == 1 and "Traceback" not in err


def test_files_that_are_no_text_are_refused(call: Call, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"abc\xfe")
    (tmp_path / "empty").write_bytes(b"")
    assert "binary is not UTF-8: byte 3 is 0xfe" in call("--file", str(tmp_path / "binary"))[2]
    assert "empty is empty; give a text file with one prompt a line" in call("--file", str(tmp_path / "empty"))[2]


def test_prompts_that_nobody_typed_are_refused(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nul").write_bytes(b"ab\0c")
    (tmp_path / "huge").write_bytes(b"a" * (2**26 + 1))
    assert call("--file", str(tmp_path / "nul"))[::2] == (
        2,
        f"litmus: {tmp_path}/nul is no text: byte 2 is NUL; give UTF-8 text\n",
    )
    assert "huge has more than 64 MiB; give fewer or shorter prompts" in call("--file", str(tmp_path / "huge"))[2]
    for name, sentence in (("nul", "input is no text: byte 2 is NUL"), ("huge", "input has more than 64 MiB")):
        with (tmp_path / name).open("rb") as file:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
            code, out, err = call("--stdin")
        assert (code, out) == (2, "") and f"litmus: standard {sentence}" in err


@pytest.mark.parametrize(
    ("arguments", "figure"),
    [
        (["--n", "100000"], "100,000 continuations of up to 1 tokens are 100,000 tokens"),
        (
            ["--n", "10000", "--overflow", "slide", "--max-new-tokens", "2000"],
            "up to 2,000 tokens are 20,000,000 tokens",
        ),
        (["--max-new-tokens", "20000000", "--overflow", "slide"], "20,000,000 tokens"),
    ],
)
def test_more_text_than_anybody_waits_for_is_refused_with_the_figure(
    arguments: list[str], figure: str, call: Call
) -> None:
    code, out, err = call("--prompt", "a", *arguments)
    assert (code, out) == (2, "")
    assert figure in err and "one command writes at most 10,000 continuations and 10,000,000 tokens" in err


def test_a_run_without_a_tokenizer_is_refused(call: Call, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "tokenizer")
    code, _, err = call("--prompt", "a", folder=tmp_path / "run")
    assert code == 2 and "holds no tokenizer" in err
    assert call(folder=tmp_path / "none")[0] == 2
