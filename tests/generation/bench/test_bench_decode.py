"""`litmus bench decode`: which strategies there are, that they must agree, and what is told of their times."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from litmus.cli import main
from litmus.data.tokens.tokenizer import ByteTokenizer
from litmus.errors import BadInput, Failed
from litmus.generation.bench import Cell, decode_strategies, measure
from litmus.generation.bench.bench import cell_data
from litmus.generation.bench.measure import check_equal, random_prompts, self_generated_prompts
from litmus.generation.bench.report import draw, save_figure, table
from litmus.generation.bench.strategies import recompute
from litmus.interop import export_model, import_run
from litmus.model import Decoder, build

SHAPE: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 4, "context": 48, "vocab_size": 257}
SMALL = ["--prompt-tokens", "4,8", "--batch", "1,2", "--new-tokens", "4", "--repeats", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def make(rough: Callable[..., Decoder]) -> Callable[..., Decoder]:
    return lambda recipe: rough(build(recipe, **SHAPE), torch.float32).eval()


@pytest.fixture
def cells() -> list[Cell]:
    return [
        Cell("no cache", 8, 1, 0, [[1.0, 3.0, 5.0], [1.0, 2.0, 5.0]]),
        Cell("cache", 8, 1, 4096, [[1.0, 1.5, 2.0], [2.0, 2.5, 3.0]]),
    ]


def test_latent_attention_is_measured_in_the_four_decode_strategies_the_founding_benchmark(make: Any) -> None:
    names = [strategy.name for strategy in decode_strategies(make("mla"))]
    assert names[:5] == ["no cache", "absorbed", "cache", "cache + absorbed", "litmus"]
    assert [strategy.name for strategy in decode_strategies(make("standard"))][:3] == ["no cache", "cache", "litmus"]


def test_a_model_with_mtp_modules_is_also_decoded_speculatively(make: Any) -> None:
    assert "speculative" in [strategy.name for strategy in decode_strategies(make("deepseek"))]
    assert "speculative" not in [strategy.name for strategy in decode_strategies(make("mla"))]


@pytest.mark.parametrize("recipe", ["standard", "deepseek", "window-sinks", "worker"])
def test_all_strategies_generate_the_same(make: Any, recipe: str) -> None:
    model = make(recipe)
    for strategy in decode_strategies(model):
        for rows in (1, 3):
            if rows <= (strategy.max_batch_size or rows):
                check_equal(strategy, random_prompts(model, rows, 9), 6)


def test_a_strategy_with_another_text_fails_before_anything_is_timed(make: Any) -> None:
    model = make("standard")

    def wrong(model: Decoder, prompts: Tensor, number: int) -> Iterator[Tensor]:
        for place, tokens in enumerate(recompute(model, prompts, number)):
            yield tokens if place < 2 else (tokens + 1) % 257

    plain = decode_strategies(model)[0]
    heard: list[str] = []
    with pytest.raises(Failed, match=r"broken is not equal to the plain forward pass: .* nothing was timed"):
        strategies = [plain, replace(plain, name="broken", decode=wrong)]
        measure(strategies, [random_prompts(model, 2, 5)], new_tokens=4, repeats=1, log=heard.append)
    assert not [text for text in heard if text.startswith("timing")]


def test_runs_are_interleaved(make: Any) -> None:
    model, heard = make("standard"), []
    strategies = decode_strategies(model)[:2]
    found = measure(strategies, [random_prompts(model, 1, 5)], new_tokens=3, repeats=2, log=heard.append)
    timed = [text.split(",")[0] for text in heard if text.startswith("timing")]
    assert timed == ["timing no cache", "timing cache"] * 2
    assert [[len(run) for run in cell.runs] for cell in found] == [[3, 3]] * 2


def test_a_cell_tells_its_times_apart(cells: list[Cell]) -> None:
    first = cells[0]
    assert first.first == [1, 1] and first.total == [5, 5]
    assert first.per_token == [2, 2]
    assert first.by_position == [1.5, 2.5]
    assert first.tokens_per_second == [0.6, 0.6]


def test_without_a_cache_none_is_held(make: Any) -> None:
    plain, cached = decode_strategies(make("standard"))[:2]
    assert plain.cache_bytes(2, 10) == 0
    assert cached.cache_bytes(2, 10) == 2 * 10 * 2 * 32 * 2 * 4


def test_self_generated_prompts_have_the_wanted_length(make: Any) -> None:
    model = make("standard")
    assert self_generated_prompts(model, 2, 7).shape == (2, 7)
    assert self_generated_prompts(model, 2, 1).shape == (2, 1)


@pytest.mark.parametrize("kind", [".png", ".svg"])
def test_the_figure_has_four_panels_and_is_written_by_its_name(cells: list[Cell], tmp_path: Path, kind: str) -> None:
    figure = draw(cells, "title")
    assert [axes.get_title(loc="left").split(",")[0] for axes in figure.axes] == [
        "total",
        "per token after the first",
        "first token",
        "each token after a prompt of 8",
    ]
    save_figure(figure, tmp_path / f"figure{kind}")
    assert (tmp_path / f"figure{kind}").stat().st_size > 1000


def test_the_table_and_the_data_hold_every_strategy(cells: list[Cell]) -> None:
    assert table(cells, "title").row_count == 3
    data = [cell_data(cell) for cell in cells]
    assert [entry["strategy"] for entry in data] == ["no cache", "cache"]
    assert data[1]["per_token"] == {"median": 0.5, "low": 0.5, "high": 0.5}
    assert data[1]["runs"] == cells[1].runs


@pytest.fixture
def litmus(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def typed(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["bench", "decode", *arguments])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return typed


def test_a_recipe_is_measured_and_written_down(litmus: Any, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    changes = [part for name in ("dim=32", "depth=2", "heads=2") for part in ("--set", name)]
    code, out, err = litmus("mtp", *changes, *SMALL, "--threads", "1", "--json", str(tmp_path / "decode.json"))
    assert code == 0, err
    assert "batch 2, prompt 8" in out and "speculative: accepted" in out
    written = json.loads((tmp_path / "decode.json").read_text(encoding="utf-8"))
    assert written["threads"] == 1 and written["versions"]
    assert {(cell["batch"], cell["prompt_tokens"]) for cell in written["cells"]} == {(1, 4), (1, 8), (2, 4), (2, 8)}
    assert torch.get_num_threads() == threads


def test_a_run_is_measured_within_its_context(litmus: Any, make: Any, tmp_path: Path) -> None:
    export_model(make("standard"), ByteTokenizer(), tmp_path / "exported")
    import_run(tmp_path / "exported", tmp_path / "run")
    small = ["--batch", "1", "--new-tokens", "4", "--repeats", "1", "--device", "cpu"]
    code, out, err = litmus(str(tmp_path / "run"), *small)
    assert code == 0, err
    assert "prompt 32" in out and "prompt 128" not in out
    code, _, err = litmus(str(tmp_path / "run"), *small, "--prompt-tokens", "50")
    assert (code, err.count("\n")) == (2, 1) and "exceed the context of 48" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--batch", "1,x"), "--batch '1,x' is not a list of whole numbers"),
        (("--prompt-tokens", "0"), "--prompt-tokens '0'"),
        (("--new-tokens", "1"), "measure nothing"),
        (("--figure", "out.pdf"), "must end in .png or .svg"),
        (("--precision", "fp8"), "precision 'fp8' is unknown"),
    ],
)
def test_what_cannot_be_measured_is_refused(litmus: Any, arguments: tuple[str, ...], sentence: str) -> None:
    code, _, err = litmus("standard", "--device", "cpu", *arguments)
    assert code == 2 and sentence in err and err.count("\n") == 1


def test_measuring_nothing_is_refused(make: Any) -> None:
    with pytest.raises(BadInput, match="0 repeats"):
        measure([], [], new_tokens=4, repeats=0)
