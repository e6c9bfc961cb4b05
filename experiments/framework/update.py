"""Bring the results up to date: compute again what changed, leave what did not."""

from collections.abc import Callable
from typing import Any

from experiments.framework import registry, staleness


def update(compute: Callable[[str, Any], int], *, dry_run: bool) -> list[str]:
    """Compute what is stale or missing, those that read other results after them.

    Args:
        compute: Computes an experiment with a configuration; returns the exit code.
        dry_run: Only say what would be done.

    Returns:
        Names of experiments that failed.
    """
    failed: list[str] = []
    done: list[object] = []
    found = False
    again = True
    while again:
        again = False
        for name in registry.names():
            try:
                why, config, key = staleness.status(name)
            except ImportError as error:
                why, config, key = f"needs {error.name or error}", None, None
            if not why or (name, key) in done:
                continue
            left = registry.left_to_people(name) or ("" if key else "cannot be read")
            if not left or (name, None) not in done:
                what = f"left to you ({left})" if left else "would be" * dry_run + " computed"
                print(f"{name}: {what.strip()}: {why}", flush=True)
            done += [(name, key), (name, None)]
            if left:
                continue
            found = True
            if not dry_run:
                again = True
                if compute(name, config):
                    failed.append(name)
    if not found:
        print("Every other result is current: nothing to compute.")
    return failed
