"""The command line: one thin file per command; bad input becomes one sentence on stderr and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from litmus.cli import audit, bench, chat, compare, data, eval, export, generate, import_, recipes, train
from litmus.errors import BadInput, Failed

app = typer.Typer(
    name="litmus",
    help="Put transformer ideas to the test: audit them, train them beside a baseline, read the verdict.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(compare.compare)
app.command()(audit.audit)
app.command()(train.train)
app.command("eval")(eval.evaluate)
app.command()(generate.generate)
app.command()(chat.chat)
app.command()(export.export)
app.command("import")(import_.import_run)
app.command()(recipes.recipes)
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 the thing tested failed, 2 bad input."""
    try:
        sys.exit(app(args=arguments, standalone_mode=False) or 0)
    except BadInput as error:
        _stop(str(error), 2)
    except Failed as error:
        _stop(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        _stop("interrupted", 130)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # the parser's own errors: unknown option, bad number
        if usage is None:
            raise
        _stop(f"{usage()} Try: litmus --help", 2)


def _stop(sentence: str, code: int) -> None:
    print(f"litmus: {sentence}", file=sys.stderr)
    sys.exit(code)
