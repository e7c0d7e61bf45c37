"""`litmus chat`: talk with a run in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from litmus.catalog import check_run
from litmus.cli import generation_options as generation
from litmus.cli.options import Best, Device, TokenizerOfSaved, TrustPlugin
from litmus.cli.output import log


def chat(
    options: typer.Context,
    run: Annotated[Path, typer.Argument(help="A run folder, such as runs/standard, or a saved model.")],
    system: Annotated[str, typer.Option(help="The system message.")] = "",
    own_name: Annotated[
        str | None, typer.Option("--as", help="Your name, for a template that writes names of speakers.")
    ] = None,
    reply_name: Annotated[str | None, typer.Option("--with", help="The name of who replies, likewise.")] = None,
    template: Annotated[
        Path | None,
        typer.Option(help="Chat template in place of the run's own: .jinja, tokenizer_config.json or chat.json."),
    ] = None,
    max_new_tokens: generation.MaxNewTokens = 200,
    temperature: generation.Temperature = 0.7,
    top_p: generation.TopP = 0.95,
    repetition_penalty: generation.RepetitionPenalty = 1.0,
    seed: generation.Seed = 0,
    precision: generation.Precision = None,
    device: Device = "auto",
    best: Best = False,
    tokenizer: TokenizerOfSaved = None,
    trust_plugin: TrustPlugin = False,
) -> None:
    """Talk with a run. /help lists the commands; Ctrl-C stops a reply, Ctrl-D leaves.

    Messages are written by the chat template of the run folder (chat_template.jinja or chat.json) or of an imported
    tokenizer. A run without one is a base model, which continues a dialogue of plain text as it would any text. The
    cache is kept between turns, so that a reply waits only for what is new.

    Examples:

      litmus chat runs/standard

      litmus chat runs/tuned --temperature 0 --system "Answer in one sentence."

      litmus chat runs/roleplay --as Anna --with Ben
    """
    check_run(run)

    from litmus.cli.prompts import typed
    from litmus.data.chat.template import Role, plain_dialogue, read_template, template_of
    from litmus.generation.chat.conversation import Conversation
    from litmus.generation.chat.session import Session
    from litmus.model.plugins import plugin_faults
    from litmus.runtime.device import pick_device
    from litmus.training.run.loading import load_with_tokenizer, needs_tokenizer

    where = pick_device(device)
    model, words = load_with_tokenizer(run, tokenizer=tokenizer, best=best, trust_plugin=trust_plugin, log=log)
    if words is None:
        raise needs_tokenizer(run)
    own = template_of(run, words) if template is None else read_template(template)
    speakers: list[tuple[Role, str | None, str]] = [("user", own_name, "--as"), ("assistant", reply_name, "--with")]
    given: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "precision": precision,
        "temperature": temperature,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
    }
    settings = generation.with_model_defaults(options, given, run)
    names = {role: typed(name, option) for role, name, option in speakers if name is not None}
    chosen, context = own or plain_dialogue(), model.recipe.context
    conversation = Conversation(chosen, words, context, typed(system, "--system"), names=names)
    session = Session(model.to(where), words, conversation, sys.stdout, **settings)
    if own is not None:
        print(f"chatting with {run}; /help lists the commands")
    else:
        print(
            f"{run} is a base model (it has no chat template): it continues a dialogue between User and Assistant "
            "as it would any text; /help lists the commands"
        )
    with plugin_faults(model.recipe, "answering with"):
        session.run(reader([*session.commands, "/quit"]))


def reader(commands: Iterable[str]) -> Callable[[], str]:
    """A function that reads one line: in a terminal with line editing, completion and the history of earlier chats.

    A line from elsewhere is printed, so that the output is the whole conversation.
    """
    if not sys.stdin.isatty():
        return _read_and_print
    if not sys.stdout.isatty():
        return lambda: input("> ")
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    from litmus.model.trust import state_folder

    path = state_folder() / "chat_history"
    history: History = FileHistory(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.open("ab").close()
    except (OSError, RuntimeError):  # a chat never fails because of its history
        history = InMemoryHistory()
    completer = WordCompleter([*commands], sentence=True)
    session: PromptSession[str] = PromptSession(history=history, completer=completer, complete_while_typing=False)
    return lambda: session.prompt("> ")


def _read_and_print() -> str:
    line = input("> ")
    print(line)
    return line
