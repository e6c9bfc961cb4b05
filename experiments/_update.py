"""Bring the results up to date: compute again what changed, leave what did not.

A result is current while the fingerprint of its own configuration, its sources and its inputs is
the one it was written with. What is stale is computed with the configuration it had.
"""

from collections.abc import Callable
from typing import Any

from experiments import _registry, _results

# Not computed by `update`: hours, a device, compilers, or a machine with nothing else to do.
BY_HAND = {
    "bench_cluster": "a comparison of workers wants an idle machine",
    "bench_out_of_core": "times want an idle machine, and the file takes 5 GB of disk",
    "bench_projection": "times want an idle machine and seven solvers",
    "bench_relaxation": "times want an idle machine",
    "certified_text": "reads three texts with a language model, an hour where nothing is stored",
    "compile_check": "needs the compilers for H100 and TPU",
    "decode_cpu": "times want an idle machine",
    "decode_gpu": "needs a GPU",
    "generation": "needs a language model, and times want an idle machine",
    "head_survey": "reads three texts with a language model, an hour where nothing is stored",
    "model_quality": "takes hours with a language model",
    "solved_tasks": "takes half an hour with a language model",
    "supported_models": "needs an environment with the oldest release of transformers",
}

CURRENT, STALE, MISSING = "current", "stale", "missing"


def status(name: str) -> tuple[str, str]:
    """Whether the committed result of an experiment is current, and the key it should have."""
    module = _registry.load(name)
    stored = _results.read(_results.path_of(name))
    inputs = module.inputs() if hasattr(module, "inputs") else None
    if stored is None:
        return MISSING, _results.fingerprint(name, module.Config(), inputs)
    key = _results.fingerprint(name, stored["manifest"]["configuration"], inputs)
    return CURRENT if key == stored["fingerprint"] else STALE, key


def config_of(name: str) -> Any:
    """The configuration to compute with: that of the stored result where it still fits."""
    kind = _registry.load(name).Config
    stored = _results.read(_results.path_of(name))
    if stored is None:
        return kind()
    given = stored["manifest"]["configuration"]
    default = kind()
    fields = {
        field: tuple(value) if isinstance(value, list) else value
        for field, value in given.items()
        if isinstance(getattr(default, field, None), int | float | str | bool | tuple)
    }
    return kind(**fields)


def update(compute: Callable[[str, Any], int], *, dry_run: bool) -> list[str]:
    """Compute what is stale or missing, those that read other results after them.

    Args:
        compute: Computes an experiment with a configuration; returns the exit code.
        dry_run: Only say what would be done.

    Returns:
        Names of experiments that failed.
    """
    failed: list[str] = []
    done: set[tuple[str, str]] = set()
    said: set[str] = set()
    computed = True
    while computed:
        computed = False
        for name in _registry.names():
            kind, key = _status_or_reason(name)
            if kind == CURRENT or (name, key) in done:
                continue
            done.add((name, key))
            if name in BY_HAND or not key:
                if name not in said:
                    print(f"{name}: {kind}, left to you ({BY_HAND.get(name, 'cannot be read')})")
                    said.add(name)
                continue
            print(f"{name}: {kind}{', would be computed' if dry_run else ''}", flush=True)
            if not dry_run:
                computed = True
                if compute(name, config_of(name)):
                    failed.append(name)
    if not done - {(name, key) for name, key in done if name in said}:
        print("Every other result is current: nothing to compute.")
    return failed


def _status_or_reason(name: str) -> tuple[str, str]:
    try:
        return status(name)
    except ImportError as error:
        return f"needs {error.name or error}", ""
