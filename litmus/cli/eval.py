"""`litmus eval`: score a run on held-out text."""

from __future__ import annotations

from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from litmus.bounds import MAX_FILE_BYTES
from litmus.catalog import check_run
from litmus.cli.options import Best, Device, TrustPlugin
from litmus.cli.output import log, results
from litmus.errors import BadInput

if TYPE_CHECKING:
    from rich.table import Table

    from litmus.generation.chat.replies import Replies

SAMPLES_SHOWN, CONTEXT_SHOWN = 10, 300


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder, such as runs/standard.")],
    data: Annotated[str | None, typer.Option(help="Another corpus to score on. Default: the run's.")] = None,
    limit_bytes: Annotated[
        int | None, typer.Option(min=1, max=MAX_FILE_BYTES, help="Score only the first N bytes of text.", metavar="N")
    ] = None,
    limit_tokens: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_FILE_BYTES, help="Score only N tokens, in windows spread evenly.", metavar="N"),
    ] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Tokens in a window. Default: the run's.")] = None,
    replies: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help="Also let a run on threads reply to N held-out contexts.", metavar="N"),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a reply, at most.")] = 30,
    toxic_words: Annotated[
        Path | None,
        typer.Option(help="A list of words or phrases, one a line: how many replies hold one of them.", metavar="FILE"),
    ] = None,
    best: Best = False,
    device: Device = "auto",
    trust_plugin: TrustPlugin = False,
    json: Annotated[bool, typer.Option("--json", help="Print the score as JSON.")] = False,
) -> None:
    """Score a run: bits per byte, nats per token, perplexity, loss by position, attention entropy.

    Examples:

      litmus eval runs/standard

      litmus eval runs/standard --data my_book.txt --limit-bytes 100000 --json

      litmus eval runs/roleplay --replies 50
    """
    check_run(run)
    if toxic_words is not None and replies is None:
        raise BadInput("--toxic-words counts words of replies; give --replies N, too")

    from rich.console import Console
    from rich.text import Text

    from litmus import runs
    from litmus.generation.chat.replies import read_word_list
    from litmus.training.display import evaluation_table

    if toxic_words is not None:
        read_word_list(toxic_words)  # what is wrong with it is said before a long evaluation
    score = runs.evaluate(
        run,
        data=data,
        limit_bytes=limit_bytes,
        limit_tokens=limit_tokens,
        context=context,
        best=best,
        device=device,
        trust_plugin=trust_plugin,
        log=log,
    )
    report = runs.saved_audit(run)
    if report is not None and not report.passed:
        Console(stderr=True).print(f"{report.subject} {report.mark()}: the following is not a score", style="bold red")
    said = None
    if replies is not None:
        options: dict[str, Any] = {"best": best, "device": device, "trust_plugin": trust_plugin, "log": log}
        said = runs.replies(run, count=replies, max_new_tokens=max_new_tokens, toxic_words=toxic_words, **options)
    if json:
        whole = loads(score.model_dump_json()) | ({} if said is None else {"replies": said.model_dump(mode="json")})
        print(dumps(whole, indent=1))
        return
    results().print(evaluation_table(score))
    if said is not None:
        results().print(replies_table(said))
        for sample in said.samples[:SAMPLES_SHOWN]:
            results().print(Text(f"\n{sample.context[-CONTEXT_SHOWN:]}", style="dim"))
            results().print(Text(f"reply: {sample.reply}{'' if sample.ended else ' …'}\nsaid:  {sample.said}"))


def replies_table(said: Replies) -> Table:
    """Statistics of replies next to those of what was said."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in (f"{len(said.samples)} replies", "the model's", "said"):
        table.add_column(name, justify="left" if "replies" in name else "right")
    table.add_row(f"end within {said.max_new_tokens} tokens", f"{said.ended:.0%}", f"{said.said_ended:.0%}")
    for label, key in (("distinct words", "distinct_1"), ("distinct pairs of words", "distinct_2")):
        table.add_row(label, f"{getattr(said.stats, key):.0%}", f"{getattr(said.said_stats, key):.0%}")
    for label, key in (("repeated 4-grams", "repetition"), ("4-grams of the context", "echo")):
        table.add_row(label, f"{getattr(said.stats, key):.1%}", f"{getattr(said.said_stats, key):.1%}")
    if said.stats.toxic is not None:
        table.add_row("with a word of the list", f"{said.stats.toxic:.1%}", f"{said.said_stats.toxic:.1%}")
    table.add_row("mean tokens", f"{said.stats.mean_tokens:.1f}", f"{said.said_stats.mean_tokens:.1f}")
    return table
