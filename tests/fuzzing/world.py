"""The files that commands are tried on: runs, a comparison, models, corpora, recipes and plug-ins, made once."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

from fuzzing.commands import run

TINY = {"base": "standard", "name": "tiny", "dim": 16, "depth": 1, "heads": 2, "context": 32}
SHORT = ("--data", "corpus.txt", "--tokenizer", "bytes", "--budget", "4 steps", "--batch", "2", "--context", "16")
OPTIONS = ("--threads", "1", "--option", "checkpoint_every=1", "--option", "keep_last=10")
TRAIN = ("train", "tiny.yaml", *SHORT, *OPTIONS)
COMPARE = (
    "compare",
    "tiny.yaml",
    "nope.yaml",
    *SHORT,
    "--threads",
    "1",
    "--seeds",
    "2",
    "--no-noise",
    "--name",
    "pair",
)
COMPARE += ("--set", "dim=16", "--set", "depth=1", "--set", "heads=2")

PLUGIN = """
import os, sys, time
from typing import Literal
from litmus.nn.layers.feedforwards import FeedforwardConfig, Gelu, GeluConfig

class MineConfig(FeedforwardConfig):
    kind: Literal["mine"] = "mine"

    def build(self, layer):
        AT_BUILD
        return Mine(GeluConfig(hidden=2 * layer.dim), layer)

class Mine(Gelu):
    def forward(self, x, ctx):
        AT_FORWARD
        return super().forward(x, ctx)

recipe = {"base": "standard", "dim": 16, "depth": 1, "heads": 2, "context": 32, "feedforward": {"kind": "mine"}}
AT_IMPORT
"""
BAD = {
    "none": "return None",
    "raises": "raise RuntimeError('line one\\nline two')",
    "recurses": "return self.forward(x, ctx)",
    "exits": "sys.exit(3)",
    "dies": "os._exit(9)",
    "loops": "while True: pass",
    "grows": "x = bytearray(1 << 40)",
    "prints": "print('\\x1b[31mgarbage', flush=True)",
    "moves": "os.chdir('/')",
    "closes": "os.close(1)",
    "swaps": "x = x.transpose(0, 1)",
    "text": "return 'text'",
    "interrupts": "raise KeyboardInterrupt",
}


def plugin(at_forward: str = "pass", at_build: str = "pass", at_import: str = "") -> str:
    """A plug-in file that does something bad at one moment, or nothing."""
    code = PLUGIN.replace("AT_FORWARD", at_forward).replace("AT_BUILD", at_build)
    return code.replace("AT_IMPORT", at_import)


def environment(base: Path) -> dict[str, str]:
    """Everything a command may write by itself goes below `base`."""
    own = {"HOME": "home", "XDG_CACHE_HOME": "home/.cache", "XDG_STATE_HOME": "home/.state", "TMPDIR": "tmp"}
    own |= {"XDG_CONFIG_HOME": "home/.config", "XDG_DATA_HOME": "home/.share", "LITMUS_CACHE": "cache"}
    own |= {"LITMUS_STATE": "home/.litmus"}
    plain = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "COLUMNS": "100", "HF_HUB_OFFLINE": "1"}
    plain |= {"MPLCONFIGDIR": str(base / "home/.mpl"), "NO_COLOR": "1", "TERM": "dumb"}
    proxies = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY")}
    return {name: str(base / place) for name, place in own.items()} | plain | proxies


def make(base: Path, comparison: bool) -> None:
    """Fill `base`; commands run in base/a/b/work, so that ../../ is still inside."""
    work = base / "a/b/work"
    for folder in (work, base / "home", base / "tmp", base / "cache", base / "logs"):
        folder.mkdir(parents=True)
    for place in (base, base / "a", base / "a/b", work):
        (place / "notes.txt").write_text("somebody's notes\n")
    _texts(work)
    _recipes(work)
    _forked(lambda: _models(work))
    _links(work)
    command(base, *TRAIN, "--folder", "runs/tiny")
    _forked(lambda: _stopped(work), environment(base), work)
    shutil.copy(work / "runs/tiny/audit.json", work / "runs/stopped/audit.json")
    for extra in ("notes.txt", ".DS_Store", "checkpoints/.nfs0001", "checkpoints/.Trash/file"):
        path = work / "runs/stopped" / extra
        path.parent.mkdir(exist_ok=True)
        path.write_text("not litmus's\n")
    _forked(lambda: _foreign(work), {**environment(base), **_elsewhere(base)}, work)
    shutil.rmtree(base / "elsewhere")
    command(base, "import", "hf-llama", "--name", "imported")
    command(base, "export", "runs/tiny", "--out", "exported")
    command(base, "data", "prepare", "corpus.jsonl", "--tokenizer", "bpe-300")
    if comparison:
        command(base, *COMPARE)


def command(base: Path, *arguments: str) -> None:
    """Run one command that must succeed."""
    ended = run(list(arguments), base / "a/b/work", base / "logs", environment(base))
    if ended.code:
        raise RuntimeError(f"litmus {' '.join(arguments)} ended with {ended.code}: {ended.err}")


def words(count: int, seed: int = 0) -> str:
    """Lines of a few words in random order."""
    draw = random.Random(seed)
    known = ("the", "cat", "sat", "on", "a", "mat", "while", "two", "dogs", "ran", "after", "one", "small", "bird")
    return "".join(" ".join(draw.choices(known, k=draw.randint(4, 9))) + ".\n" for _ in range(count))


def _messages(lines: list[str]) -> list[dict[str, str]]:
    """Threads of five messages by three authors, as a table with the columns of the Bluemoon set."""
    return [
        {
            "thread_title": f"thread {number // 5}",
            "thread_href": f"/thread/{number // 5}",
            "message_timestamp": f"2020-01-{1 + number // 24 % 28:02} {number % 24:02}:00",
            "message_username": f"author {number % 3}",
            "message": line,
        }
        for number, line in enumerate(lines)
    ]


def _texts(work: Path) -> None:
    text = words(200)
    rows = [{"id": f"row-{number}", "text": line, "n": number} for number, line in enumerate(text.splitlines())]
    (work / "corpus.txt").write_text(text)
    (work / "threads.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _messages(text.splitlines())))
    (work / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (work / "corpus.json").write_text(json.dumps(rows))
    (work / "corpus.txt.gz").write_bytes(gzip.compress(text.encode()))
    (work / "corpus.jsonl.gz").write_bytes(gzip.compress((work / "corpus.jsonl").read_bytes()))
    with (work / "corpus.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text", "n"])
        writer.writeheader()
        writer.writerows(rows)
    (work / "texts/inner").mkdir(parents=True)
    for number in range(4):
        (work / "texts" / ("inner" if number % 2 else ".") / f"{number}.txt").write_text(words(60, number))
    (work / "prompts.txt").write_text("the cat\ntwo dogs\n")
    (work / "chat.json").write_text(json.dumps({"user": "<{text}>", "assistant": "[{text}]", "stop": ["]"]}))
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return
    _forked(lambda: parquet.write_table(pyarrow.Table.from_pylist(rows), work / "corpus.parquet"))


def _recipes(work: Path) -> None:
    import yaml

    (work / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    (work / "nope.yaml").write_text(yaml.safe_dump({**TINY, "base": "nope", "name": "nope"}))
    (work / "good.py").write_text(plugin())
    for name, deed in BAD.items():
        (work / f"bad-{name}.py").write_text(plugin(at_forward=deed))
        (work / f"built-{name}.py").write_text(plugin(at_build=deed.replace("x, step", "layer")))
        if not deed.startswith("return"):
            (work / f"import-{name}.py").write_text(plugin(at_import=deed))
    (work / "syntax.py").write_text("recipe = {")
    (work / "no-recipe.py").write_text("x = 1\n")


def _models(work: Path) -> None:
    import torch

    from litmus.data.tokens.tokenizer import ByteTokenizer
    from litmus.interop import export_model
    from litmus.model import build, save
    from tests.interop import gguf_files

    torch.manual_seed(0)
    small: dict[str, Any] = {"dim": 16, "depth": 2, "heads": 2, "context": 32}
    for name, recipe, more in (
        ("hf-llama", "standard", {}),
        ("hf-qwen3", "standard", {"mixer.qk_norm": True}),
        ("hf-gpt2", "gpt2", {}),
        ("hf-deepseek", "deepseek", {"depth": 2}),
    ):
        model = build(recipe, vocab_size=300, overrides={**small, **more})
        export_model(model, ByteTokenizer(), work / name)
    save(build(TINY, vocab_size=300), work / "saved")
    with tempfile.TemporaryDirectory() as folder:
        source = gguf_files.small_llama(Path(folder), lambda model, dtype: model.to(dtype))
        gguf_files.write(work / "llama.gguf", gguf_files.metadata_of(source), gguf_files.tensors_of(source, "Q8_0"))


def _links(work: Path) -> None:
    (work / "linked").symlink_to("texts")
    (work / "linked.txt").symlink_to("corpus.txt")
    (work / "linked-run").symlink_to("runs/tiny")
    (work / "dangling").symlink_to("nowhere")
    (work / "circle").symlink_to("circle")
    (work / "empty").mkdir()
    (work / "empty.txt").write_text("")
    (work / "full").mkdir()
    (work / "full/run.yaml").write_text("mine: true\n")
    (work / "full/config.json").write_text("{}\n")
    (work / "full/model.safetensors").write_text("mine\n")
    (work / "full/thesis.tex").write_text("years of work\n")


def _stopped(work: Path) -> None:
    """A training of four steps, stopped after the second as Ctrl-C stops one."""
    from litmus.data import DataSettings
    from litmus.generation import sample_text
    from litmus.model import resolve
    from litmus.training import TrainSettings
    from litmus.training.display import Display
    from litmus.training.trainer import train_run

    class Stop(Display):
        def step(self, status: Any) -> None:
            if status.step == 2:
                os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings = TrainSettings(budget="4 steps", batch=2, context=16, threads=1, checkpoint_every=1, keep_last=10)
    data = DataSettings(corpus="corpus.txt", tokenizer="bytes")
    try:
        train_run(resolve("tiny.yaml"), data, settings, Path("runs/stopped"), sample=sample_text, display=Stop())
    except KeyboardInterrupt:
        return
    raise RuntimeError("the training was not stopped")


def _elsewhere(base: Path) -> dict[str, str]:
    """Another user's home."""
    names = ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
    return {name: str(base / "elsewhere") for name in (*names, "LITMUS_CACHE", "LITMUS_STATE")}


def _foreign(work: Path) -> None:
    """A run and a saved model that came from somebody else, whose plug-in leaves a trace when it runs."""
    from litmus.data import DataSettings
    from litmus.model import build, resolve, save
    from litmus.training import TrainSettings
    from litmus.training.trainer import train_run

    (work / "theirs.py").write_text(plugin(at_import="open('hacked', 'w').write('x')"))
    settings = TrainSettings(budget="2 steps", batch=2, context=16, threads=1)
    train_run(
        resolve("theirs.py"), DataSettings(corpus="corpus.txt", tokenizer="bytes"), settings, Path("runs/foreign")
    )
    save(build("theirs.py", vocab_size=300), "foreign")
    (work / "based.yaml").write_text("base: theirs.py\n")
    (work / "hacked").unlink()


def _forked(work: Any, own: dict[str, str] | None = None, folder: Path | None = None) -> None:
    """Do it in a forked process, so that this one never starts threads that a fork would lose."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.environ.update(own or {})
            if folder:
                os.chdir(folder)
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the world could not be made")
