"""Cases of options, plug-ins, damaged files, streams, one thing after another."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer

from fuzzing import values
from fuzzing.case import Case, Change, document
from fuzzing.commands import Streams
from fuzzing.world import BAD, COMPARE, OPTIONS, SHORT, TRAIN

Draw = random.Random
Command = tuple[str, ...]

DRY = (*TRAIN, "--dry-run")
AGAIN = (*TRAIN, "--folder", "runs/tiny")
RESUME = (*TRAIN, "--folder", "runs/stopped")
GENERATE = ("generate", "runs/tiny", "--max-new-tokens", "4", "--prompt", "the")
BENCH = ("bench", "decode", "tiny.yaml", "--prompt-tokens", "4", "--batch", "1", "--new-tokens", "2", "--repeats", "1")
AUDIT = ("audit", "tiny.yaml", "--quick", "--only", "determinism", "--limit", "4")
CHEAP: tuple[Command, ...] = (
    DRY,
    AGAIN,
    GENERATE,
    ("eval", "runs/tiny", "--limit-tokens", "64"),
    ("chat", "runs/tiny", "--max-new-tokens", "4"),
    ("export", "runs/tiny", "--out", "new-export"),
    ("import", "hf-llama", "--name", "back"),
    ("recipes",),
    ("recipes", "tiny.yaml"),
    ("recipes", "deepseek"),
    ("data", "prepare", "corpus.txt", "--tokenizer", "bytes"),
    ("data", "show", "corpus.jsonl", "--tokenizer", "bpe-300"),
    ("data", "list"),
    ("runs", "list"),
    ("runs", "show", "pair"),
    ("runs", "compare", "tiny", "stopped"),
    BENCH,
    ("import", "llama.gguf", "--name", "back"),
    ("data", "prepare", "--threads", "threads.jsonl", "--tokenizer", "bytes"),
    ("data", "show", "threads:threads.jsonl", "--tokenizer", "bytes"),
    ("train", "tiny.yaml", *SHORT, "--data", "threads:threads.jsonl", "--dry-run"),
    ("superweights", "runs/tiny", "--data", "corpus.txt", "--blocks", "2", "--length", "8", "--controls", "1"),
    ("prune", "runs/tiny", "--data", "corpus.txt", "--limit-tokens", "64", "--name", "back"),
    ("quantize", "runs/tiny", "--data", "corpus.txt", "--limit-tokens", "64", "--group", "8", "--name", "back"),
)
DEAR: tuple[Command, ...] = (AUDIT, RESUME, (*TRAIN, "--folder", "new"), COMPARE, ("train", "runs/tiny", *SHORT[:2]))
ON_A_RUN: tuple[Command, ...] = (
    ("eval", "RUN", "--limit-tokens", "64"),
    ("generate", "RUN", "--max-new-tokens", "4"),
    ("chat", "RUN", "--max-new-tokens", "4"),
    ("export", "RUN", "--out", "new-export"),
    ("bench", "decode", "RUN", *BENCH[3:]),
    ("data", "prepare", "corpus.txt", "--tokenizer", "RUN"),
    ("train", "RUN", "--data", "corpus.txt", "--dry-run"),
    ("runs", "show", "RUN"),
    ("runs", "compare", "RUN", "runs/tiny"),
    ("generate", "runs/tiny", "--draft", "RUN", "--max-new-tokens", "4"),
    ("superweights", "RUN", "--data", "corpus.txt", "--blocks", "2", "--length", "8", "--controls", "1"),
    ("prune", "RUN", "--data", "corpus.txt", "--limit-tokens", "64", "--name", "back"),
    ("quantize", "RUN", "--data", "corpus.txt", "--limit-tokens", "64", "--group", "8", "--name", "back"),
)


class Documents:
    """The JSON and YAML files of the world, and the path to every value in each."""

    def __init__(self, work: Path) -> None:
        self.files = sorted(
            str(path.relative_to(work)) for path in work.rglob("*") if path.is_file() and not path.is_symlink()
        )
        self.keys: dict[str, list[tuple[str | int, ...]]] = {}
        for name in self.files:
            if (
                name.endswith((".json", ".yaml", ".jsonl"))
                and not name.startswith("full/")
                and (work / name).stat().st_size
            ):
                self.keys[name] = list(keys_in(document(work / name)))[:400]
        self.recipes = _recipes()

    def below(self, *places: str) -> list[str]:
        """The files in one of these folders."""
        return [name for name in self.files if name.startswith(tuple(f"{place}/" for place in places))]


def keys_in(content: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield place
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for number, (key, value) in enumerate(inner):
        if number < 40:
            yield from keys_in(value, (*place, key))


def _recipes() -> dict[str, dict[str, Any]]:
    """Every built-in recipe in full, at a size that costs nothing."""
    from litmus.errors import BadInput
    from litmus.model import recipes, resolve

    whole = {}
    for name in recipes():
        try:
            small = resolve(name, overrides={"dim": 16, "depth": 2, "heads": 2, "context": 32})
        except BadInput:
            continue
        whole[name] = json.loads(json.dumps(small.to_dict(), default=str))
    return whole


@cache
def parameters() -> dict[Command, list[Any]]:
    """Every command with its parameters, as the command line itself declares them."""
    from litmus.cli.app import app

    def walked(command: Any, name: Command) -> Iterator[tuple[Command, list[Any]]]:
        if hasattr(command, "commands"):
            for key, inner in command.commands.items():
                yield from walked(inner, (*name, key))
        else:
            yield name, list(command.params)

    return dict(walked(typer.main.get_command(app), ()))


def _declared(command: Command) -> list[Any]:
    known = parameters()
    return next((known[command[:length]] for length in (2, 1) if command[:length] in known), [])


def option(draw: Draw, command: Command) -> Command:
    """One option of the command with a value of the declared type or of none."""
    declared = [
        one for one in _declared(command) if one.param_type_name == "option" and one.name != "compile"
    ]  # minutes
    if not declared or draw.randint(0, 30) == 0:
        return (draw.choice(values.TEXTS),)
    one = draw.choice(declared)
    flag = draw.choice([*one.opts, *one.secondary_opts])
    if one.is_flag:
        return (flag,) if draw.randint(0, 9) else (f"{flag}={_anything(draw)}",)
    return (f"{flag}={_value(draw, flag, one)}",)


def _value(draw: Draw, flag: str, one: Any) -> str:
    if draw.randint(0, 5) == 0:
        return _anything(draw)
    special: dict[str, Any] = {
        "--budget": values.BUDGETS, "--data": values.CORPORA, "--tokenizer": values.TOKENIZERS, "--draft": values.PATHS,
        "--name": (*values.TEXTS, *values.PATHS), "--size": ("tiny", "own", "x", "", "TINY"),
        "--prompt-tokens": ("4", "4,8", "0", "-1", "1000000", "4,,8", "", "a", "9" * 30, "4,4", "1e3"),
        "--only": ("causality", "forward pass", "costs as declared", "", "x"),
        "--limit": ("1", "2", "0", "inf", "nan", "1e309", "-1", "1e300"),
        "--seeds": ("0", "1", "-1", "2", "1" + "0" * 20, "9223372036854775808", "x"),
        "--jobs": ("0", "-1", "2", "1000000", "9223372036854775808", "1" + "0" * 20),
    }  # fmt: skip
    if flag in ("--set", "--option"):
        return recipe_change(draw) if flag == "--set" else training_option(draw)
    if flag in special and draw.randint(0, 4):
        return draw.choice(special[flag])
    declared = str(getattr(one, "type_descriptor", None) or getattr(one, "type", "")).lower()  # two versions of typer
    fitting = {"int": values.INTEGERS, "float": values.REALS, "path": values.PATHS}
    known = next((known for name, known in fitting.items() if name in declared), values.TEXTS)
    return draw.choice(draw.choice([known, values.SMALL]))


def _anything(draw: Draw) -> str:
    return draw.choice(draw.choice([values.INTEGERS, values.REALS, values.TEXTS, values.PATHS, values.SMALL]))


def recipe_change(draw: Draw) -> str:
    """A --set: a key of a recipe or of a part, or none such, and a value."""
    from litmus.model.recipe import FAMILIES, Recipe

    keys = [*Recipe.model_fields, "plugin.path", "layers.0", "head.tied", "", ".", "a..b", "mixer.", ".dim", "mixer.x"]
    for family, base in FAMILIES.items():
        keys += [f"{family}.{key}" for kind in base.kinds.values() for key in kind.model_fields]
    key = draw.choice(sorted(set(keys)))
    kinds = sorted({kind for base in FAMILIES.values() for kind in base.kinds})
    value = draw.choice([_anything(draw), draw.choice(kinds), draw.choice(["[]", "{}", "{kind: x}", "[{}]", "true"])])
    return f"{key}={value}"


def training_option(draw: Draw) -> str:
    """An --option: a training setting, or none such, and a value."""
    from litmus.training.settings import TrainSettings

    known = [name for name in TrainSettings.model_fields if name != "compile"]
    key = draw.choice([*known, "", "x", "betas.0"])
    more = draw.choice(["[0.9, 0.95]", "[nan, 1]", "[]", "wandb", "[wandb]", "muon", "bf16", "bf16-autocast", "cuda:9"])
    return f"{key}={draw.choice([_anything(draw), more])}"


def streams(draw: Draw) -> Streams:
    """Streams that are closed, full or unread, or take few characters."""
    said = draw.choice(
        [
            "",
            "the cat\n",
            "/help\n/reset\n/temp x\n/temp inf\n/temp -1\n/x\n",
            "/save new.json\n",
            "/save notes.txt\nthe\n/save notes.txt\n",
            "/save\n/save .\n/save /dev/full\n",
            "x" * 3000,
            "\x00\n\udcff\n",
            "/save " + "x" * 300 + "\n/save circle\n/save linked.txt\n",
            "/temp 0\nhi\n",
        ]
    )
    return Streams(
        stdin=draw.choice([None, said]),
        stdout=draw.choice(["file", "closed", "full", "unread"]),
        stderr=draw.choice(["file", "file", "file", "closed", "full"]),
        encoding=draw.choice(["utf-8", "ascii", "cp1252"]),
    )


CHATTING = (
    "/help\n/reset\n/temp x\n/temp inf\n/temp -1\n/temp nan\n/temp\n/x\n/\n",
    "/save new.json\n/save new.json\n",
    "hi\n",
    "/save notes.txt\nthe\n/save notes.txt\n",
    "/save\n/save .\n/save /dev/full\n/save /dev/null\n",
    "x" * 3000 + "\n",
    "\x00\n\udcff\n",
    "/save " + "x" * 300 + "\n/save circle\n/save linked.txt\n/save dangling\n/save missing/x\n",
)


def case_of(draw: Draw, *commands: Command, changes: tuple[Change, ...] = (), plain: bool = False) -> Case:
    """A case with usual streams most of the time."""
    chat = any(command[0] == "chat" for command in commands)
    usual = Streams(stdin=draw.choice(CHATTING) if chat else "")
    drawn = usual if plain or draw.randint(0, 11) else streams(draw)
    long = any(command[0] in ("train", "compare") and "--dry-run" not in command for command in commands)
    long |= any("slide" in word for command in commands for word in command)
    return Case(commands, changes, drawn, endless=long)


def options(draw: Draw) -> Case:
    """A command that works, with up to three options that it may not take."""
    command = draw.choice(DEAR if draw.randint(0, 24) == 0 else CHEAP)
    drawn = [option(draw, command) for _ in range(draw.randint(1, 3))]
    return case_of(draw, (*command, *(word for words in drawn for word in words)))


def arguments(draw: Draw) -> Case:
    """What stands where a name or path is expected."""
    place = draw.choice(draw.choice([values.PATHS, values.TEXTS]))
    command = draw.choice(
        [
            ("eval", place),
            ("generate", place, "--max-new-tokens", "2"),
            ("chat", place),
            ("export", place),
            ("export", "runs/tiny", "--out", place),
            ("import", place),
            ("import", "hf-llama", "--name", place),
            ("recipes", place),
            ("data", "prepare", place, "--tokenizer", "bytes"),
            ("train", place, *SHORT, "--dry-run"),
            ("data", "show", "corpus.txt", "--tokenizer", place),
            (*DRY, "--data", place),
            ("bench", "decode", place),
            ("bench", "decode", "tiny.yaml", *BENCH[3:], "--json", place),
            ("compare", "tiny.yaml", place, *SHORT),
            ("bench", "decode", "tiny.yaml", *BENCH[3:], "--figure", place),
            ("eval", "runs/tiny", "--data", place),
            ("generate", "runs/tiny", "--file", place),
            ("chat", "runs/tiny", "--template", place),
            (place,),
            (place, place),
            ("generate", "runs/tiny", "--draft", place),
            ("data", place),
            ("bench", place),
            ("runs", place),
            ("runs", "list", "--runs", place),
            ("runs", "show", place),
            ("runs", "compare", "tiny", place),
            ("runs", "remove", place, "--yes"),
            ("superweights", place),
            ("superweights", "runs/tiny", "--data", "corpus.txt", "--blocks", "2", "--length", "8", "--out", place),
            ("prune", place),
            ("prune", "runs/tiny", "--data", "corpus.txt", "--limit-tokens", "64", "--name", place),
            ("quantize", place, "--group", "8"),
            ("quantize", "runs/tiny", "--data", place, "--limit-tokens", "64", "--group", "8"),
            ("data", "prepare", "--threads", place, "--tokenizer", "bytes"),
            ("data", "prepare", "--threads", "threads.jsonl", "--tokenizer", "bytes", "--chat", f"columns={place}"),
            ("data", "prepare", f"threads:{place}", "--tokenizer", "bytes"),
        ]
    )
    return case_of(draw, command)


def dear_targets(draw: Draw) -> Case:
    """A training or an audit that is told to write or look in an odd place."""
    place = draw.choice(draw.choice([values.PATHS, values.TEXTS]))
    command = draw.choice([
        (*TRAIN, "--folder", place), (*TRAIN, "--name", place), ("audit", place, *AUDIT[2:]),
        ("train", "runs/tiny", "--data", "corpus.txt", "--budget", "2 steps", "--name", place),
        (*COMPARE, "--name", place),
    ])  # fmt: skip
    return case_of(draw, command)


def recipe_files(draw: Draw, documents: Documents) -> Case:
    """A recipe as YAML, changed in up to three places, or something that is no recipe."""
    changes: tuple[Change, ...]
    if draw.randint(0, 3) == 0:
        changes = (Change("write", "x.yaml", draw.choice(values.YAML_TEXTS)),)
    else:
        name = draw.choice(sorted(documents.recipes))
        whole = draw.random() < 0.5
        content = documents.recipes[name] if whole else {"base": name, "dim": 16, "depth": 2, "heads": 2, "context": 32}
        keys = (
            list(keys_in(content)) if whole else [(key,) for key in [*documents.recipes[name], "base", "x", "plugin"]]
        )
        content = json.loads(json.dumps(content))
        for _ in range(draw.randint(1, 3)):
            key = draw.choice(keys)
            _put(content, key, draw.choice(values.JSON_VALUES))
        changes = (Change("json", "x.yaml", content),)
    commands: list[Command] = [("recipes", "x.yaml"), ("train", "x.yaml", *SHORT, "--dry-run")]
    commands += [("bench", "decode", "x.yaml", *BENCH[3:]), ("compare", "tiny.yaml", "x.yaml", *SHORT, "--size", "x")]
    if draw.randint(0, 19) == 0:
        commands = [("audit", "x.yaml", *AUDIT[2:]), ("train", "x.yaml", *SHORT, *OPTIONS, "--folder", "new")]
    return case_of(draw, draw.choice(commands), changes=changes)


def _put(content: Any, key: tuple[str | int, ...], value: Any) -> None:
    for part in key[:-1]:
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            return
    if key and isinstance(content, dict):
        if value == "@@drop":
            content.pop(key[-1], None)
        else:
            content[key[-1]] = value
    elif key and isinstance(content, list) and isinstance(key[-1], int) and len(content) > key[-1]:
        content[key[-1]] = value


def plugins(draw: Draw) -> Case:
    """A plug-in that misbehaves when it is imported, built or run."""
    names = [f"{moment}-{deed}.py" for moment in ("bad", "built", "import") for deed in BAD]
    name = draw.choice([*names, "good.py", "syntax.py", "no-recipe.py", "bad-none.py"])
    commands: list[Command] = [
        ("recipes", name),
        ("train", name, *SHORT, "--dry-run"),
        ("bench", "decode", name, *BENCH[3:]),
    ]
    if draw.randint(0, 3) == 0:
        commands = [("audit", name, *AUDIT[2:]), ("train", name, *SHORT, *OPTIONS, "--folder", "new", "--keep-failed")]
        commands += [("compare", "tiny.yaml", name, *SHORT, "--seeds", "2", "--no-noise", "--keep-failed")]
    return case_of(draw, draw.choice(commands))


def foreign_code(draw: Draw) -> Case:
    """Files from elsewhere that name code which nobody here has run."""
    run = draw.choice(["runs/foreign", "foreign", "based.yaml"])
    command = tuple(run if word == "RUN" else word for word in draw.choice(ON_A_RUN))
    if run == "based.yaml":
        command = draw.choice(
            [("recipes", run), ("train", run, *SHORT, "--dry-run"), ("bench", "decode", run, *BENCH[3:])]
        )
    changes = draw.choice([
        (), (), (Change("missing", "theirs.py"),), (Change("copy", "runs/foreign/plugin.py", "../../theirs.py"),),
        (Change("copy", "runs/foreign/theirs.py", "../../theirs.py"), Change("missing", "theirs.py")),
    ])  # fmt: skip
    return case_of(draw, command, changes=changes, plain=True)


def outputs(draw: Draw) -> Case:
    """Every command with broken streams."""
    command = draw.choice([*CHEAP, *CHEAP, *CHEAP, RESUME, AUDIT, ("--help",), ("train", "--help"), ("--version",), ()])
    long = command == RESUME
    return Case((command,), (), streams(draw), endless=long)


def sequences(draw: Draw) -> Case:
    """One command and then another that meets what the first left."""
    two = draw.choice(
        [
            (AGAIN, (*AGAIN, "--seed", "7")),
            (RESUME, RESUME),
            (RESUME, (*RESUME, "--lr", "0.01")),
            (("export", "runs/tiny", "--out", "x"), ("export", "runs/imported", "--out", "x")),
            (("export", "runs/tiny", "--out", "x"), (*AGAIN, "--folder", "x")),
            (("export", "runs/tiny", "--out", "full"), ("export", "runs/tiny", "--out", "exported")),
            (("import", "exported", "--name", "x"), ("import", "exported", "--name", "x")),
            (("import", "hf-gpt2", "--name", "x"), ("generate", "runs/x", "--max-new-tokens", "3")),
            (("import", "hf-deepseek", "--name", "x"), ("export", "runs/x", "--out", "y")),
            (("import", "hf-llama", "--name", "x"), ("export", "runs/x", "--out", "hf-llama")),
            (
                ("data", "prepare", "corpus.jsonl", "--tokenizer", "bpe-400"),
                ("data", "show", "corpus.jsonl", "--tokenizer", "bpe-400"),
            ),
            ((*BENCH, "--json", "x.json"), (*BENCH, "--json", "x.json")),
            ((*BENCH, "--json", "notes.txt"), (*BENCH, "--figure", "linked.txt")),
        ]
    )
    change = draw.choice(
        [
            (),
            (),
            (Change("write", "x/mine.txt", "mine"),),
            (Change("link", "x", "texts"),),
            (Change("link", "x", "empty"),),
            (Change("write", "exported/mine/thesis.tex", "mine"),),
            (Change("folder", "x", True),),
            (Change("folder", "x", False),),
        ]
    )
    return case_of(draw, *two, changes=change)
