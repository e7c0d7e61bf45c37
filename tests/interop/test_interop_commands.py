"""`litmus import` and `litmus export` as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from litmus.cli import main
from litmus.data import DataSettings
from litmus.data.tokens.tokenizer import ByteTokenizer
from litmus.interop import export_model
from litmus.model import build
from litmus.training import TrainSettings
from litmus.training.run.loading import load_run
from litmus.training.trainer import train_run
from tests.interop.published import BEGINS, byte_level, write_model, write_tokenizer

SMALL = {"dim": 32, "depth": 2, "heads": 4, "context": 64}
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """call("import", ...) -> (exit code, stdout, stderr), in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LITMUS_CACHE", str(tmp_path / "cache"))

    def typed(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()  # what came before
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        code = ended.value.code
        return (code if isinstance(code, int) else 0), *capsys.readouterr()

    return typed


@pytest.fixture
def published(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    write_tokenizer(folder, byte_level(before="<|begin|>"), BEGINS)
    write_model(folder, "llama", 300, dtype=torch.bfloat16, bos_token_id=1, eos_token_id=[2, 4], pad_token_id=0)
    return folder


def test_a_folder_goes_in_and_comes_out_by_command(published: Path, call: Call) -> None:
    code, out, err = call("import", str(published), "--name", "mine")
    assert (code, err) == (0, "") and "litmus generate runs/mine" in out
    code, out, err = call("export", "runs/mine")
    assert (code, out.strip(), err) == (0, "runs/mine-hf: LlamaForCausalLM", "")
    for file in published.glob("*.json"):
        assert json.loads(Path("runs/mine-hf", file.name).read_text()) == json.loads(file.read_text()), file.name
    code, out, _ = call("export", "runs/mine", "--out", "elsewhere/there")
    assert code == 0 and load_file("elsewhere/there/model.safetensors").keys()


def test_generation_by_command_is_greedy_as_the_models_config_asks(published: Path, call: Call) -> None:
    call("import", str(published), "--name", "mine")
    model = transformers.AutoModelForCausalLM.from_pretrained(published, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(published)
    for text, options in (("the cat", []), ("<|im_start|>user", ["--special"])):
        prompt = tokenizer(text, return_tensors="pt")
        written = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        code, out, err = call("generate", "runs/mine", "--prompt", text, "--max-new-tokens", "12", *options)
        assert (code, err) == (0, "") and out == tokenizer.decode(written, skip_special_tokens=True) + "\n"


def test_generation_by_command_draws_as_the_models_config_asks(published: Path, call: Call) -> None:
    path = published / "generation_config.json"
    said = {**json.loads(path.read_text()), "do_sample": True, "temperature": 0.5, "top_p": 0.9, "max_new_tokens": 9}
    path.write_text(json.dumps(said))
    call("import", str(published), "--name", "mine")
    as_asked = call("generate", "runs/mine", "--prompt", "the")[1]
    spelled = ["--temperature", "0.5", "--top-k", "50", "--top-p", "0.9", "--max-new-tokens", "9"]
    assert as_asked == call("generate", "runs/mine", "--prompt", "the", *spelled)[1]
    hot = call("generate", "runs/mine", "--prompt", "the", "--temperature", "30", "--max-new-tokens", "9")[1]
    assert hot != as_asked


def test_special_tokens_in_a_prompt_are_text_unless_asked_for(published: Path, call: Call) -> None:
    call("import", str(published), "--name", "mine")
    options = ["--prompt", "<|im_start|>", "--max-new-tokens", "8", "--temperature", "0"]
    assert call("generate", "runs/mine", *options)[1] != call("generate", "runs/mine", *options, "--special")[1]


def test_an_import_goes_to_the_folder_of_runs(published: Path, call: Call) -> None:
    code, out, err = call("import", str(published), "--runs", "elsewhere")
    assert (code, err) == (0, "") and "litmus generate elsewhere/theirs" in out
    assert load_run(Path("elsewhere/theirs")).config.imported and not Path("runs").exists()


def test_an_import_replaces_nothing(published: Path, call: Call) -> None:
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/diary.txt").write_text("kept")
    code, out, err = call("import", str(published), "--name", "mine")
    assert (code, out, err.count("\n")) == (2, "", 1) and "runs/mine is there already" in err
    assert Path("runs/mine/diary.txt").read_text() == "kept"
    for name in ("../up", "/abs", "", "."):
        code, _, err = call("import", str(published), "--name", name)
        assert code == 2 and err.count("\n") == 1, name
    assert not Path("up").exists() and sorted(path.name for path in Path("runs").iterdir()) == ["mine"]


def test_an_export_replaces_nothing_of_others(published: Path, call: Call) -> None:
    call("import", str(published), "--name", "mine")
    Path("diary").mkdir()
    Path("diary/today.txt").write_text("kept")
    Path("letter").write_text("kept")
    for target in ("diary", "letter"):
        code, out, err = call("export", "runs/mine", "--out", target)
        assert (code, out, err.count("\n")) == (2, "", 1), target
    assert Path("diary/today.txt").read_text() == Path("letter").read_text() == "kept"
    code, _, err = call("export", "runs/absent")
    assert code == 2 and "runs/absent" in err


def test_a_recipe_without_equivalent_is_exported_with_code_of_its_own(tmp_path: Path, call: Call) -> None:
    made = build("ssmax", vocab_size=257, overrides=SMALL)
    export_model(made, ByteTokenizer(), tmp_path / "remote", remote_code=True)
    assert call("import", "remote", "--name", "mine")[0] == 0
    code, _, err = call("export", "runs/mine")
    assert code == 2 and "has no equivalent in LlamaForCausalLM" in err and "--remote-code" in err
    code, out, _ = call("export", "runs/mine", "--remote-code")
    assert (code, out.strip()) == (0, "runs/mine-hf: LitmusForCausalLM")
    assert Path("runs/mine-hf/modeling_litmus.py").is_file()


def test_modules_ahead_are_left_out_on_request(tmp_path: Path, call: Call) -> None:
    export_model(build("deepseek", vocab_size=257, overrides={**SMALL, "depth": 3}), ByteTokenizer(), tmp_path / "v3")
    call("import", "v3", "--name", "mine")
    assert (
        call("export", "runs/mine", "--out", "whole")[0]
        == call("export", "runs/mine", "--out", "bare", "--drop-mtp")[0]
        == 0
    )
    whole, bare = load_file("whole/model.safetensors"), load_file("bare/model.safetensors")
    assert whole.keys() - bare.keys() == {name for name in whole if name.startswith("model.layers.3.")} != set()
    assert json.loads(Path("bare/config.json").read_text())["num_nextn_predict_layers"] == 0


def test_the_best_checkpoint_is_exported_on_request(tmp_path: Path, call: Call) -> None:
    # The held-out end is another text, so each step on the beginning makes its score worse.
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 450 + "0123456789" * 120)
    settings = TrainSettings(
        budget="6 steps", batch=2, context=16, lr=0.1, warmup=0.0, schedule="constant", device="cpu", precision="fp32",
        threads=1, validate_every=2, validate_tokens=64, evaluate_tokens=64, clip=None,
    )  # fmt: skip
    data = DataSettings(corpus=str(tmp_path / "text.txt"), tokenizer="bytes")
    train_run({"base": "standard", **SMALL}, data, settings, tmp_path / "runs" / "mine")
    newest, best = (load_run(tmp_path / "runs" / "mine", best=best).model for best in (False, True))
    for name, options, model in (("newest", [], newest), ("best", ["--best"], best)):
        assert call("export", "runs/mine", "--out", name, *options)[0] == 0
        written = load_file(f"{name}/model.safetensors")["model.norm.weight"]
        assert torch.equal(written, model.norm.weight)
    assert not torch.equal(newest.norm.weight, best.norm.weight)
