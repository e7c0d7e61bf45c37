"""`litmus data`: prepare corpora and look at them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from litmus.cli.options import CORPUS, HeldOut, SampleBytes, TokenizerName
from litmus.cli.output import log
from litmus.cli.parsing import Command, Group
from litmus.errors import BadInput, shown
from litmus.process import defer_output_errors

if TYPE_CHECKING:
    from litmus.data import TokenData

app = typer.Typer(help="Prepare corpora and look at them.", cls=Group)

Corpus = Annotated[str | None, typer.Argument(help=f"{CORPUS} Default: stdlib.")]
DataOption = Annotated[str | None, typer.Option("--data", help="The corpus, as the other commands take it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(cls=Command)
@defer_output_errors()
def prepare(
    corpus: Corpus = None,
    data: DataOption = None,
    tokenizer: TokenizerName = "bpe-4096",
    held_out: HeldOut = 0.1,
    sample_bytes: SampleBytes = None,
    as_json: AsJson = False,
) -> None:
    """Tokenize a corpus into the cache, ready for training.

    Examples:

      litmus data prepare

      litmus data prepare shakespeare --tokenizer gpt2

      litmus data prepare "notes/**/*.md" --tokenizer bytes --held-out 0.2

      litmus data prepare chats.jsonl.gz:message --sample-bytes 5000000
    """
    from litmus.data import summary

    prepared = _prepared(corpus, data, tokenizer, held_out, sample_bytes)
    print(json.dumps(_as_json(prepared), indent=1) if as_json else summary(prepared))


@app.command(cls=Command)
def show(
    corpus: Corpus = None,
    data: DataOption = None,
    tokenizer: TokenizerName = "bpe-4096",
    held_out: HeldOut = 0.1,
    sample_bytes: SampleBytes = None,
    as_json: AsJson = False,
) -> None:
    """Print the counts and the fingerprint of a corpus, and the beginning of its held-out text.

    Examples:

      litmus data show

      litmus data show sotu --tokenizer bytes

      litmus data show --data my_book.txt
    """
    from litmus.data import sample, summary

    prepared = _prepared(corpus, data, tokenizer, held_out, sample_bytes)
    if as_json:
        print(json.dumps({**_as_json(prepared), "held_out_begins": sample(prepared)}, indent=1))
        return
    print(summary(prepared))
    print(f"\nheld-out text begins:\n{sample(prepared)}")


@app.command("list", cls=Command)
def list_corpora(as_json: AsJson = False) -> None:
    """List the corpora that have a name.

    Examples:

      litmus data list
    """
    from litmus.data import NAMED

    if as_json:
        print(json.dumps(NAMED, indent=1))
        return
    for name, description in NAMED.items():
        print(f"{name:<22} {description}")


def _as_json(data: TokenData) -> dict[str, Any]:
    return {"fingerprint": data.fingerprint, **data.provenance}


def _prepared(
    corpus: str | None, data: str | None, tokenizer: str, held_out: float, sample_bytes: int | None
) -> TokenData:
    """The prepared corpus, named by the argument or by --data."""
    if None not in (corpus, data) and corpus != data:
        raise BadInput(f"{shown(corpus)} and --data {shown(data)} name two corpora; name one of them")
    from litmus.data import DataSettings, prepare

    named = corpus if data is None else data
    named = "stdlib" if named is None else named
    settings = DataSettings(corpus=named, tokenizer=tokenizer, held_out=held_out, sample_bytes=sample_bytes)
    return prepare(settings, log=log)
