"""YAML and JSON from anybody: what is read is plain data, what is not is one sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from litmus.errors import BadInput
from litmus.yaml_json import MAX_DEPTH, mapping, parse_json, parse_yaml, read_json, read_yaml

ALIASES = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("name: 2024-01-01", {"name": "2024-01-01"}),
        ("name: 12:30:45", {"name": "12:30:45"}),
        ("a: [1, -2, 0x10, 1.5, true, null, text]", {"a": [1, -2, 16, 1.5, True, None, "text"]}),
        ("lr: 1e-3", {"lr": "1e-3"}),
        ("\ufeffa: 1", {"a": 1}),
        ("", None),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        (f"n: {2**63 - 1}", {"n": 2**63 - 1}),
    ],
)
def test_yaml_is_plain_data(text: str, value: Any) -> None:
    assert parse_yaml(text, "it") == value
    assert parse_yaml(text.encode(), "it") == value


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb: 2\na: 3", "it: the key 'a' appears twice in one mapping (line 1); keep one of them"),
        ("a: {b: 1, b: 1}", "it: the key 'b' appears twice in one mapping (line 1); keep one of them"),
        ("5: a", "it: the key 5 (line 1) is not a text; quote it"),
        ("on: a", "it: the key True (line 1) is not a text; quote it"),
        ("? [1, 2]\n: a", "it: the key [1, 2] (line 1) is not a text; quote it"),
        (f"n: {2**63}", "it: the number 9223372036854775808 is beyond 64 bits"),
        ("n: " + "9" * 400, "(400 characters) is beyond 64 bits"),
        ("n: " + "9" * 5000, "(5,000 characters) is beyond 64 bits"),
        ("n: !!int '12x'", "it is not YAML: invalid literal for int() with base 10: '12x'"),
        ("n: 0b_", "it is not YAML"),
        ("[" * 100 + "]" * 100, f"it is nested more than {MAX_DEPTH} deep, or within itself"),
        ("[" * 20_000, f"it is nested more than {MAX_DEPTH} deep, or within itself"),
        ("a: &a [*a]", f"it is nested more than {MAX_DEPTH} deep, or within itself"),
        (ALIASES, "it has more than 100,000 values after its aliases are expanded"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor for the tag"),
        ("a: !!timestamp 2024-01-01", "could not determine a constructor for the tag"),
        ("a: !!binary aGk=", "could not determine a constructor for the tag"),
        ("a: !!set {b}", "could not determine a constructor for the tag"),
        ("a:\n\tb: 1", "it is not YAML: while scanning for the next token found character '\\t'"),
        ("a: *missing", "found undefined alias"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a: \x00", "it is not YAML"),
        (b"a: \xff\xfe\xfa", "it is not YAML"),
    ],
)
def test_what_is_not_plain_yaml_is_one_short_sentence(text: str | bytes, sentence: str) -> None:
    with pytest.raises(BadInput) as error:
        parse_yaml(text, "it")
    assert sentence in str(error.value)
    assert len(str(error.value)) < 300 and str(error.value).isprintable()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"a": 1, "a": 2}', "it: the key 'a' appears twice in one mapping; keep one of them"),
        ('{"n": ' + "9" * 5000 + "}", "(5,000 characters) has more than 40 digits"),
        ("[" * 100 + "]" * 100, f"it is nested more than {MAX_DEPTH} deep, or within itself"),
        ("[" * 100_000, f"it is nested more than {MAX_DEPTH} deep, or within itself"),
        ("", "it is not JSON: Expecting value"),
        ("{'a': 1}", "it is not JSON"),
        (b'{"a": "\xff"}', "it is not JSON: 'utf-8' codec can't decode byte 0xff"),
        ("\x00", "it is not JSON"),
    ],
)
def test_what_is_not_plain_json_is_one_short_sentence(text: str | bytes, sentence: str) -> None:
    with pytest.raises(BadInput) as error:
        parse_json(text, "it")
    assert sentence in str(error.value)
    assert len(str(error.value)) < 300 and str(error.value).isprintable()


def test_json_keeps_the_large_number_that_published_configs_write_for_no_limit() -> None:
    assert parse_json('{"model_max_length": 1000000000000000019884624838656}', "it")["model_max_length"] > 10**29
    assert parse_json(b'\xef\xbb\xbf{"a": 1}', "it") == {"a": 1}


@pytest.mark.parametrize("value", ["2024-01-01", "12:30", "1e3", "on", "5", "~", " a\nb", "0o7", "", "\ufeff", "ä"])
def test_what_yaml_writes_comes_back(value: str) -> None:
    plain = {"name": value, value: [value]}
    assert parse_yaml(yaml.safe_dump(plain, allow_unicode=True), "it") == plain


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "big.yaml").write_bytes(b"#" * (2**20 + 1))
    for read in (read_yaml, read_json):
        for path, sentence in (
            (tmp_path, "is a folder"),
            (tmp_path / "pipe", "is not a regular file"),
            (tmp_path / "none", "cannot be read: No such file or directory"),
            (tmp_path / ("x" * 300), "cannot be read: File name too long"),
            (Path("a\0b"), "cannot be read: "),
        ):
            with pytest.raises(BadInput, match=sentence):
                read(path)
    with pytest.raises(BadInput, match="more than 1 MiB"):
        read_yaml(tmp_path / "big.yaml")


def test_only_a_mapping_is_a_mapping() -> None:
    assert mapping({"a": 1}, "it") == {"a": 1}
    with pytest.raises(BadInput, match=r"it must hold a mapping of recipe keys, found \[1, 2\]"):
        mapping([1, 2], "it", "recipe keys")


@pytest.mark.slow
def test_a_wide_bomb_is_refused_before_it_is_written_out() -> None:
    wide = f"a: &a [{'x, ' * 50_000}]\nb: [{'*a, ' * 49_000}]"  # 2.45 thousand million values
    with pytest.raises(BadInput, match="more than 100,000 values"):
        parse_yaml(wide, "it")
