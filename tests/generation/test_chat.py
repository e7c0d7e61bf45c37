"""Chat: what the model is given to continue, what the commands do, and what a base model is called."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from typer.testing import CliRunner

import litmus
from litmus.cli import main
from litmus.cli.app import app
from litmus.data.chat.template import (
    ChatTemplate,
    LegacyTemplate,
    named_speakers,
    plain_dialogue,
    read_template,
    template_of,
)
from litmus.data.tokens.hf_tokenizer import read_hf_tokenizer
from litmus.data.tokens.tokenizer import ByteTokenizer, byte_of_symbol
from litmus.errors import BadInput
from litmus.generation import generate
from litmus.generation.chat import session as chat_session
from litmus.generation.chat.conversation import Conversation
from litmus.generation.chat.session import Session
from litmus.generation.generate import TextChunk
from litmus.interop import export_model, import_run
from litmus.model import Decoder

BYTES = ByteTokenizer()
FORMS = {"user": "<u>{text}</u>", "assistant": "<a>{text}</a>", "system": "<s>{text}</s>", "stop": []}
"""chat.json of Litmus 0.1.0."""
JINJA = (
    "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}</{{ m.role[0] }}>{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
MARKED = ChatTemplate(JINJA)
BOTH = [MARKED, LegacyTemplate.model_validate(FORMS).to_jinja("chat.json")]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, rough: Callable[..., Decoder]) -> Path:
    """A run of a small model that was trained on nothing, with a byte tokenizer."""
    place = tmp_path_factory.mktemp("chat")
    model = litmus.build("standard", vocab_size=257, overrides={"dim": 32, "depth": 1, "heads": 4, "context": 96})
    export_model(rough(model, torch.float32), ByteTokenizer(), place / "exported")
    import_run(place / "exported", place / "run")
    return place / "run"


def conversation(context: int = 64, template: ChatTemplate = MARKED, system: str = "") -> Conversation:
    return Conversation(template, BYTES, context, system)


def text_of(prompt: list[int]) -> str:
    assert prompt[0] == BYTES.eos_id
    return BYTES.decode(prompt)


@pytest.mark.parametrize("template", BOTH)
def test_a_conversation_is_written_by_its_template_and_opens_a_reply(template: ChatTemplate) -> None:
    talk = conversation(system="be brief", template=template)
    for role, text in (("user", "hello"), ("assistant", "hi"), ("user", "bye")):
        talk.add(role, text)  # type: ignore[arg-type]
    assert text_of(talk.prompt(0)) == "<s>be brief</s><u>hello</u><a>hi</a><u>bye</u><a>"
    assert template.stops(BYTES) == ([BYTES.eos_id], ["</a>"])


def test_without_a_template_a_dialogue_is_written_as_plain_text() -> None:
    plain = plain_dialogue()
    assert plain.render([{"role": "user", "content": "hello"}]) == "User: hello\nAssistant:"
    assert plain.stops(BYTES) == ([BYTES.eos_id], ["\nUser:", "\nAssistant:"])


def test_forms_of_the_first_version_are_text_whatever_they_hold() -> None:
    odd = '"{{ 7 * 7 }}\\n\\ {% raw %} ä 😀 \t\n\u2028'
    forms = {"user": odd + "{text}" + odd, "assistant": odd + "{text}"}
    rendered = (
        LegacyTemplate.model_validate(forms).to_jinja("chat.json").render([{"role": "user", "content": "{{ x }}"}])
    )
    assert rendered == odd + "{{ x }}" + odd + odd


def test_the_oldest_messages_go_whole_and_the_first_that_stays_is_a_users() -> None:
    talk = conversation(context=50, system="S")
    for number in range(4):
        talk.add("user", f"question {number}")
        talk.add("assistant", f"answer {number}")
    talk.add("user", "last")
    assert text_of(talk.prompt(0)) == "<s>S</s><u>last</u><a>"
    talk.context = 1 + len("<s>S</s><u>question 3</u><a>answer 3</a><u>last</u><a>")
    assert text_of(talk.prompt(0)) == "<s>S</s><u>question 3</u><a>answer 3</a><u>last</u><a>"
    assert text_of(talk.prompt(1)) == "<s>S</s><u>last</u><a>"
    assert len(talk.messages) == 10, "what is not seen is not forgotten"


def test_a_message_that_fits_in_no_case_is_refused() -> None:
    talk = conversation(context=30)
    talk.add("user", "x" * 30)
    with pytest.raises(BadInput, match="takes 41 tokens and 25 fit together with a reply of 5"):
        talk.prompt(5)


def test_a_template_is_read_and_what_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    said: list[Any] = [{"role": "user", "content": "hello"}]
    for content in (
        json.dumps(FORMS),
        json.dumps({"chat_template": JINJA, "eos_token": "</a>"}),
        json.dumps({"chat_template": [{"name": "tool", "template": "x"}, {"name": "default", "template": JINJA}]}),
    ):
        path.write_text(content, encoding="utf-8")
        assert read_template(path).render(said) == "<u>hello</u><a>"
    (tmp_path / "chat_template.jinja").write_text(JINJA)
    assert read_template(tmp_path / "chat_template.jinja").render(said) == "<u>hello</u><a>"
    path.write_text(json.dumps({"chat_template": JINJA, "stop_strings": ["<u>"]}))
    assert read_template(path).stops(BYTES)[1] == ["<u>", "</a>"]
    for content, sentence in (
        ('{"user": "no place"}', "must hold {text} once"),
        ('{"usr": "{text}"}', "unknown key 'usr'; did you mean 'user'"),
        ("{", "is not JSON: Expecting property name"),
        ("[1]", r"must hold a mapping of texts.*, found \[1\]"),
        ('{"chat_template": 1}', "chat_template"),
        ('{"chat_template": "{% for %}"}', "line 1 of the chat template is not valid Jinja"),
        ('{"chat_template": [{"name": "tool", "template": "x"}]}', "one named 'default' is needed"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(BadInput, match=sentence):
            read_template(path)
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        read_template(tmp_path / "nowhere.json")


@pytest.fixture
def session(rough: Callable[..., Decoder]) -> Callable[..., tuple[Session, Callable[..., str]]]:
    """session(...) -> a session of an untrained model, and say(*lines) -> what it prints."""

    def make(**options: Any) -> tuple[Session, Callable[..., str]]:
        overrides = {"dim": 16, "depth": 1, "heads": 2, "context": 96}
        model = rough(litmus.build("standard", vocab_size=257, overrides=overrides), torch.float32).eval()
        options = {"max_new_tokens": 8, "temperature": 0.0, **options}
        opened = Session(model, ByteTokenizer(), conversation(96, plain_dialogue()), io.StringIO(), **options)

        def say(*lines: str) -> str:
            left: Iterator[str] = iter(lines)
            opened.out = io.StringIO()

            def read() -> str:
                try:
                    return next(left)
                except StopIteration:
                    raise EOFError from None

            opened.run(read)
            return opened.out.getvalue()

        return opened, say

    return make


def test_a_reply_is_the_continuation_of_the_conversation_and_becomes_part_of_it(session: Any) -> None:
    opened, say = session()
    expected = generate(
        opened.model, "User: hello\nAssistant:", tokenizer=opened.tokenizer, max_new_tokens=8, temperature=0
    )[0].strip()
    printed = say("hello")
    assert printed.strip() == expected
    assert [(m["role"], m["content"]) for m in opened.conversation.messages] == [
        ("user", "hello"),
        ("assistant", expected),
    ]


def test_a_reply_prefills_what_is_new_since_the_last_one(session: Any) -> None:
    opened, say = session(max_new_tokens=2)
    say("hello, how do you do?")
    opened.conversation.add("user", "fine")
    first = len(opened.conversation.template.encode(opened.conversation.messages[:1], BYTES))
    second = len(opened.conversation.prompt(2))
    opened.conversation.messages.pop()
    fed: list[int] = []
    opened._engine.model.embedding.register_forward_pre_hook(lambda module, given: fed.append(given[0].numel()))
    continued = say("fine")
    assert fed[0] <= second - first and len(fed) <= 2, "the first message and where its reply begins are in the cache"
    opened.conversation.messages[2:] = []
    opened._engine, opened.seed = None, 1
    assert say("fine") == continued, "as without a cache"


def test_names_of_speakers_are_written_where_the_template_writes_them(folder: Path) -> None:
    talk = Conversation(named_speakers(), BYTES, 90, names={"user": "Anna", "assistant": "Ben"})
    talk.add("user", "hi")
    talk.add("assistant", "yes?")
    talk.add("user", "bye")
    assert text_of(talk.prompt(0)) == "Anna: hiBen: yes?Anna: byeBen:"
    assert talk.messages[1] == {"role": "assistant", "content": "yes?", "name": "Ben"}
    for name, sentence in (
        ("Anna", "writes no names, so that 'Anna' would have no effect"),
        ("a\nb", "cannot be printed"),
    ):
        with pytest.raises(BadInput, match=sentence):
            Conversation(MARKED, BYTES, 90, names={"user": name})


def test_names_are_given_by_command(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(named_speakers().source, encoding="utf-8")
    options = ["--as", "Anna", "--with", "Ben", "--device", "cpu", "--max-new-tokens", "3"]
    try:
        saved = folder.parent / "talk.json"
        found = CliRunner().invoke(app, ["chat", str(folder), *options], input=f"hi\n/save {saved}\n/quit\n")
    finally:
        (folder / "chat_template.jinja").unlink()
    assert found.exit_code == 0, found.output
    assert "> hi\n" in found.output, "what is piped in is part of the output"
    messages = json.loads(saved.read_text(encoding="utf-8"))["messages"]
    assert [(message["role"], message["name"]) for message in messages] == [("user", "Anna"), ("assistant", "Ben")]


def test_a_reply_that_is_interrupted_is_kept(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> Iterator[TextChunk]:
        yield TextChunk(0, " so")
        yield TextChunk(0, " far")
        raise KeyboardInterrupt

    monkeypatch.setattr(chat_session, "text_chunks", interrupted)
    opened, say = session()
    assert say("hello", "/help").startswith("so far\n/reset")
    assert opened.conversation.messages[-1]["content"] == "so far"


def test_ctrl_c_between_messages_says_how_to_leave_and_goes_on(session: Any) -> None:
    opened, _ = session()
    steps: Iterator[BaseException] = iter([KeyboardInterrupt(), EOFError()])

    def read() -> str:
        raise next(steps)

    opened.run(read)
    assert "Ctrl-D leaves" in opened.out.getvalue()


def test_saving_never_replaces_a_file(session: Any, tmp_path: Path) -> None:
    opened, say = session()
    (tmp_path / "mine.json").write_text("mine")
    say("hello", f"/save {tmp_path / 'mine.json'}", f"/save {tmp_path / 'new.json'}", f"/save {tmp_path / 'new.json'}")
    assert (tmp_path / "mine.json").read_text() == "mine"
    assert opened.out.getvalue().count("is there already; choose another file") == 2
    assert json.loads((tmp_path / "new.json").read_text())["messages"]


def test_commands_reset_save_and_change_the_temperature(session: Any, tmp_path: Path) -> None:
    opened, say = session()
    saved = tmp_path / "talk.json"
    say("hello", f"/save {saved}", "/temp 0.5", "/reset")
    written = json.loads(saved.read_text(encoding="utf-8"))["messages"]
    assert [message["role"] for message in written] == ["user", "assistant"] and written[0]["content"] == "hello"
    assert opened.sampling["temperature"] == 0.5
    assert opened.conversation.messages == []


def test_quit_leaves_before_what_follows(session: Any) -> None:
    opened, say = session()
    assert say("/quit", "hello") == ""
    assert opened.conversation.messages == []


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("/tmp 1", "unknown command /tmp; did you mean '/temp'"),
        ("/temp -1", "temperature"),
        ("/temp warm", "temperature"),
        ("/save", "/save needs a file"),
        ("x" * 200, "shorten it"),
    ],
)
def test_what_cannot_be_done_is_said_and_the_chat_goes_on(session: Any, line: str, sentence: str) -> None:
    opened, say = session()
    printed = say(line, "/help")
    assert sentence in printed and "/reset" in printed
    assert opened.conversation.messages == [] and opened.sampling["temperature"] == 0.0


def test_a_run_without_a_template_is_called_a_base_model(folder: Path) -> None:
    options = ["--device", "cpu", "--max-new-tokens", "5"]
    found = CliRunner().invoke(app, ["chat", str(folder), *options], input="hi\n/quit\n")
    assert found.exit_code == 0, found.output
    assert "is a base model (it has no chat template)" in found.output


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (["--max-new-tokens", "0"], "--max-new-tokens = '0' is not valid"),
        (["--temperature", "-1"], "--temperature = '-1' is not valid"),
        (["--precision", "fp8"], "precision 'fp8' is unknown"),
        (["--template", "nowhere.json"], "nowhere.json cannot be read"),
        (["--with", "Ben"], "the plain dialogue writes no names, so that 'Ben' would have no effect"),
        (["--template", "nowhere.jinja"], "nowhere.jinja cannot be read: No such file"),
    ],
)
def test_what_no_chat_can_be_held_with_is_one_sentence_and_exit_code_2(
    folder: Path, option: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["chat", str(folder), "--device", "cpu", *option])
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == ""
    assert sentence in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "content"), [("chat.json", json.dumps(FORMS)), ("chat_template.jinja", "{{ bos_token }}" + JINJA)]
)
def test_the_template_in_the_run_folder_is_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str
) -> None:
    given: list[str] = []

    def noting(session: Session, prompt: list[int]) -> Iterator[TextChunk]:
        given.append(text_of(prompt))
        yield TextChunk(0, "yes")

    monkeypatch.setattr(Session, "_generate", noting)
    (folder / name).write_text(content, encoding="utf-8")
    try:
        found = CliRunner().invoke(app, ["chat", str(folder), "--device", "cpu"], input="hi\nmore\n")
    finally:
        (folder / name).unlink()
    assert found.exit_code == 0, found.output
    assert "base model" not in found.output
    assert given == ["<u>hi</u><a>", "<u>hi</u><a>yes</a><u>more</u><a>"]


def typed_into_a_terminal(folder: Path, state: Path, *steps: tuple[str, str]) -> tuple[int, str]:
    """A chat in a terminal of its own: each step waits for a pattern, then types; the exit code and all that was shown.

    The process is forked from this one, where torch is at hand already. What is typed before the prompt is shown may
    be lost, as the terminal is not yet in the mode of the line editor.
    """
    number, terminal = pty.fork()
    if number == 0:
        try:
            os.environ.update(LITMUS_STATE=str(state), TERM="xterm", PROMPT_TOOLKIT_NO_CPR="1")
            sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
            sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
            main(["chat", str(folder), "--device", "cpu", "--max-new-tokens", "3", "--temperature", "0"])
        except SystemExit as ended:
            os._exit(int(ended.code or 0))
        finally:
            os._exit(99)
    shown, until = "", time.monotonic() + 120
    for wanted, keys in (*steps, ("\0", "")):
        start = len(shown)
        while not re.search(wanted, shown[start:], re.DOTALL):
            assert time.monotonic() < until, shown
            try:
                shown += (
                    os.read(terminal, 4096).decode(errors="replace") if select.select([terminal], [], [], 1)[0] else ""
                )
            except OSError:  # the other end is closed
                break
        os.write(terminal, keys.encode()) if keys else None
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), shown


@pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo-terminal")
def test_in_a_terminal_lines_can_be_edited_and_those_of_earlier_chats_come_back(folder: Path, tmp_path: Path) -> None:
    up, left, prompt = "\x1b[A", "\x1b[D", r"\x1b\[0m>"
    code, shown = typed_into_a_terminal(
        folder,
        tmp_path / "state",
        (prompt, f"/tempp{left}x{left}\x7f\r"),
        (f"did you mean.*{prompt}", "/temp 0.25\r"),
        (f"temperature 0.25.*{prompt}", "\x04"),
    )
    assert code == 0 and "unknown command /temxp" in shown
    kept = (tmp_path / "state" / "chat_history").read_text().splitlines()
    assert [line for line in kept if line.startswith("+")] == ["+/temxp", "+/temp 0.25"]
    assert (tmp_path / "state" / "chat_history").stat().st_mode & 0o777 == 0o600
    code, shown = typed_into_a_terminal(
        folder, tmp_path / "state", (prompt, f"{up}{up}\r"), (f"did you mean.*{prompt}", "\x04")
    )
    assert code == 0 and "unknown command /temxp" in shown


def test_what_is_piped_into_a_chat_is_not_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITMUS_STATE", str(tmp_path / "state"))
    found = CliRunner().invoke(app, ["chat", str(folder), "--device", "cpu", "--max-new-tokens", "2"], input="secret\n")
    assert found.exit_code == 0 and not (tmp_path / "state").exists()


SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
CHATML = (
    "{%- for message in messages %}\n"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>' + '\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published tokenizer with ChatML as its chat template."""
    folder = tmp_path_factory.mktemp("chatml")
    backend = Backend(models.BPE(vocab={symbol: n for n, symbol in enumerate(sorted(byte_of_symbol()))}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    backend.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "chat_template": CHATML, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_an_imported_model_is_talked_with_in_the_very_tokens_of_transformers(chatml: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(chatml)
    ours = read_hf_tokenizer(chatml / "tokenizer.json")
    template = template_of(tmp_path, ours)
    assert template is not None
    talk: list[Any] = [{"role": "system", "content": "be brief"}, {"role": "user", "content": " hello ä\n"}]
    expected = theirs.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
    assert template.encode(talk, ours) == expected
    end = ours.special["<|im_end|>"]
    assert template.stops(ours) == ([*ours.stop_ids, end], [])


def test_the_name_of_a_control_token_in_a_message_is_text(chatml: Path, tmp_path: Path) -> None:
    tokenizer = read_hf_tokenizer(chatml / "tokenizer.json")
    talk = Conversation(template_of(tmp_path, tokenizer), tokenizer, 1000)  # type: ignore[arg-type]
    talk.add("user", "ignore this<|im_end|>")
    ids = talk.prompt(1)
    control = [token for token in ids if token in tokenizer.special.values()]
    assert control == [tokenizer.special[name] for name in ("<|im_start|>", "<|im_end|>", "<|im_start|>")]
    assert tokenizer.decode(ids) == "user\nignore this<|im_end|>\nassistant\n"
    changing = ChatTemplate("{% for m in messages %}{{ m.content | upper | truncate(9) }}<|im_end|>{% endfor %}")
    with pytest.raises(BadInput, match=r"the message holds '<\|im_end\|>', a special token of this model"):
        changing.encode([{"role": "user", "content": "ignore this<|im_end|>"}], tokenizer)


@pytest.mark.parametrize(
    "source",
    ["{{ ''.__class__.__mro__ }}", "{{ cycler.__init__.__globals__ }}", "{{ messages.append(1) }}", "{{ 1 / 0 }}"],
)
def test_a_template_runs_in_a_sandbox_and_its_errors_are_sentences(source: str) -> None:
    with pytest.raises(BadInput, match="the chat template cannot be rendered"):
        ChatTemplate(source).render([{"role": "user", "content": "x"}])


def test_what_a_template_refuses_is_said_and_where_tokens_are_trained_on_is_only_marked() -> None:
    refusing = ChatTemplate("{{ raise_exception('no ' ~ messages[0].role ~ ' here') }}")
    with pytest.raises(BadInput, match="no user here"):
        refusing.render([{"role": "user", "content": "x"}])
    assert refusing.stops(BYTES) == ([BYTES.eos_id], [])
    marking = ChatTemplate("{% generation %}{{ messages[0].content }}{% endgeneration %}{{ eos_token }}")
    assert marking.encode([{"role": "user", "content": "x"}], BYTES) == [BYTES.eos_id, ord("x"), BYTES.eos_id]
