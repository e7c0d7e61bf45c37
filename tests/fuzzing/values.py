"""Values that nobody should type, and some that he may."""

from __future__ import annotations

INTEGERS = (
    *("0", "-1", "1", "2", "3", "7", "100", "100000", "2147483647", "2147483648", "4294967296", "9223372036854775807"),
    *("9223372036854775808", "-9223372036854775809", "18446744073709551616", "1" + "0" * 20, "1" + "0" * 400),
    *("9" * 5000, "1e3", "0x10", "1_000", "", "nan", " 5", "5.0", "٣", "true", "1/2", "10**20"),
)
REALS = (
    *(
        "0",
        "-0.0",
        "0.5",
        "0.999",
        "1",
        "1.5",
        "-1",
        "1e-300",
        "1e-45",
        "1e300",
        "1e308",
        "1e309",
        "inf",
        "-inf",
        "nan",
    ),
    *("", "abc", "1,5", "0x1p3", "9" * 400, "1e-9999", "½"),
)
TEXTS = (
    *("", " ", "\n", "two\nlines", "tab\t", "\x1b[31mred", "\x07", "\x7f", "\u202e", "x" * 256, "x" * 300, "ä" * 200),
    *("../../x", "../notes.txt", "..", ".", "~", "~nobody/x", "-", "--", "-x", "a/b", "a\\b", "*", "[", "[z-a]", "{}"),
    *("{0}", "%s", "$HOME", "`id`", "\udcff", "👍", "null", "true", "1", "nan", "2020-01-01", "[1,2", "{a: b}", "[b]"),
    *("&a [*a]", "!!python/object/apply:os.system [touch hacked]", ": ", "#", "=", "a=b=c", "<b>", "[/bold]", "[link]"),
    *("CON", "x" * 5000, "a:b", ":", "::", "text:", ":text", "hf:", "hf:a", "hf:a:b:c", "hf:a/b:train:text", "con:0"),
)
PATHS = (
    *("", "missing", "missing/deep/x", "corpus.txt", "corpus.txt/x", "notes.txt", "runs", "runs/tiny", "runs/stopped"),
    *("runs/imported", "runs/pair", "exported", "saved", "hf-llama", "hf-gpt2", "full", "empty", "empty.txt", "linked"),
    *(
        "linked.txt",
        "linked-run",
        "dangling",
        "dangling/x",
        "circle",
        "circle/x",
        "/dev/null",
        "/dev/full",
        "/dev/null/x",
    ),
    *(".", "..", "../..", "../../x", "tiny.yaml", "good.py", "new/deep/er", "x" * 256, "x/" * 2500 + "x", "two\nlines"),
    *("\x1b[31m", "\udcff", "runs/tiny/run.yaml", "runs/tiny/checkpoints/4", "~", "new.png", "new.svg", "new.json"),
    *("/proc/self/mem", "/proc/self/x", "/sys/x", "prompts.txt", "chat.json", "texts", "texts/*.txt", "**/*.txt", "*"),
)
CORPORA = (
    *("corpus.txt", "corpus.jsonl", "corpus.json", "corpus.csv", "corpus.parquet", "corpus.txt.gz", "corpus.jsonl.gz"),
    *("texts", "linked", "linked.txt", "texts/*.txt", "texts/**", "corpus.jsonl:text", "corpus.jsonl:id"),
    *(
        "corpus.jsonl:n",
        "corpus.jsonl:none",
        "corpus.parquet:text",
        "corpus.parquet:n",
        "corpus.csv:text",
        "corpus.txt:x",
    ),
)
TOKENIZERS = (
    *(
        "bytes",
        "bpe-300",
        "bpe-257",
        "bpe-256",
        "bpe-0",
        "bpe--1",
        "bpe-",
        "bpe-99999999999",
        "bpe-9223372036854775808",
    ),
    *("bpe-1e3", "bpe-" + "9" * 400, "BYTES", "runs/tiny", "runs/imported", "runs/pair", "hf-llama/tokenizer.json"),
    *("hf-llama", "exported/tokenizer.json", "tiny.yaml", "corpus.json", "full", "empty.txt", "bpe-300 ", "bpe-٣٠٠"),
)
BUDGETS = (
    *(
        "2 steps",
        "1 steps",
        "0 steps",
        "-1 steps",
        "1.5 steps",
        "",
        "steps",
        "2",
        "1e3 steps",
        "nan steps",
        "inf steps",
    ),
    *(
        "1e309 tokens",
        "100 tokens",
        "1 tokens",
        "0.1s",
        "0s",
        "1 FLOP",
        "1e6 FLOP",
        "2 steps 3 tokens",
        "2M",
        "5 years",
    ),
    *(
        "9" * 400 + " steps",
        "1" + "0" * 20 + " steps",
        "1e-400 s",
        "٢ steps",
        "2 steps\n",
        "2,000 steps",
        "inf",
        "0.001min",
    ),
)
SMALL = ("1", "2", "3", "4", "5", "8", "16", "31", "32", "33", "0.1", "0.5", "1.0")
JSON_VALUES: tuple[object, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7, 0.5, -0.5, 2**31, 2**63, 2**64, 10**20, 1e308, "", " ", "linear", "fp8", "x"),
    *(
        "x" * 300,
        "two\nlines",
        "\x1b[31m",
        "../../x",
        "1",
        "true",
        [],
        {},
        [[]],
        [1],
        ["a"],
        [None],
        {"a": 1},
        {"": {}},
    ),
    *({"type": "linear"}, {"kind": "attention"}, {"kind": None}, [{}, {}], [[1, 2], [3]], list(range(50)), {"1": "2"}),
    *("@@deep", "@@mappings", "@@digits", "@@400", "@@date", "@@nan", "@@inf", "@@1e400", "@@lone", "@@nul", "@@drop"),
)
YAML_TEXTS = (
    *(
        "",
        "\n",
        "#",
        "---\n---\n",
        "- a",
        "a",
        "1",
        "null",
        "2020-01-01",
        "[",
        "{",
        "a: b: c",
        "\t",
        "a:\n\t- b",
        "&a [*a]",
    ),
    *(
        "a: &a {b: *a}",
        "%YAML 9.9\n---\n",
        "!!python/object:os.system x",
        "base: standard\nbase: nope\n",
        "base: 2020-01-01",
    ),
    *(
        "? [a]\n: b\n",
        "1: 2\n",
        "null: 1\n",
        "base: [standard]\n",
        "base: {a: b}\n",
        "base: x.yaml\n",
        "base: ../tiny.yaml",
    ),
    *(
        "base: standard\ndim: 1:30\n",
        "base: standard\ndim: 0o20\n",
        "base: standard\ndim: 1_6\n",
        "base: standard\n<<: 1\n",
    ),
    *(
        "base: standard\n2020-01-01: 1\n",
        "base: standard\n[a, b]: 1\n",
        "base: standard\ndim: " + "9" * 5000,
        "\ufeffdim: 1",
    ),
    *(
        "base: standard\nlayers: " + "[" * 3000,
        "base: standard\nname: " + "{a: " * 3000,
        "base: standard\nabout: \x00\n",
    ),
    *(
        "base: standard\nabout: \x1b\n",
        "a: &x [1,1,1,1,1,1,1,1,1]\n",
        "base: standard\nname: .nan",
        "base: .inf",
        "name: x",
    ),
    *(
        "base: x.yaml",
        "base: ''",
        "base: standard\nplugin: {path: good.py, sha256: x}",
        "base: standard\nplugin: good.py",
    ),
    *(
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n"
            for before, name in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "base: standard\nname: \udcff",
    ),
)
CONTENTS = (
    *("", "\n", "\x00", "text\x00text" * 200, "\ufeff" + "the cat sat\n" * 400, "\udcff\udcfe" * 300, "a" * 100_000),
    *("the cat sat\n" * 3, "\n" * 5000, " " * 5000, "x", "\r\n" * 800, "👍" * 2000, "\ud83d", '{"text": "a"}' * 3),
    *(
        "[]",
        "{}",
        "null",
        "[1, 2]",
        '"x"',
        '{"text": 1}\n' * 9,
        '{"text": null}\n' * 9,
        '["a"]\n' * 9,
        "a,b\n1,2\n" * 9,
    ),
    *('{"text": "ab', '{"text": "the cat"}\n{"txt": "the cat"}\n' * 99, '{"a": "x", "b": "y"}\n' * 99, "PAR1" * 9),
    *(
        '{"text": ' + "9" * 5000 + "}\n",
        '{"text": ' + "[" * 5000 + "]" * 5000 + "}\n",
        "\x1f\x8b\x08garbage",
        "PK\x03\x04",
    ),
    *(
        '{"text": {"inner": "the cat sat on"}}\n' * 99,
        '{"messages": [{"role": "user", "content": "hi"}]}\n' * 99,
        "BZh9",
    ),
    *(
        '{"text": "\\ud800"}\n' * 99,
        '{"": "a"}\n' * 99,
        '{"text": "a", "text": "b"}\n' * 200,
        "NaN\n",
        '"',
        "text\n" + '"' * 99,
    ),
)
