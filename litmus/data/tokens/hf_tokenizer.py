"""Tokenizers read from a tokenizer.json of Hugging Face: BPE on bytes (GPT-2, Llama 3, DeepSeek) or SentencePiece's."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from tokenizers import AddedToken, Encoding
from tokenizers import Tokenizer as Backend

from litmus.data.json_files import checked, read_json
from litmus.data.tokens.hf_tokenizer_files import (
    ENDS,
    SETTINGS,
    SPECIAL_MAP,
    Surroundings,
    TokenizerFile,
    TokenizerSettings,
    class_steps,
    declared,
    model_tokens,
    side_files,
)
from litmus.data.tokens.tokenizer import FILE_NAME, Tokenizer
from litmus.errors import BadInput, shown


class ImportedTokenizer(Tokenizer):
    """A tokenizer that cuts, merges and surrounds a text as `file`, the content of a tokenizer.json, does.

    `side_files` are the files about it that lay next to it, kept to be written again. Without `around`, which runs of
    Litmus 0.1.0 have not kept, a text begins with the end token and is not normalized.
    """

    def __init__(
        self,
        name: str,
        file: dict[str, Any],
        end: int,
        around: Surroundings | None = None,
        side_files: dict[str, Any] | None = None,
        origin: str = FILE_NAME,
    ):
        self.file, self.around, self.side_files, self.origin = file, around, side_files or {}, origin
        self._used = file if around is None else {**file, **around.steps}
        self._declared = declared(self._used, Path(origin))
        special = {} if around is None else around.special
        super().__init__(name, _pieces(self._declared, special), end)
        changes = {} if around is not None else {"normalizer": None}
        self._backend = _backend({**self._used, **changes}, special, origin)
        self._backend.encode_special_tokens = True  # as the text they are written in
        with _library(origin):
            first = self._backend.encode("a", add_special_tokens=False).ids[:1]
        self.puts_a_space = bool(first) and self.piece(first[0])[:1] == b" "
        if around is not None:
            self._check_special(around.special)
            self.stops = tuple(around.stops) or (end,)
            self.window_prefix = tuple(around.begin)
            self.prefix = self.window_prefix or ((end,) if around.bos is None else (around.bos,))

    @property
    def special(self) -> dict[str, int]:
        if self.around is not None:
            return self.around.special
        return {token.content: token.id for token in self._declared.added_tokens if token.special}

    def encode_batch(self, texts: Sequence[str], continuing: Sequence[bool] | None = None) -> list[list[int]]:
        if self.puts_a_space and continuing is not None and any(continuing):
            pairs = zip(texts, continuing, strict=True)
            return [self._within(text) if goes_on else self._ids([text])[0] for text, goes_on in pairs]
        return self._ids(texts)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        if not allow_special:
            return self._ids([text])[0]
        self._backend.encode_special_tokens = False
        try:
            with _library(self.origin):
                return list(self._backend.encode(text, add_special_tokens=False).ids)
        finally:
            self._backend.encode_special_tokens = True

    def prompt(self, text: str, *, allow_special: bool = False) -> list[int]:
        if self.around is None:
            return super().prompt(text, allow_special=allow_special)
        tokens = [*self.around.begin, *self.encode(text, allow_special=allow_special), *self.around.after]
        return tokens or list(self.prefix)

    def decode(self, ids: Iterable[int]) -> str:
        text = super().decode(ids)
        return text.removeprefix(" ") if self.puts_a_space else text

    def _check_special(self, special: dict[str, int]) -> None:
        """BadInput where a special token can come out of a text, as merges or a rule that takes whole words allow."""
        names = [name for name in special if name != self._declared.model.unk_token]
        with _library(self.origin):
            found = self._backend.encode_batch_fast(names, add_special_tokens=False)
        for name, encoding in zip(names, found, strict=True):
            if special[name] in encoding.ids:
                raise BadInput(f"{self.origin}: its special token {shown(name)} is what a text is encoded to as well")

    def _ids(self, texts: Sequence[str], backend: Backend | None = None) -> list[list[int]]:
        with _library(self.origin):
            found: list[Encoding] = (backend or self._backend).encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [encoding.ids for encoding in found]
        if not self._total:
            for text, tokens in zip(texts, ids, strict=True):
                self._check_whole(text, tokens)
        return ids

    def _within(self, text: str) -> list[int]:
        """The tokens of a text that continues another, before which no space is put."""
        return self._ids([text], self._without_space)[0]

    @cached_property
    def _without_space(self) -> Backend:
        file = copy.deepcopy({key: value for key, value in self._used.items() if key != "model"})
        whole = {**file, "model": self._used["model"]}
        steps = declared(whole, Path(self.origin))
        for step in steps.pre_tokenizers:
            if "add_prefix_space" in step:
                step["add_prefix_space"] = False
            if "prepend_scheme" in step:
                step["prepend_scheme"] = "never"
        kept = [step for step in steps.normalizers if step.get("type") != "Prepend"]
        whole["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps.pre_tokenizers}
        whole["normalizer"] = {"type": "Sequence", "normalizers": kept}
        backend = _backend(whole, {} if self.around is None else self.around.special, self.origin)
        backend.encode_special_tokens = True
        return backend

    @cached_property
    def _total(self) -> bool:
        """Whether every text can be written in tokens: there is one for each byte that a character can hold."""
        file = self._declared
        if file.byte_level or file.model.byte_fallback:
            single = {piece for piece in self.pieces if len(piece) == 1}
            return len(single) == 256
        return False

    def _check_whole(self, text: str, tokens: list[int]) -> None:
        """BadInput naming the first character of a text that no token holds; published tokenizers lack a few."""
        written = b"".join(map(self.piece, tokens))
        if written.removeprefix(b" ") == self._normal(text).removeprefix(b" "):
            return
        for character in dict.fromkeys(text):
            with _library(self.origin):
                ids = self._backend.encode("a" + character, add_special_tokens=False).ids
            if not b"".join(map(self.piece, ids)).endswith(self._normal(character)):
                lacks = " ".join(f"0x{byte:02x}" for byte in character.encode(errors="replace"))
                raise BadInput(
                    f"the tokenizer {self.name!r} has no token for the character {character!r} (bytes {lacks}); take "
                    f"it out of the text"
                )

    def _normal(self, text: str) -> bytes:
        """The bytes that the tokens of a text spell out; SentencePiece cannot tell its mark from a space."""
        normalizer = self._backend.normalizer
        normal = text if normalizer is None or not self._declared.byte_level else normalizer.normalize_str(text)
        return normal.encode() if self._declared.byte_level else normal.replace("▁", " ").encode()

    def _details(self) -> dict[str, Any]:
        details = {"file": self.file, "end": self.end}
        if self.around is None:
            return details
        return {**details, "around": self.around.model_dump(mode="json"), "side_files": self.side_files}


def read_imported(path: Path) -> ImportedTokenizer:
    """The tokenizer of a tokenizer.json; the files next to it say which tokens begin and end a text.

    BadInput for any other form than BPE on bytes or SentencePiece's, and for one that would not give back a text.
    """
    file = read_json(path)
    said, side = declared(file, path), side_files(path.parent)
    settings = {**side.get(SPECIAL_MAP, {}), **side.get(SETTINGS, {})}
    around = _surroundings(path, file, said, settings)
    return ImportedTokenizer(path.resolve().parent.name, file, around.end, around, side, str(path))


def restored(saved: dict[str, Any], origin: str) -> ImportedTokenizer:
    """The tokenizer that `save` wrote; BadInput where the file was damaged since."""
    file, end, around, side = (saved.get(key) for key in ("file", "end", "around", "side_files"))
    try:
        if not isinstance(file, dict) or not isinstance(end, int) or not isinstance(side or {}, dict):
            raise BadInput(f"{origin} is damaged: file must be a mapping and end a token id")
        kept = None if around is None else Surroundings.model_validate(around)
    except ValidationError as error:
        raise BadInput(f"{origin} is damaged: around: {error.errors()[0]['msg']}") from None
    return ImportedTokenizer(str(saved["name"]), file, end, kept, side, origin)


@contextlib.contextmanager
def _library(origin: str) -> Iterator[None]:
    """Turn what the tokenizers library raises into a sentence; a panic of its Rust code is not even an Exception."""
    try:
        yield
    except (BadInput, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        reason = shown(str(error).partition("\n")[0])
        raise BadInput(f"{origin} cannot be used by the tokenizers library: {reason}") from None


def _backend(file: dict[str, Any], special: dict[str, int], origin: str) -> Backend:
    """The library's tokenizer; no special token can come out of a text, whatever its merges say."""
    plain = {"post_processor": None, "truncation": None, "padding": None}
    with _library(origin):
        backend = Backend.from_str(json.dumps({**file, **plain}))
        known = {entry.content for entry in backend.get_added_tokens_decoder().values()}
        missing = [AddedToken(name, special=True, normalized=False) for name in special if name not in known]
        backend.add_special_tokens(missing)
    return backend


def _pieces(file: TokenizerFile, special: dict[str, int]) -> list[bytes]:
    """The bytes of each token id; special tokens, and ids that no token has, hold none."""
    added = {token.content: token for token in file.added_tokens}
    pieces = {number: b"" if text in added else file.piece(text) for text, number in file.model.vocab.items()}
    pieces |= {token.id: b"" if token.special else token.content.encode() for token in file.added_tokens}
    pieces |= dict.fromkeys(special.values(), b"")
    return [pieces.get(number, b"") for number in range(max(pieces) + 1)]


def _surroundings(path: Path, file: dict[str, Any], said: TokenizerFile, settings: dict[str, Any]) -> Surroundings:
    """What stands around a text: as the settings say, or the model's files; its post-processor adds tokens."""
    named = checked(TokenizerSettings, settings, str(path.parent / SETTINGS))
    model = model_tokens(path.parent)
    ids = said.model.vocab | {token.content: token.id for token in said.added_tokens}
    special = {token.content: token.id for token in said.added_tokens if token.special}
    names = [name for part in ("bos", "eos", "unk", "pad") if (name := named.name(part)) in ids]
    special |= {name: ids[name] for name in names if name}
    end = _end(path, named, model.ends, special)
    bos = special.get(named.name("bos") or "")
    if bos is None:
        bos = next((number for number in model.begins[:1] if number in special.values()), None)
    begin, after = _around(file, str(path))
    stops = [number for number in dict.fromkeys(model.ends) if number >= 0] or [end]
    return Surroundings(
        end=end, bos=bos, begin=begin, after=after, stops=stops, special=special, steps=class_steps(said, named, model)
    )


def _around(file: dict[str, Any], origin: str) -> tuple[list[int], list[int]]:
    """The tokens that the post-processor puts before and after a text."""
    with _library(origin):
        backend = Backend.from_str(json.dumps({**file, "truncation": None, "padding": None}))
        encoding = backend.encode("a")
    own = [place for place, added in enumerate(encoding.special_tokens_mask) if not added]
    if not own:
        return list(encoding.ids), []
    return list(encoding.ids[: own[0]]), list(encoding.ids[own[-1] + 1 :])


def _end(path: Path, named: TokenizerSettings, ends: list[int], special: dict[str, int]) -> int:
    """The token that ends a document: as the settings say, or the model's files, or by its usual name."""
    name = named.name("eos")
    if name in special and name is not None:
        return special[name]
    if known := [number for number in ends if number in special.values()]:
        return known[0]
    if usual := [special[name] for name in ENDS if name in special]:
        return usual[0]
    raise BadInput(f"{path} has no special token that ends a document; name it as eos_token in {SETTINGS} next to it")
