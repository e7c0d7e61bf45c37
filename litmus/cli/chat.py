"""`litmus chat`: talk with a run in the terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from litmus.catalog import check_run
from litmus.cli import generation_options as generation
from litmus.cli.options import Best, Device, TokenizerOfSaved, TrustPlugin
from litmus.cli.output import log

MAX_HISTORY_LINES = 1000


def chat(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="A run folder, such as runs/standard, or a saved model.")],
    system: Annotated[str, typer.Option(help="The system message.")] = "",
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
    tokenizer. A run without one is a base model, which continues a dialogue of plain text as it would any text.

    Examples:

      litmus chat runs/standard

      litmus chat runs/tuned --temperature 0 --system "Answer in one sentence."
    """
    check_run(run)

    from litmus.cli.prompts import typed
    from litmus.data.chat.template import plain_dialogue, read_template, template_of
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
    given: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "precision": precision,
        "temperature": temperature,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
    }
    settings = generation.with_model_defaults(context, given, run)
    conversation = Conversation(own or plain_dialogue(), words, model.recipe.context, typed(system, "--system"))
    session = Session(model.to(where), words, conversation, sys.stdout, **settings)
    if own is not None:
        print(f"chatting with {run}; /help lists the commands")
    else:
        print(
            f"{run} is a base model (it has no chat template): it continues a dialogue between User and Assistant "
            "as it would any text; /help lists the commands"
        )
    with plugin_faults(model.recipe, "answering with"), line_editing():
        session.run(lambda: input("> "))


@contextlib.contextmanager
def line_editing() -> Iterator[None]:
    """Within this block, `input` in a terminal has line editing and the history of earlier chats."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield
        return
    try:
        import readline  # importing it is what gives `input` its line editing
    except ImportError:  # not on Windows
        yield
        return
    from litmus.model.trust import state_folder

    history = state_folder() / "chat_history"
    with contextlib.suppress(OSError, RuntimeError):
        readline.read_history_file(history)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, RuntimeError):  # a chat never fails because of its history
            history.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            readline.set_history_length(MAX_HISTORY_LINES)
            readline.write_history_file(history)
            history.chmod(0o600)
