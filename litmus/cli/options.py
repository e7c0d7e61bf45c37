"""Options of several commands, and the parsing of `--set key=value`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from litmus.bounds import MAX_FILE_BYTES, MAX_INT
from litmus.errors import BadInput, shown
from litmus.training.settings import TrainSettings
from litmus.yaml_json import parse_yaml

Size = Annotated[
    str | None,
    typer.Option(help="A row of the size table (tiny, mini, small or base), or own for the size in the recipe."),
]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one key of the recipe, e.g. mixer.kv_heads=2; may be repeated."
    ),
]
CORPUS = (
    "A named corpus (see: litmus data list), a file, folder or glob (.txt .md .py .jsonl .parquet .csv .json, "
    "also .gz or .zst; PATH:COLUMN for rows), hf:NAME:SPLIT:COLUMN, or threads:PATH for conversations."
)
_TOKENIZER = "bytes, bpe-N (N tokens, learned from the train split), gpt2, a run, or a tokenizer.json."
Corpus = Annotated[str, typer.Option("--data", help=CORPUS)]
CorpusOrOwn = Annotated[str | None, typer.Option("--data", help=f"{CORPUS} Default: stdlib, or the run's own.")]
TokenizerName = Annotated[str, typer.Option("--tokenizer", help=_TOKENIZER)]
TokenizerOrOwn = Annotated[
    str | None, typer.Option("--tokenizer", help=f"{_TOKENIZER} Default: bpe-4096, or the run's own.")
]
TokenizerOfSaved = Annotated[
    str | None,
    typer.Option("--tokenizer", help="For a saved model, which has none: bytes, gpt2, a run, or a tokenizer.json."),
]
HeldOut = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Fraction held out, of the bytes of a text or of threads. Default: 0.1, of threads 0.3."
    ),
]
Chat = Annotated[
    list[str] | None,
    typer.Option(
        "--chat",
        metavar="KEY=VALUE",
        help="How threads become training windows, e.g. window=8 (docs/chat.md); may be repeated.",
    ),
]
SampleBytes = Annotated[
    int | None, typer.Option(min=1, max=MAX_FILE_BYTES, help="Use only the first N bytes of the corpus.", metavar="N")
]
Option = Annotated[
    list[str] | None,
    typer.Option(
        "--option", metavar="KEY=VALUE", help="Any other training option (docs/training.md); may be repeated."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes CUDA when there is one.")]
Best = Annotated[bool, typer.Option("--best", help="Take the checkpoint with the lowest validation loss.")]


def _folder(name: str) -> str:
    if not name:
        raise BadInput("--runs = '' is not valid; it must be the path of a folder, such as runs")
    return name


RunsFolder = Annotated[
    str, typer.Option("--runs", help="Folder of runs and comparisons.", metavar="DIR", callback=_folder)
]
TrustPlugin = Annotated[
    bool,
    typer.Option(
        "--trust-plugin",
        help="Run the plug-in code that a folder or recipe file names even if you have never named it.",
    ),
]


def setting(name: str) -> Any:
    """A typer option with the help text and the bounds of a training setting."""
    field = TrainSettings.model_fields[name]
    low = next((bound.ge for bound in field.metadata if hasattr(bound, "ge")), None)
    high = next((bound.le for bound in field.metadata if hasattr(bound, "le")), MAX_INT)
    return typer.Option(min=low, max=None if high == MAX_INT else high, help=field.description)


def overrides(settings: list[str] | None, option: str = "--set") -> dict[str, Any]:
    """["mixer.kv_heads=2"] as {"mixer.kv_heads": 2}, values parsed as YAML; `option` is named in errors."""
    changes: dict[str, Any] = {}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise BadInput(f"{option} {shown(setting)} is not of the form key=value, e.g. --set mixer.kv_heads=2")
        if not all(key.split(".")):
            raise BadInput(f"{option} {shown(setting)} has an empty part in its key; mixer.kv_heads is a valid key")
        # No YAML value begins with %, as formats of times do.
        named = f"{option} {shown(key, quoted=False)}"
        changes[key] = value if value.startswith("%") else parse_yaml(value, named)
    return changes
