"""A trained model from wherever it lies: the folder of a run, or one that `litmus.save` wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from litmus.data import Tokenizer
from litmus.data.tokenizers import check_tokenizer_name, make_tokenizer, tokenizer_file
from litmus.errors import BadInput
from litmus.model import Decoder
from litmus.model import load as load_saved
from litmus.model.storage import RECIPE
from litmus.training.imported import Imported
from litmus.training.run import CHECKPOINTS, RUN, load_run, read_description

Announce = Callable[[str], None]


def load(
    folder: str | Path,
    *,
    best: bool = False,
    trust_plugin: bool = False,
    announce: Announce = lambda text: None,
) -> Decoder:
    """The model of a folder that `litmus.save` wrote, or of a run at its newest (or best) whole checkpoint; in fp32.

    A plug-in's code runs if the user has named a file of that content before, or with `trust_plugin`. `announce` is
    told when a damaged checkpoint had to be passed over. BadInput for anything else than a whole model.
    """
    folder = Path(folder)
    if is_saved(folder):
        if best:
            raise BadInput(f"{folder} is a saved model and no run: it has no checkpoints to take the best of")
        return load_saved(folder, trust_plugin=trust_plugin)
    return load_run(folder, best=best, trust_plugin=trust_plugin, announce=announce).model


def load_with_tokenizer(
    folder: str | Path,
    *,
    tokenizer: str | None = None,
    best: bool = False,
    trust_plugin: bool = False,
    announce: Announce = lambda text: None,
) -> tuple[Decoder, Tokenizer | None]:
    """What `load` gives and its tokenizer: a run's own; that of a saved model, which keeps none, by name or None."""
    folder = Path(folder)
    if not is_saved(folder):
        if tokenizer is not None:
            raise BadInput(f"{folder} is a run and has a tokenizer of its own; leave --tokenizer out")
        run = load_run(folder, best=best, trust_plugin=trust_plugin, announce=announce)
        return run.model, run.tokenizer
    named = None if tokenizer is None else tokenizer_named(tokenizer, announce)
    model = load(folder, best=best, trust_plugin=trust_plugin)
    if named is not None and named.vocab_size > model.recipe.vocab_size:
        raise BadInput(
            f"the tokenizer {tokenizer!r} has {named.vocab_size} tokens and the model in {folder} takes "
            f"{model.recipe.vocab_size}; name the one that it was trained with"
        )
    return model, named


def needs_tokenizer(folder: str | Path) -> BadInput:
    """The error for a saved model where text is wanted and no tokenizer was named."""
    return BadInput(
        f"{folder} is a saved model, which keeps no tokenizer; name the one that it was trained with, "
        f"e.g. --tokenizer bytes, --tokenizer RUN or --tokenizer tokenizer.json"
    )


def tokenizer_named(name: str, announce: Announce) -> Tokenizer:
    """The tokenizer of a name that stands for one and the same: bytes, gpt2, a run, or a tokenizer.json."""
    check_tokenizer_name(name)
    if tokenizer_file(name) is None and name.startswith("bpe-"):
        raise BadInput(f"{name} is learned from each text anew; name the run that holds yours, or its tokenizer.json")
    return make_tokenizer(name, lambda: iter(()), 0, announce)


def is_saved(folder: Path) -> bool:
    """Whether this is a folder that `litmus.save` wrote, and no run."""
    return (folder / RECIPE).is_file() and not (folder / RUN).exists() and not (folder / CHECKPOINTS).exists()


def imported_facts(folder: str | Path) -> Imported | None:
    """What a run's model was imported with, itself or the one it was trained from; None for any other."""
    folder = Path(folder)
    return None if is_saved(folder) else read_description(folder).imported
