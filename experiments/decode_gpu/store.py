"""Blocks of a measurement that is not finished: kept from one call of the command to the next."""

import json
from pathlib import Path
from typing import Any

from vashista_theory import runs


class Unfinished:
    """A file that holds every finished block, rewritten whole after each."""

    def __init__(self, path: Path, *, key: str, device: str) -> None:
        self.path, self._key, self._device = path, key, device
        self.blocks: dict[str, Any] = {}
        self.seconds = 0.0  # that the earlier calls took

    def load(self, *, afresh: bool) -> None:
        """Read what an earlier call left, unless it was asked for anew.

        Raises:
            ValueError: It was measured on another device or by other code: not to be mixed. Or
                it is damaged.
        """
        if afresh or not self.path.is_file():
            return
        try:
            held = json.loads(self.path.read_text(encoding="utf-8"))
            key, device, blocks = held["key"], held["device"], dict(held["blocks"])
            seconds = float(held["seconds"])
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{self.path} is damaged ({type(error).__name__}: {error}). Pass --force to begin "
                "anew."
            ) from error
        if (key, device) != (self._key, self._device):
            raise ValueError(
                f"{self.path.name} holds blocks measured on {device} by other code or "
                "another configuration. Measurements must not be mixed: pass --force to begin "
                "anew, or --results for another folder."
            )
        self.blocks, self.seconds = blocks, seconds

    def add(self, name: str, block: dict[str, Any], *, seconds: float) -> None:
        """Keep a finished block, and how long this call has taken so far."""
        self.blocks[name] = block
        content = {"key": self._key, "device": self._device, "blocks": self.blocks}
        content["seconds"] = self.seconds + seconds
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(runs.canonical(content), indent=1, allow_nan=False)
        runs.write_atomically(self.path, text + "\n")

    def remove(self) -> None:
        """The measurement is whole, and stored elsewhere."""
        self.path.unlink(missing_ok=True)
