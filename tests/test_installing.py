"""What one is told to install fits how this copy was installed."""

import importlib.metadata
import json

import pytest

from vashista_theory import _version


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, 'pip install "vashista-theory[lm]"'),
        (
            {"url": "file:///a%20b", "dir_info": {"editable": True}},
            'pip install -e "/a b[lm]"',
        ),
        ({"url": "file:///src", "dir_info": {}}, 'pip install "/src[lm]"'),
        (
            {"url": "file:///w.whl", "archive_info": {}},
            'pip install "vashista-theory[lm] @ /w.whl"',
        ),
        (
            {"url": "https://x/y", "vcs_info": {"vcs": "git"}},
            'pip install "vashista-theory[lm] @ git+https://x/y"',
        ),
    ],
)
def test_the_command_fits_the_installation(
    origin: dict[str, object] | None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return None if origin is None else json.dumps(origin)

    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: Installed())
    assert _version.install("lm") == f"{command} (the extra vashista-theory[lm])"


def test_a_copy_that_was_not_installed_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    assert 'pip install "vashista-theory[lm]"' in _version.install("lm")
