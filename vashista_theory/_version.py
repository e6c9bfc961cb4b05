"""The version, in one place, which the build reads from here; and how this copy was installed."""

import importlib.metadata
import json
from urllib.parse import unquote, urlsplit

__version__ = "0.2.0"


def install(extra: str) -> str:
    """The command that adds an extra to this installation, as it was made (PEP 610)."""
    try:
        said = importlib.metadata.distribution("vashista-theory").read_text("direct_url.json")
        origin = json.loads(said) if said else {}
    except (importlib.metadata.PackageNotFoundError, ValueError):
        origin = {}
    url = origin.get("url", "")
    if url.startswith("file://"):
        editable = "-e " if origin.get("dir_info", {}).get("editable") else ""
        path = unquote(urlsplit(url).path)
        where = f'{editable}"{path}[{extra}]"' if "dir_info" in origin else _from(path, extra)
    elif "vcs_info" in origin:
        where = _from(f"{origin['vcs_info'].get('vcs', 'git')}+{url}", extra)
    else:
        where = f'"vashista-theory[{extra}]"'
    return f"pip install {where} (the extra vashista-theory[{extra}])"


def _from(place: str, extra: str) -> str:
    return f'"vashista-theory[{extra}] @ {place}"'
