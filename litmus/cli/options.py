"""Options that several commands share, and how `--set key=value` is read."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import yaml

from litmus.errors import BadInput
from litmus.training.settings import TrainSettings

Size = Annotated[
    str | None,
    typer.Option(help="A row of the size table: tiny, mini, small or base; own: the size that the recipe states."),
]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one key of the recipe, e.g. mixer.kv_heads=2; may be repeated."
    ),
]
CORPUS = (
    "A named corpus (see: litmus data list), a file, folder or glob (.txt .md .py .jsonl .parquet, also .gz; "
    "PATH:COLUMN for rows), or hf:NAME:SPLIT:COLUMN."
)
_TOKENIZER = "bytes, bpe-N (N tokens, learned from the train split), gpt2, a run, or a tokenizer.json."
Corpus = Annotated[str, typer.Option("--data", help=CORPUS)]
CorpusOrOwn = Annotated[str | None, typer.Option("--data", help=f"{CORPUS} Default: stdlib, or the run's own.")]
TokenizerName = Annotated[str, typer.Option("--tokenizer", help=_TOKENIZER)]
TokenizerOrOwn = Annotated[
    str | None, typer.Option("--tokenizer", help=f"{_TOKENIZER} Default: bpe-4096, or the run's own.")
]
HeldOut = Annotated[float, typer.Option(help="Share of the text's bytes that is held out.")]
SampleBytes = Annotated[int | None, typer.Option(help="Use only the first so many bytes of the corpus.")]
Option = Annotated[
    list[str] | None,
    typer.Option(
        "--option", metavar="KEY=VALUE", help="Any other training option (docs/training.md); may be repeated."
    ),
]
TrustPlugin = Annotated[
    bool, typer.Option("--trust-plugin", help="Run the copy of the plug-in that lies in the run folder.")
]


def setting(name: str) -> Any:
    """The typer option whose help is what the training setting of that name declares."""
    return typer.Option(help=TrainSettings.model_fields[name].description)


def overrides(settings: list[str] | None) -> dict[str, Any]:
    """["mixer.kv_heads=2"] as {"mixer.kv_heads": 2}; values are read as YAML."""
    changes = {}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise BadInput(f"{setting!r} is not of the form key=value, e.g. --set mixer.kv_heads=2")
        try:
            changes[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise BadInput(
                f"--set {setting!r}: the value is not YAML; quote it or use a plain number or word"
            ) from None
    return changes
