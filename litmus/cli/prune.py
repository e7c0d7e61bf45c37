"""`litmus prune`: a run without part of its weights, heads, experts or layers."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from litmus.catalog import check_run
from litmus.cli.compression_options import AsJson, Data, LimitTokens, Name, ProtectSuper, Time
from litmus.cli.options import Best, RunsFolder, TrustPlugin
from litmus.cli.output import log, print_table
from litmus.errors import BadInput
from litmus.files import real_path
from litmus.process import defer_output_errors

if TYPE_CHECKING:
    from litmus.compression.output import Change

ZEROS = "zeros take as many bytes and as much time as other weights: nothing here skips them"


@defer_output_errors()
def prune(
    run: Annotated[Path, typer.Argument(help="A run folder, such as runs/standard.")],
    sparsity: Annotated[float, typer.Option(help="Fraction that is removed, at least 0 and below 1.")] = 0.5,
    method: Annotated[
        Literal["wanda", "magnitude", "random"], typer.Option(help="How weights are ranked; wanda: with their inputs.")
    ] = "wanda",
    whole: Annotated[
        bool, typer.Option("--global", help="Rank the weights of all matrices together, not of each alone.")
    ] = False,
    structured: Annotated[
        Literal["2:4", "heads", "experts", "layers"] | None,
        typer.Option(help="2 of each 4 inputs stay; or whole heads, experts or layers go, and the model is smaller."),
    ] = None,
    dynamic: Annotated[
        bool,
        typer.Option("--dynamic", help="Change no weight: score with each token's smallest hidden activations at 0."),
    ] = False,
    recover: Annotated[
        int, typer.Option(min=0, max=1_000_000, help="Train for N steps afterwards, zeros held at 0.", metavar="N")
    ] = 0,
    lr: Annotated[float, typer.Option(help="Peak learning rate of --recover.")] = 3e-4,
    protect_super: ProtectSuper = False,
    data: Data = None,
    limit_tokens: LimitTokens = 16_384,
    name: Name = None,
    runs: RunsFolder = "runs",
    time: Time = False,
    best: Best = False,
    trust_plugin: TrustPlugin = False,
    json: AsJson = False,
) -> None:
    """Make a new run with part of its weights removed; say what it costs on held-out text.

    Calibrated on blocks of the text. The run it is made from stays as it is. With --dynamic no run is made.

    Examples:

      litmus prune runs/standard --sparsity 0.5 --recover 100

      litmus prune runs/standard --sparsity 0.25 --structured heads --time

      litmus prune runs/standard --sparsity 0.5 --dynamic
    """
    check_run(run)

    import copy

    from litmus.compression.output import Change, check_free, decode_ms, scored, weight_bytes, write_compressed
    from litmus.compression.pruning import PruneSettings, apply_masks, dynamic_pruning, pruning_masks
    from litmus.compression.pruning import recover as train_further
    from litmus.compression.source import load_source, protected, text_blocks, text_of
    from litmus.compression.structured import prune_structure
    from litmus.model.storage import weights
    from litmus.names import check_name
    from litmus.training.run.config import Compression, read_config
    from litmus.training.settings import settings_from

    smaller = structured in ("heads", "experts", "layers")
    _check(structured, dynamic, smaller, protect_super, recover)
    settings = PruneSettings(sparsity, method, "global" if whole else "layer", (2, 4) if structured == "2:4" else None)
    read_config(run)
    target = Path(runs) / check_name(name or f"{real_path(run).name}-pruned", "a run's name")
    if not dynamic:
        check_free(target)
    source = load_source(run, best=best, trust_plugin=trust_plugin, log=log)
    text = text_of(source, data, log)
    before = scored(source.model, source, text, limit_tokens)
    size = weight_bytes(source.folder, source.step)
    if dynamic:
        with dynamic_pruning(source.model, sparsity):
            change = Change(before, scored(source.model, source, text, limit_tokens), (size, size))
        _report(change, None, [f"no weight is changed, and {ZEROS}"], {"dynamic": sparsity}, json)
        return
    batch = text_blocks(source, text)
    if smaller:
        model = prune_structure(source.model, structured, sparsity, batch)  # type: ignore[arg-type]
        masks = {}
    else:
        kept = protected(source, text, log) if protect_super else {}
        masks = pruning_masks(source.model, settings, batch, kept)
        model = copy.deepcopy(source.model)
        apply_masks(model, masks)
    unrecovered = scored(model, source, text, limit_tokens)
    if recover:
        further = settings_from({**source.config.training.model_dump(), "lr": lr})
        context = min(source.config.resolved.context, model.recipe.context)
        train_further(model, masks, text, further, context, recover)
    total, left = (sum(p.numel() for p in one.parameters()) for one in (source.model, model))
    zeros = sum(int((~mask).sum()) for mask in masks.values())
    share = zeros / total if masks else 1 - left / total
    options = {**vars(settings), "structured": structured, "recover": recover, "protect_super": protect_super}
    done = Compression(method="prune", options=options, share=share)
    write_compressed(source, target, model.recipe, weights(model), done)
    after = scored(model, source, text, limit_tokens) if recover else unrecovered
    times = decode_ms(source.model, model) if time else None
    change = Change(before, after, (size, weight_bytes(target, 0)), times)
    notes = [
        f"{share:.1%} of {total:,} parameters are removed" if smaller else f"{zeros:,} of {total:,} parameters are 0"
    ]
    if not smaller:
        notes.append(ZEROS)
    if recover:
        notes.append(f"before the {recover} steps of training: {unrecovered.bits_per_byte(before)} bits per byte")
    numbers = {"share": share, "unrecovered": vars(unrecovered.bits_per_byte(before))}
    _report(change, target, notes, numbers, json)


def _check(structured: str | None, dynamic: bool, smaller: bool, protect_super: bool, recover: int) -> None:
    """BadInput for options that do not go together."""
    if dynamic and (structured or protect_super or recover):
        raise BadInput("--dynamic changes no weight, so that --structured, --protect-super and --recover do not apply")
    if smaller and protect_super:
        raise BadInput(f"--protect-super keeps single weights, and --structured {structured} removes whole parts")


def _report(change: Change, target: Path | None, notes: list[str], numbers: dict[str, object], json: bool) -> None:
    if json:
        document = {"run": None if target is None else str(target), **numbers, **change.to_dict(), "notes": notes}
        print(json_format.dumps(document, indent=1))
        return
    print_table(change.rows())
    for note in notes:
        print(note)
    if target is not None:
        print(target)
