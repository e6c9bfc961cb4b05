"""Peak memory of one call, measured in a process of its own.

Run as `python -m experiments.shared.memory project|relax N D COUNT`; prints JSON. The baseline is
the process after imports and compilation, before there are keys; so the keys themselves count. What
the call returns, keys apart, is taken off the peak. `relax` is a projection and a whole path.

Transparent huge pages are off in that process: where the system gives 2 MiB for each page that is
touched, the room that the C library keeps for small arrays counts, which nothing asked for.
"""

import ctypes
import gc
import json
import resource
import sys
from pathlib import Path
from typing import Any

from experiments.shared import process

_CLEAR = Path("/proc/self/clear_refs")
_PR_SET_THP_DISABLE = 41
"""From linux/prctl.h."""


def measure(what: str, *, n: int, d: int, temperatures: int) -> dict[str, Any]:
    """Peak memory of `project` or `relax` at a shape, in a fresh process.

    Returns:
        In bytes: keys, returned, peak (above the baseline, returned arrays taken off); and
        `multiple`, peak over keys.
    """
    return process.run("experiments.shared.memory", what, n, d, temperatures)


def _peak() -> int:
    if not process.STATUS.exists():  # macOS counts bytes, and cannot start the count anew
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return process.memory("VmHWM")


def _start_counting() -> int:
    """Give freed memory back, start the peak anew where the system can, return the baseline."""
    if not process.STATUS.exists():
        return _peak()
    ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return _peak()  # the peak of imports and compilation: overstates nothing but the baseline
    return process.memory("VmRSS")


def _child(what: str, n: int, d: int, temperatures: int) -> dict[str, Any]:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
    import jax
    import jax.numpy as jnp

    import vashista_theory as vt

    jax.config.update("jax_enable_x64", True)
    epsilon = jnp.geomspace(1e3, 1e-8, temperatures) * 4 * d
    query = 1.5 * jax.random.normal(jax.random.key(1), (d,), jnp.float64)

    def draw(seed: int) -> Any:
        return jax.block_until_ready(jax.random.normal(jax.random.key(seed), (n, d), jnp.float64))

    def call(keys: Any) -> tuple[Any, ...]:
        projection = vt.project(keys, query)
        found = (projection, vt.relax(projection, epsilon)) if what == "relax" else (projection,)
        return jax.block_until_ready(found)

    call(draw(2))  # compiles; its arrays are gone before the baseline
    gc.collect()
    baseline = _start_counting()
    keys = draw(0)
    _start_counting()  # what drawing random numbers takes beside its result is not ours
    result = call(keys)
    peak = _peak()
    leaves = {id(leaf): leaf for leaf in jax.tree.leaves(result)}
    returned = sum(leaf.nbytes for leaf in leaves.values() if leaf is not keys)
    above = peak - baseline - returned
    return {
        "keys": keys.nbytes,
        "returned": returned,
        "peak": above,
        "multiple": above / keys.nbytes,
    }


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    print(json.dumps(_child(name, *map(int, numbers))))
