"""`litmus data`: prepare corpora and look at them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from litmus.cli.options import CORPUS, HeldOut, SampleBytes, TokenizerName
from litmus.cli.parsing import Command, Group
from litmus.process import lasting_output

if TYPE_CHECKING:
    from litmus.data import TokenData

app = typer.Typer(help="Prepare corpora and look at them.", cls=Group)

Corpus = Annotated[str, typer.Argument(help=CORPUS)]


@app.command(cls=Command)
@lasting_output()
def prepare(
    corpus: Corpus = "stdlib",
    tokenizer: TokenizerName = "bpe-4096",
    held_out: HeldOut = 0.1,
    sample_bytes: SampleBytes = None,
) -> None:
    """Tokenize a corpus into the cache, ready for training.

    Examples:

      litmus data prepare

      litmus data prepare shakespeare --tokenizer gpt2

      litmus data prepare "notes/**/*.md" --tokenizer bytes --held-out 0.2

      litmus data prepare chats.jsonl.gz:message --sample-bytes 5000000
    """
    from litmus.data import summary

    print(summary(_prepared(corpus, tokenizer, held_out, sample_bytes)))


@app.command(cls=Command)
def show(
    corpus: Corpus = "stdlib",
    tokenizer: TokenizerName = "bpe-4096",
    held_out: HeldOut = 0.1,
    sample_bytes: SampleBytes = None,
) -> None:
    """Print the counts and the fingerprint of a corpus, and the beginning of its held-out text.

    Examples:

      litmus data show

      litmus data show sotu --tokenizer bytes
    """
    from litmus.data import sample, summary

    data = _prepared(corpus, tokenizer, held_out, sample_bytes)
    print(summary(data))
    print(f"\nheld-out text begins:\n{sample(data)}")


@app.command("list", cls=Command)
def list_corpora() -> None:
    """List the corpora that have a name.

    Examples:

      litmus data list
    """
    from litmus.data import NAMED

    for name, description in NAMED.items():
        print(f"{name:<22} {description}")


def _prepared(corpus: str, tokenizer: str, held_out: float, sample_bytes: int | None) -> TokenData:
    from litmus.data import DataSettings, prepare

    settings = DataSettings(corpus=corpus, tokenizer=tokenizer, held_out=held_out, sample_bytes=sample_bytes)
    return prepare(settings, announce=lambda line: print(line, file=sys.stderr))
