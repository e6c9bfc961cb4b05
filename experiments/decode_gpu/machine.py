"""The machine as found: which device, its versions and clocks, and how fast its memory copies."""

import functools
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.shared.process import version

_SMI = (
    *("name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"),
    *("power.limit", "temperature.gpu", "mig.mode.current", "memory.total"),
)
_OPTIONAL = ("torch", "flashinfer-python", "jax-cuda13-plugin", "nvidia-cudnn-cu13")


def leave_room_for_torch() -> None:
    """Let JAX take memory as it needs it; only has an effect before its first use of the device.

    What the user has set stands.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")


def gpu() -> Any | None:
    """The default device if it is a GPU."""
    try:
        device = jax.devices()[0]
    except RuntimeError:  # a platform was asked for that is not there
        return None
    return device if device.platform in ("gpu", "cuda") else None


def memory_bytes(device: Any) -> int | None:
    """What JAX may allocate on it; None where it does not tell."""
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit")


def describe(device: Any) -> dict[str, str | int | None]:
    """Device, driver, clocks and versions beside those of the manifest."""
    found: dict[str, str | int | None] = {
        "device": device.device_kind,
        "memory_bytes": memory_bytes(device),
        "platform": device.client.platform_version.splitlines()[0],
    }
    found |= _nvidia_smi()
    return found | {name: version(name) or "not installed" for name in _OPTIONAL}


def _nvidia_smi() -> dict[str, str | int | None]:
    command = shutil.which("nvidia-smi")
    if command is None:
        return {"nvidia-smi": "not found"}
    try:
        done = subprocess.run(
            [command, f"--query-gpu={','.join(_SMI)}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return {"nvidia-smi": f"failed: {error}"}
    # One line a GPU; with several, JAX's first is the first that CUDA shows.
    cells = [cell.strip() for cell in done.stdout.splitlines()[0].split(",")]
    return {f"nvidia-smi {name}": cell for name, cell in zip(_SMI, cells, strict=False)}


def bandwidths(size: int, *, rounds: int, repeats: int = 7) -> dict[str, float]:
    """Measured bytes a second of the memory: of a copy (read and written), and of reading alone.

    Args:
        size: Bytes of the buffer; many times the caches' size, or they are what is measured.
        rounds: Passes in one launch.
        repeats: Launches; the median counts.
    """
    buffer = jnp.arange(size // 4, dtype=jnp.uint32)
    copy = _median_seconds(lambda: _copied(buffer, rounds), repeats)
    read = _median_seconds(lambda: _read(buffer, rounds), repeats)
    return {"copy": 2.0 * buffer.nbytes * rounds / copy, "read": buffer.nbytes * rounds / read}


def _median_seconds(call: Callable[[], jax.Array], repeats: int) -> float:
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


@functools.partial(jax.jit, static_argnums=1)
def _copied(buffer: jax.Array, rounds: int) -> jax.Array:
    # Each pass depends on its number: nothing can be merged with the one before.
    return jax.lax.fori_loop(0, rounds, lambda i, x: x ^ i.astype(jnp.uint32), buffer)


@functools.partial(jax.jit, static_argnums=1)
def _read(buffer: jax.Array, rounds: int) -> jax.Array:
    def add(i: jax.Array, total: jax.Array) -> jax.Array:
        return total + jnp.sum(buffer ^ (i.astype(jnp.uint32) + total), dtype=jnp.uint32)

    return jax.lax.fori_loop(0, rounds, add, jnp.zeros((), jnp.uint32))
