"""Strangers' files are read within bounds, and refused by name."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vashista_theory._reading import json_object, read_text


@given(content=st.binary(max_size=40), largest=st.integers(0, 40))
def test_text_is_read_whole_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, largest: int
) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(content)
    try:
        wanted = content.decode("utf-8") if len(content) <= largest else None
    except UnicodeDecodeError:
        wanted = None
    if wanted is not None:
        assert read_text(path, largest=largest) == wanted
    else:
        with pytest.raises(ValueError, match=r"than the|not UTF-8") as error:
            read_text(path, largest=largest)
        assert str(path) in str(error.value)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "zero", "loop", "absent", "."):
        with pytest.raises(OSError, match=name if name != "." else str(tmp_path)):
            read_text(tmp_path / name)


def test_a_file_without_end_is_refused_early(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    path.touch()
    os.truncate(path, 1 << 40)  # a terabyte of nothing: read whole, it would not fit in memory
    with pytest.raises(ValueError, match="huge has more than the 16,777,216 bytes"):
        read_text(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.json is not JSON (it is empty)"),
        (" \n", "a.json is not JSON (it is empty)"),
        ("{", "a.json is not JSON"),
        ('{"a": 1} x', "a.json is not JSON"),
        ("[" * 10**6, "a.json is not JSON"),
        ('{"a":' * 10**6, "a.json is not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "a.json is not JSON"),
        ("null", "a.json is not a JSON object but NoneType"),
        ("[]", "a.json is not a JSON object but list"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_object_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^a\.json") as error:
        json_object(text, "a.json")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
