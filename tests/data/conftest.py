import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Every test starts with an empty cache, and none touches the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LITMUS_CACHE", str(folder))
    return folder


@pytest.fixture
def stories(tmp_path):
    """A folder of forty short documents of different lengths."""
    folder = tmp_path / "stories"
    folder.mkdir()
    for i in range(40):
        text = f"Story {i}: the café cat sat on mat {i * i}.\n" * (1 + i % 5)
        (folder / f"{i:02}.txt").write_text(text, encoding="utf-8")
    return folder
