"""Tokenizers from a Hugging Face tokenizer.json: BPE on bytes (GPT-2, Llama 3, DeepSeek) or SentencePiece's."""

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
    EOS_NAMES,
    SETTINGS,
    SPECIAL_MAP,
    ModelTokens,
    SpecialTokens,
    TokenizerFile,
    TokenizerSettings,
    model_tokens,
    parse_tokenizer_file,
    side_files,
    transformers_class_steps,
)
from litmus.data.tokens.tokenizer import FILE_NAME, Tokenizer
from litmus.errors import BadInput, shown
from litmus.files import real_path


class ImportedTokenizer(Tokenizer):
    """The tokenizer that `file`, the content of a tokenizer.json, declares.

    around: special tokens before and after a text. Without it, as in runs of Litmus 0.1.0, a text begins with the end
    token and is not normalized. side_files: contents of the related files next to tokenizer.json, kept for exports.
    """

    def __init__(
        self,
        name: str,
        file: dict[str, Any],
        end: int,
        around: SpecialTokens | None = None,
        side_files: dict[str, Any] | None = None,
        origin: str = FILE_NAME,
    ):
        self.file, self.around, self.side_files, self.origin = file, around, side_files or {}, origin
        self._used = file if around is None else {**file, **around.steps}
        self._declared = parse_tokenizer_file(self._used, Path(origin))
        special = {} if around is None else around.special
        super().__init__(name, _pieces(self._declared, special), end)
        changes = {} if around is not None else {"normalizer": None}
        self._backend = _backend({**self._used, **changes}, special, origin)
        self._backend.encode_special_tokens = True  # special tokens in a text are plain text
        with _library_errors(origin):
            first = self._backend.encode("a", add_special_tokens=False).ids[:1]
        self.adds_prefix_space = bool(first) and self.piece(first[0])[:1] == b" "
        if around is not None:
            self._check_special(around.special)
            self.stop_ids = tuple(around.stops) or (end,)
            self.window_prefix = tuple(around.begin)
            self.prefix = self.window_prefix or ((end,) if around.bos is None else (around.bos,))

    @property
    def special(self) -> dict[str, int]:
        if self.around is not None:
            return self.around.special
        return {token.content: token.id for token in self._declared.added_tokens if token.special}

    def encode_batch(self, texts: Sequence[str], continuing: Sequence[bool] | None = None) -> list[list[int]]:
        if self.adds_prefix_space and continuing is not None and any(continuing):
            pairs = zip(texts, continuing, strict=True)
            return [
                self._encode_continuation(text) if continues_document else self._ids([text])[0]
                for text, continues_document in pairs
            ]
        return self._ids(texts)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        if not allow_special:
            return self._ids([text])[0]
        self._backend.encode_special_tokens = False
        try:
            with _library_errors(self.origin):
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
        return text.removeprefix(" ") if self.adds_prefix_space else text

    def _check_special(self, special: dict[str, int]) -> None:
        """BadInput if plain text can be encoded to a special token, by merges or by `ignore_merges`."""
        names = [name for name in special if name != self._declared.model.unk_token]
        with _library_errors(self.origin):
            found = self._backend.encode_batch_fast(names, add_special_tokens=False)
        for name, encoding in zip(names, found, strict=True):
            if special[name] in encoding.ids:
                raise BadInput(f"{self.origin}: plain text can be encoded to its special token {shown(name)}")

    def _ids(self, texts: Sequence[str], backend: Backend | None = None) -> list[list[int]]:
        with _library_errors(self.origin):
            found: list[Encoding] = (backend or self._backend).encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [encoding.ids for encoding in found]
        if not self._covers_all_bytes:
            for text, tokens in zip(texts, ids, strict=True):
                self._check_complete(text, tokens)
        return ids

    def _encode_continuation(self, text: str) -> list[int]:
        """The tokens of a text that continues another one, without an added space."""
        return self._ids([text], self._backend_without_space)[0]

    @cached_property
    def _backend_without_space(self) -> Backend:
        file = copy.deepcopy({key: value for key, value in self._used.items() if key != "model"})
        whole = {**file, "model": self._used["model"]}
        steps = parse_tokenizer_file(whole, Path(self.origin))
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
    def _covers_all_bytes(self) -> bool:
        """Whether every text can be encoded: there is a token for each of the 256 bytes."""
        file = self._declared
        if file.byte_level or file.model.byte_fallback:
            single = {piece for piece in self.pieces if len(piece) == 1}
            return len(single) == 256
        return False

    def _check_complete(self, text: str, tokens: list[int]) -> None:
        """BadInput with the first character of a text that has no token; published tokenizers lack a few."""
        written = b"".join(map(self.piece, tokens))
        if written.removeprefix(b" ") == self._normal(text).removeprefix(b" "):
            return
        for character in dict.fromkeys(text):
            with _library_errors(self.origin):
                ids = self._backend.encode("a" + character, add_special_tokens=False).ids
            if not b"".join(map(self.piece, ids)).endswith(self._normal(character)):
                lacks = " ".join(f"0x{byte:02x}" for byte in character.encode(errors="replace"))
                raise BadInput(
                    f"the tokenizer {self.name!r} has no token for the character {character!r} (bytes {lacks}); take "
                    f"it out of the text"
                )

    def _normal(self, text: str) -> bytes:
        """The bytes that the tokens of a text decode to; SentencePiece cannot distinguish its mark from a space."""
        normalizer = self._backend.normalizer
        normal = text if normalizer is None or not self._declared.byte_level else normalizer.normalize_str(text)
        return normal.encode() if self._declared.byte_level else normal.replace("▁", " ").encode()

    def _details(self) -> dict[str, Any]:
        details = {"file": self.file, "end": self.eos_id}
        if self.around is None:
            return details
        return {**details, "around": self.around.model_dump(mode="json"), "side_files": self.side_files}


def read_hf_tokenizer(path: Path) -> ImportedTokenizer:
    """The tokenizer of a tokenizer.json, with the special tokens that the files next to it declare.

    BadInput for anything but BPE on bytes or SentencePiece's BPE, and for tokenizers that lose text.
    """
    file, folder = read_json(path), path.parent
    return make_hf_tokenizer(real_path(path).parent.name, file, side_files(folder), model_tokens(folder), path)


def make_hf_tokenizer(
    name: str, file: dict[str, Any], side: dict[str, Any], model: ModelTokens, path: Path
) -> ImportedTokenizer:
    """The tokenizer of the content of a tokenizer.json, of the files next to it, and of the model's token ids.

    `path` is where messages say that it is from.
    """
    declared = parse_tokenizer_file(file, path)
    settings = {**side.get(SPECIAL_MAP, {}), **side.get(SETTINGS, {})}
    around = _special_tokens(path, file, declared, settings, model)
    return ImportedTokenizer(name, file, around.end, around, side, str(path))


def load_saved(saved: dict[str, Any], origin: str) -> ImportedTokenizer:
    """The tokenizer that `save` wrote; BadInput if the file is damaged."""
    file, end, around, side = (saved.get(key) for key in ("file", "end", "around", "side_files"))
    try:
        if not isinstance(file, dict) or not isinstance(end, int) or not isinstance(side or {}, dict):
            raise BadInput(f"{origin} is damaged: file must be a mapping and end a token id")
        kept = None if around is None else SpecialTokens.model_validate(around)
    except ValidationError as error:
        raise BadInput(f"{origin} is damaged: around: {error.errors()[0]['msg']}") from None
    return ImportedTokenizer(str(saved["name"]), file, end, kept, side, origin)


@contextlib.contextmanager
def _library_errors(origin: str) -> Iterator[None]:
    """Convert exceptions of the tokenizers library into BadInput; a panic of its Rust code is a BaseException."""
    try:
        yield
    except (BadInput, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        reason = shown(str(error).partition("\n")[0])
        raise BadInput(f"{origin} cannot be used by the tokenizers library: {reason}") from None


def _backend(file: dict[str, Any], special: dict[str, int], origin: str) -> Backend:
    """The library's tokenizer, with `special` added, so that no text is encoded to them."""
    plain = {"post_processor": None, "truncation": None, "padding": None}
    with _library_errors(origin):
        backend = Backend.from_str(json.dumps({**file, **plain}))
        known = {entry.content for entry in backend.get_added_tokens_decoder().values()}
        missing = [AddedToken(name, special=True, normalized=False) for name in special if name not in known]
        backend.add_special_tokens(missing)
    return backend


def _pieces(file: TokenizerFile, special: dict[str, int]) -> list[bytes]:
    """The bytes of each token id; none for special tokens and unused ids."""
    added = {token.content: token for token in file.added_tokens}
    pieces = {number: b"" if text in added else file.piece(text) for text, number in file.model.vocab.items()}
    pieces |= {token.id: b"" if token.special else token.content.encode() for token in file.added_tokens}
    pieces |= dict.fromkeys(special.values(), b"")
    return [pieces.get(number, b"") for number in range(max(pieces) + 1)]


def _special_tokens(
    path: Path, file: dict[str, Any], declared: TokenizerFile, settings: dict[str, Any], model: ModelTokens
) -> SpecialTokens:
    """Special tokens from the tokenizer's settings, the model's files and the post-processor."""
    named = checked(TokenizerSettings, settings, str(path.parent / SETTINGS))
    ids = declared.model.vocab | {token.content: token.id for token in declared.added_tokens}
    special = {token.content: token.id for token in declared.added_tokens if token.special}
    names = [name for part in ("bos", "eos", "unk", "pad") if (name := named.name(part)) in ids]
    special |= {name: ids[name] for name in names if name}
    end = _eos_id(path, named, model.ends, special)
    bos = special.get(named.name("bos") or "")
    if bos is None:
        bos = next((number for number in model.begins[:1] if number in special.values()), None)
    begin, after = _post_processor_tokens(file, str(path))
    stop_ids = [number for number in dict.fromkeys(model.ends) if number >= 0] or [end]
    return SpecialTokens(
        end=end,
        bos=bos,
        begin=begin,
        after=after,
        stops=stop_ids,
        special=special,
        steps=transformers_class_steps(declared, named, model),
    )


def _post_processor_tokens(file: dict[str, Any], origin: str) -> tuple[list[int], list[int]]:
    """The tokens that the post-processor adds before and after a text."""
    with _library_errors(origin):
        backend = Backend.from_str(json.dumps({**file, "truncation": None, "padding": None}))
        encoding = backend.encode("a")
    own = [place for place, added in enumerate(encoding.special_tokens_mask) if not added]
    if not own:
        return list(encoding.ids), []
    return list(encoding.ids[: own[0]]), list(encoding.ids[own[-1] + 1 :])


def _eos_id(path: Path, named: TokenizerSettings, ends: list[int], special: dict[str, int]) -> int:
    """The token that ends a document: from the settings, else the model's files, else by a common name."""
    name = named.name("eos")
    if name in special and name is not None:
        return special[name]
    if known := [number for number in ends if number in special.values()]:
        return known[0]
    if usual := [special[name] for name in EOS_NAMES if name in special]:
        return usual[0]
    raise BadInput(f"{path} has no special token that ends a document; name it as eos_token in {SETTINGS} next to it")
