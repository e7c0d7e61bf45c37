"""Load a trained model: from the folder of a run, or from one that `litmus.save` wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from litmus.data import DataSettings, Tokenizer, load_tokenizer
from litmus.data.tokens.make_tokenizer import check_tokenizer_name, make_tokenizer, tokenizer_file
from litmus.data.tokens.tokenizer import FILE_NAME
from litmus.errors import BadInput
from litmus.files import read_regular_file, reading, sha256
from litmus.model import Decoder
from litmus.model import load as load_saved
from litmus.model.storage import RECIPE
from litmus.training.run.checkpoints import best_checkpoint, newest_checkpoint
from litmus.training.run.config import (
    CHECKPOINTS,
    RUN,
    TOKENIZER,
    UNKNOWN_CORPUS,
    Imported,
    LoadedRun,
    RunConfig,
    read_config,
)

Log = Callable[[str], None]


def load(
    folder: str | Path, *, best: bool = False, trust_plugin: bool = False, log: Log = lambda text: None
) -> Decoder:
    """Load the model of a run, at its newest (or best) undamaged checkpoint, or one that `litmus.save` wrote; in fp32.

    The code of a plug-in runs if the user has named a file of that content before, or with `trust_plugin`. `log` is
    called if a damaged checkpoint is skipped. BadInput if `folder` holds no undamaged model.
    """
    folder = Path(folder)
    if is_saved_model(folder):
        if best:
            raise BadInput(f"{folder} is a saved model and no run: it has no checkpoints to take the best of")
        return load_saved(folder, trust_plugin=trust_plugin)
    return load_run(folder, best=best, trust_plugin=trust_plugin, log=log).model


def load_with_tokenizer(
    folder: str | Path,
    *,
    tokenizer: str | None = None,
    best: bool = False,
    trust_plugin: bool = False,
    log: Log = lambda text: None,
) -> tuple[Decoder, Tokenizer | None]:
    """`load` with the tokenizer: a run's own. A saved model has none, so `tokenizer` may name its tokenizer."""
    folder = Path(folder)
    if not is_saved_model(folder):
        if tokenizer is not None:
            raise BadInput(f"{folder} is a run and has a tokenizer of its own; leave --tokenizer out")
        run = load_run(folder, best=best, trust_plugin=trust_plugin, log=log)
        return run.model, run.tokenizer
    named = None if tokenizer is None else tokenizer_named(tokenizer, log)
    model = load(folder, best=best, trust_plugin=trust_plugin)
    if named is not None and named.vocab_size > model.recipe.vocab_size:
        raise BadInput(
            f"the tokenizer {tokenizer!r} has {named.vocab_size} tokens and the model in {folder} takes "
            f"{model.recipe.vocab_size}; name the one that it was trained with"
        )
    return model, named


def load_run(
    folder: str | Path, *, best: bool = False, trust_plugin: bool = False, log: Log = lambda text: None
) -> LoadedRun:
    """Load a run at its newest undamaged checkpoint, or at the one with the lowest validation loss.

    `log` is called if a damaged checkpoint is skipped. BadInput if run.yaml, the tokenizer or every checkpoint is
    missing or damaged.
    """
    folder = Path(folder)
    config = read_config(folder)
    checkpoint = newest_checkpoint(folder / CHECKPOINTS, log)
    if best:
        checkpoint = best_checkpoint(folder / CHECKPOINTS) or checkpoint
    if checkpoint is None:
        raise BadInput(f"{folder} has no checkpoint yet; train it further with the command in its {RUN}")
    model = load_saved(checkpoint.folder, trust_plugin=trust_plugin)
    return LoadedRun(model, _tokenizer(folder, config), config, checkpoint.state.step, folder)


def _tokenizer(folder: Path, config: RunConfig) -> Tokenizer:
    """The tokenizer of a run; BadInput if its file is missing or changed."""
    path = folder / TOKENIZER / FILE_NAME
    if not path.exists():
        raise BadInput(f"{folder} holds no tokenizer: {path} is missing; restore it, or let the command in {RUN} do so")
    with reading(path):
        found = sha256(read_regular_file(path))
    if found != (config.tokenizer_sha256 or found):
        raise BadInput(
            f"{path} is not the tokenizer that the run was trained with; restore it, or let the command in {RUN} do so"
        )
    return load_tokenizer(folder / TOKENIZER)


def data_to_continue(start: LoadedRun, corpus: DataSettings | None) -> DataSettings:
    """The data of a training from `start`: its own unless another corpus is given, always with its own tokenizer."""
    own = start.config.data
    if corpus is None and own.corpus == UNKNOWN_CORPUS:
        raise BadInput(f"{start.folder} was imported and has no corpus of its own; name one, e.g. --data stdlib")
    return (corpus or own).model_copy(update={"tokenizer": str(start.folder)})


def needs_tokenizer(folder: str | Path) -> BadInput:
    """The error for a saved model if text is given or wanted and no tokenizer is named."""
    return BadInput(
        f"{folder} is a saved model, which keeps no tokenizer; name the one that it was trained with, "
        f"e.g. --tokenizer bytes, --tokenizer RUN or --tokenizer tokenizer.json"
    )


def tokenizer_named(name: str, log: Log) -> Tokenizer:
    """The tokenizer of a name that does not depend on a text: bytes, gpt2, a run, or a tokenizer.json."""
    check_tokenizer_name(name)
    if tokenizer_file(name) is None and name.startswith("bpe-"):
        raise BadInput(f"{name} is learned from each text anew; name the run that holds yours, or its tokenizer.json")
    return make_tokenizer(name, lambda: iter(()), 0, log)


def is_saved_model(folder: Path) -> bool:
    """Whether `litmus.save` wrote this folder, and it is not a run."""
    return (folder / RECIPE).is_file() and not (folder / RUN).exists() and not (folder / CHECKPOINTS).exists()


def imported_facts(folder: str | Path) -> Imported | None:
    """What the model of a run was imported with, directly or by the run it was trained from; None if not."""
    folder = Path(folder)
    return None if is_saved_model(folder) else read_config(folder).imported
