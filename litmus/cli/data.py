"""`litmus data`: prepare corpora and look at them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from litmus.cli.options import CORPUS, Chat, HeldOut, SampleBytes, TokenizerName, overrides
from litmus.cli.output import log, results
from litmus.cli.parsing import Command, Group
from litmus.errors import BadInput, shown
from litmus.process import defer_output_errors

if TYPE_CHECKING:
    from rich.text import Text

    from litmus.data import TokenData

app = typer.Typer(help="Prepare corpora and look at them.", cls=Group)

Corpus = Annotated[str | None, typer.Argument(help=f"{CORPUS} Default: stdlib.")]
DataOption = Annotated[str | None, typer.Option("--data", help="The corpus, as the other commands take it.")]
Threads = Annotated[
    str | None, typer.Option("--threads", metavar="SOURCE", help="Conversations, as --data threads:SOURCE names them.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(cls=Command)
@defer_output_errors()
def prepare(
    corpus: Corpus = None,
    data: DataOption = None,
    tokenizer: TokenizerName = "bpe-4096",
    held_out: HeldOut = None,
    sample_bytes: SampleBytes = None,
    threads: Threads = None,
    chat: Chat = None,
    as_json: AsJson = False,
) -> None:
    """Tokenize a corpus into the cache, ready for training.

    Examples:

      litmus data prepare

      litmus data prepare shakespeare --tokenizer gpt2

      litmus data prepare "notes/**/*.md" --tokenizer bytes --held-out 0.2

      litmus data prepare chats.jsonl.gz:message --sample-bytes 5000000

      litmus data prepare --threads chats.jsonl.gz --chat window=8
    """
    from litmus.data import summary

    prepared = _prepared(corpus, data, threads, tokenizer, held_out, sample_bytes, chat)
    print(json.dumps(_as_json(prepared), indent=1) if as_json else summary(prepared))


@app.command(cls=Command)
def show(
    corpus: Corpus = None,
    data: DataOption = None,
    tokenizer: TokenizerName = "bpe-4096",
    held_out: HeldOut = None,
    sample_bytes: SampleBytes = None,
    threads: Threads = None,
    chat: Chat = None,
    mask: Annotated[
        bool, typer.Option("--mask", help="Print a training window, and in it what is trained on: ⟦so⟧, and in colour.")
    ] = False,
    number: Annotated[int, typer.Option("--window", min=0, help="Which window --mask prints.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Print the counts and the fingerprint of a corpus or of a run's, and the beginning of its held-out text.

    Examples:

      litmus data show

      litmus data show sotu --tokenizer bytes

      litmus data show --data my_book.txt

      litmus data show runs/roleplay --mask --window 7
    """
    from litmus.data import masked_window, sample, summary

    prepared = _prepared(corpus, data, threads, tokenizer, held_out, sample_bytes, chat)
    if mask:
        pieces = masked_window(prepared, number)
        if as_json:
            print(json.dumps([{"text": text, "trained": trained} for text, trained in pieces], indent=1))
        else:
            results().print(in_colour(pieces), soft_wrap=True)
        return
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
    corpus: str | None,
    data: str | None,
    threads: str | None,
    tokenizer: str,
    held_out: float | None,
    sample_bytes: int | None,
    chat: list[str] | None,
) -> TokenData:
    """The prepared corpus, named by the argument, by --data or by --threads."""
    from litmus.data import data_settings_from, prepare

    named = [name for name in (corpus, data, threads and f"threads:{threads}") if name is not None]
    if len(set(named)) > 1:
        raise BadInput(f"{shown(named[0])} and {shown(named[1])} name two corpora; name one of them")
    if named and os.path.isfile(os.path.join(named[0], "run.yaml")):  # False for what can be no path
        from litmus.training.evaluation import data_of_run

        return data_of_run(Path(named[0]), log)
    options = {"corpus": named[0] if named else "stdlib", "tokenizer": tokenizer, "held_out": held_out}
    how = overrides(chat, "--chat") or None
    return prepare(data_settings_from({**options, "sample_bytes": sample_bytes, "chat": how}), log=log)


def in_colour(pieces: Iterable[tuple[str, bool]]) -> Text:
    """The pieces of a window: what is trained on bold and green in brackets, the rest dim."""
    from rich.text import Text

    text = Text()
    for trained, run in groupby(pieces, key=lambda piece: piece[1]):
        said = "".join(piece for piece, _ in run)
        text.append(f"⟦{said}⟧" if trained else said, style="bold green" if trained else "dim")
    return text
