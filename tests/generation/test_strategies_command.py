"""`litmus generate` with beams, by contrast and with a draft, as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch

import litmus
from litmus.cli import main
from litmus.cli.generate import generate as command
from litmus.data.tokens.tokenizer import BytePairTokenizer, ByteTokenizer
from litmus.generation import Sampling, generate
from litmus.generation.engine import Request
from litmus.generation.search.beam import beam_search
from litmus.interop import export_model, import_run
from litmus.model import Decoder
from litmus.training.run.loading import load_run

SHAPE: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 4, "context": 64}
LENGTH = ("--max-new-tokens", "12")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, rough: Callable[..., Decoder]) -> Path:
    """Runs "large" and "small" of one byte tokenizer, and "foreign" of another."""
    folder = tmp_path_factory.mktemp("ways")
    pairs = BytePairTokenizer("toy", ["t h"])
    for name, tokenizer, depth in (("large", ByteTokenizer(), 2), ("small", ByteTokenizer(), 1), ("foreign", pairs, 1)):
        model = litmus.build("standard", vocab_size=300, overrides={**SHAPE, "depth": depth})
        export_model(rough(model, torch.float32), tokenizer, folder / "exported" / name)
        import_run(folder / "exported" / name, folder / name)
    return folder


@pytest.fixture
def call(runs: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def typed(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["generate", str(runs / "large"), "--device", "cpu", "--prompt", "ab", *LENGTH, *arguments])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return typed


def test_beams_print_the_best_texts_in_order(call: Any, runs: Path) -> None:
    loaded = load_run(runs / "large")
    tokenizer = loaded.tokenizer
    request = Request([tokenizer.eos_id, *tokenizer.encode("ab")], max_new_tokens=12, stop=[tokenizer.eos_id])
    found = beam_search(loaded.model, request, beams=3, length_penalty=0.5)
    code, out, _ = call("--beams", "3", "--n", "2", "--length-penalty", "0.5", "--json")
    assert code == 0
    texts = [json.loads(line)["text"] for line in out.splitlines()]
    assert texts == [tokenizer.decode(hypothesis.tokens) for hypothesis in found[:2]]


def test_contrastive_search_with_one_candidate_is_greedy(call: Any, runs: Path) -> None:
    loaded = load_run(runs / "large")
    greedy = generate(loaded.model, ["ab"], tokenizer=loaded.tokenizer, max_new_tokens=12, temperature=0)[0]
    assert call("--contrastive", "0.6", "--top-k", "1")[:2] == (0, greedy + "\n")
    assert call("--contrastive", "0.6", "--top-k", "8")[1] != greedy + "\n"


def test_a_draft_changes_no_greedy_text_and_its_acceptance_is_printed(call: Any, runs: Path) -> None:
    plain = call("--temperature", "0")
    drafted = call("--temperature", "0", "--draft", str(runs / "small"), "--draft-tokens", "2")
    assert drafted[:2] == plain[:2]
    assert "drafted tokens" in drafted[2] and "per pass of the model" in drafted[2]


def test_a_stop_string_ends_a_text_that_is_written_alone(call: Any) -> None:
    whole = call("--contrastive", "0.6")[1]
    stop = whole[4:6]
    assert call("--contrastive", "0.6", "--stop", stop)[1] == whole[: whole.index(stop)] + "\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--beams", "3", "--contrastive", "0.5"), "--contrastive has no effect together with --beams"),
        (("--beams", "3", "--temperature", "0.5"), "--temperature has no effect together with --beams"),
        (("--contrastive", "0.5", "--n", "3"), "--n has no effect together with --contrastive"),
        (("--length-penalty", "2"), "--length-penalty does nothing without --beams"),
        (("--draft-tokens", "2"), "--draft-tokens does nothing without --draft"),
        (("--beams", "2", "--n", "3"), "3 texts of 2 beams are too many"),
        (("--draft", "self"), "large has no multi-token modules"),
        (("--draft", "nowhere"), "nowhere is not a run folder"),
        (("--draft", "FOREIGN"), "has another tokenizer"),
    ],
)
def test_what_would_do_nothing_or_cannot_be_done_is_refused(
    call: Any, runs: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    code, out, err = call(*(argument.replace("FOREIGN", str(runs / "foreign")) for argument in arguments))
    assert (code, out) == (2, "")
    assert sentence in err and err.count("\n") == 1


def test_the_former_name_of_draft_tokens_is_still_read_and_not_shown(call: Any, runs: Path) -> None:
    draft = ("--temperature", "0", "--draft", str(runs / "small"))
    assert call(*draft, "--ahead", "2") == call(*draft, "--draft-tokens", "2")
    assert "--ahead" not in call("--help")[1]


def test_the_command_describes_sampling_as_the_settings_do() -> None:
    hints = get_type_hints(command, include_extras=True)
    for name, field in Sampling.model_fields.items():
        if name not in ("logit_bias", "bad_words"):  # given there as text
            assert hints[name].__metadata__[0].help == field.description
