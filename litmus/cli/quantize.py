"""`litmus quantize`: a run with its weights in fewer bits."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated

import typer

from litmus.catalog import check_run
from litmus.cli.compression_options import AsJson, Data, LimitTokens, Name, ProtectSuper, Time
from litmus.cli.options import Best, RunsFolder, TrustPlugin
from litmus.cli.output import log, print_table
from litmus.files import real_path
from litmus.process import defer_output_errors


@defer_output_errors()
def quantize(
    run: Annotated[Path, typer.Argument(help="A run folder, such as runs/standard.")],
    bits: Annotated[int, typer.Option(help="Bits of a weight: 8, 4 or 3.")] = 4,
    group: Annotated[str, typer.Option(help="Inputs that share a scale: a number, auto, channel or tensor.")] = "auto",
    symmetric: Annotated[
        bool, typer.Option("--symmetric", help="Codes around 0, which keep zeros exact; otherwise from min to max.")
    ] = False,
    clip: Annotated[
        float | None, typer.Option(help="Clip a group's weights to mean |w| + CLIP times their standard deviation.")
    ] = None,
    embedding_bits: Annotated[int, typer.Option(help="Bits of embedding and head: 8, 4, 3, or 16 for bf16.")] = 8,
    activations: Annotated[
        int | None, typer.Option(min=2, max=16, help="Also score with activations rounded to so many bits.")
    ] = None,
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
    """Make a new run with weights of 8, 4 or 3 bits, packed on disk; say what it costs on held-out text.

    Loading dequantizes, so that the run is evaluated, generated from and exported as any other. The run it is made from
    stays as it is.

    Examples:

      litmus quantize runs/standard --bits 8 --group channel

      litmus quantize runs/standard --bits 4 --group 32 --protect-super --name standard-int4
    """
    check_run(run)

    from litmus.compression.output import Change, check_free, decode_ms, scored, weight_bytes, write_compressed
    from litmus.compression.quantization import QuantizeSettings, parse_group, quantize, quantized_activations
    from litmus.compression.source import load_source, protected, text_of
    from litmus.names import check_name
    from litmus.training.run.config import Compression, read_config
    from litmus.training.run.loading import load_run

    settings = QuantizeSettings(bits, parse_group(group), symmetric, clip, embedding_bits)
    read_config(run)
    target = Path(runs) / check_name(name or f"{real_path(run).name}-int{bits}", "a run's name")
    check_free(target)
    source = load_source(run, best=best, trust_plugin=trust_plugin, log=log)
    text = text_of(source, data, log)
    kept = protected(source, text, log) if protect_super else {}
    made = quantize(source.model, settings, kept)
    options = {**vars(settings), "kept_exactly": sum(map(len, kept.values()))}
    done = Compression(method=f"int{bits}", options=options, share=made.share)
    write_compressed(source, target, source.model.recipe, made.tensors, done)
    after = load_run(target, trust_plugin=True).model.eval()
    change = Change(
        scored(source.model, source, text, limit_tokens),
        scored(after, source, text, limit_tokens),
        (weight_bytes(source.folder, source.step), weight_bytes(target, 0)),
        decode_ms(source.model, after, bits=bits) if time else None,
    )
    rounded = {}
    for protect in (False, True) if activations else ():
        with quantized_activations(after, activations or 8, protect=protect):
            scores = scored(after, source, text, limit_tokens)
        rounded["protected" if protect else "plain"] = scores.bits_per_byte(change.before)
    if json:
        document = {
            "run": str(target),
            "share": made.share,
            "quantized": {str(bits): count for bits, count in made.quantized.items()},
            "kept": made.kept,
            "kept_exactly": options["kept_exactly"],
            **change.to_dict(),
            "activations": {kind: vars(one) for kind, one in rounded.items()},
        }
        print(json_format.dumps(document, indent=1))
        return
    print_table(change.rows())
    parts = [f"{count:,} in {bits} bits" for bits, count in made.quantized.items()]
    parts += [f"{count:,} kept ({reason})" for reason, count in made.kept.items()]
    print(f"{made.share:.1%} of the parameters are quantized: {', '.join(parts)}")
    for kind, one in rounded.items():
        print(f"with {activations}-bit activations, {kind}: {one} bits per byte (simulated; not part of the run)")
    print(f"{target}; try: litmus runs compare {run} {target}")
