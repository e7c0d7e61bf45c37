"""Parse the command line and run a command; every error is one sentence that names the value found.

typer parses; numbers are checked before, so that the errors of all options have the same form.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from litmus.bounds import MAX_INT
from litmus.errors import BadInput, nearest, shown


class Command(TyperCommand):
    """A command whose parsing errors are BadInput, and whose numbers are checked before it runs."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.epilog = self.epilog or "Everywhere: --quiet (results only), --debug (tracebacks); see litmus --help."

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            given = self.make_parser(ctx).parse_args(list(args))[0]
            if not ctx.resilient_parsing and self.callback is not None and not given.get("help"):
                _check(self.callback, given, {param.name: param.opts[0] for param in self.params})
            return super().parse_args(ctx, args)
        except Exception as error:
            raise _as_bad_input(error, ctx) from None


class Group(TyperGroup):
    """A command with subcommands; the error for an unknown one suggests the nearest name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            print(ctx.get_help())
            raise typer.Exit
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            raise _as_bad_input(error, ctx) from None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if (found := _as_bad_input(error, ctx)) is not error:  # flags, or "--", and no command
                raise found from None
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            where = "" if ctx.parent is None else f" of {ctx.command_path}"
            raise BadInput(f"unknown command {shown(name)}{where}; {nearest(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


def _as_bad_input(error: Exception, ctx: Any) -> Exception:
    """A parser's error as BadInput with one sentence; other errors unchanged."""
    if not hasattr(error, "format_message"):
        return error
    kind, help_ = type(error).__name__, f"see: {ctx.command_path} --help"
    if kind == "NoSuchOption":
        options = [name for param in ctx.command.get_params(ctx) for name in (*param.opts, *param.secondary_opts)]
        name = str(getattr(error, "option_name", ""))
        known = [option for option in options if option.startswith("--")]
        return BadInput(f"unknown option {shown(name, quoted=False)} of {ctx.command_path}; {nearest(name, known)}")
    if kind == "MissingParameter":
        return BadInput(f"{ctx.command_path} needs {_title(getattr(error, 'param', None))}; {help_}")
    if kind == "BadOptionUsage" and "requires" in str(error):
        return BadInput(f"{getattr(error, 'option_name', 'an option')} needs a value; {help_}")
    if "extra argument" in str(error):
        extra = str(error).partition("argument")[2].partition(" (")[2].removesuffix(")")
        return BadInput(f"{ctx.command_path} takes no further argument, found {shown(extra)}; {help_}")
    reason = shown(str(getattr(error, "message", error)).strip().removesuffix("."), quoted=False, limit=200)
    param = getattr(error, "param", None)
    return BadInput(f"{_title(param)}: {reason}; {help_}" if param is not None else f"{reason}; {help_}")


def _title(param: Any) -> str:
    """A parameter as it is written: --seeds, or RUN for an argument."""
    if param is None:
        return "another argument"
    option = next((name for name in param.opts if name.startswith("-")), None)
    return option or f"the argument {str(param.name).upper()}"


def _check(callback: Callable[..., Any], given: dict[str, Any], options: dict[str, str]) -> None:
    """BadInput for the first value that is not a number, is out of range, or is not one of the choices."""
    for name, kind, info in _declared(callback):
        words = given.get(name)
        for word in words if isinstance(words, list | tuple) else () if words is None else (words,):
            if not isinstance(word, str):
                continue
            option = options.get(name, name)
            title = option if option.startswith("-") else f"the argument {name.upper()}"
            if get_origin(kind) is Literal:
                if word not in get_args(kind):
                    raise BadInput(f"{title} = {shown(word)} is unknown; {nearest(word, get_args(kind))}")
            else:
                _number(title, word, kind, info.min, info.max)


def _declared(callback: Callable[..., Any]) -> Iterator[tuple[str, Any, Any]]:
    """Name, type and declaration of each parameter that is a number or a choice."""
    function = inspect.unwrap(callback)
    for name, hint in get_type_hints(function, include_extras=True).items():
        if get_origin(hint) is not Annotated:
            continue
        kind, info = get_args(hint)[:2]
        while get_origin(kind) in (Union, types.UnionType, list):
            kind = next(inner for inner in get_args(kind) if inner is not type(None))
        if kind in (int, float) or get_origin(kind) is Literal:
            yield name, kind, info


def _number(title: str, word: str, kind: type, low: float | None, high: float | None) -> None:
    """BadInput unless `word` is a number of that kind between `low` and `high`."""
    if kind is int and high is None:
        high = MAX_INT
    try:
        value = kind(word) if len(word) <= 400 else math.inf
    except ValueError:
        value = math.nan
    if (
        (isinstance(value, int) or math.isfinite(value))
        and (low is None or value >= low)
        and (high is None or value <= high)
    ):
        return
    low, high = (int(bound) if isinstance(bound, float) and bound.is_integer() else bound for bound in (low, high))
    called = "whole number" if kind is int else "number"
    if low is not None and high is not None:
        valid = f"a {called} from {low:,} to {high:,}"
    elif low is not None:
        valid = f"a {called} of at least {low:,}"
    elif high is not None:
        valid = f"a {called} up to {high:,}"
    else:
        valid = f"a finite {called}"
    raise BadInput(f"{title} = {shown(word)} is not valid; it must be {valid}")
