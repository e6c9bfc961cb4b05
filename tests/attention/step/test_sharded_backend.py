"""A context on several devices equals the same on one: `sharded_cases.py`, run where there are."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from vashista_theory.attention import PagedKV, Policy, ShardedKV, vashista_attention
from vashista_theory.attention.step.sharded_backend import _over_marked

ROOT = Path(__file__).parents[3]
CASES = "tests/attention/step/sharded_cases.py"
CASE = f"{CASES}::test_growing_forking_and_freeing_equal_one_device"
# Words of the cases that run every time: a policy, pools written in place.
FEW = "else_dense or pools_are_written"
LIMIT = 240  # seconds: a process that waits for another for ever is ended


def start(devices: int, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    settings = {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # nearly all of the time is compilation
        "PYTEST_ADDOPTS": "",  # no workers below: each process here is a host of its own
    }
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env={**os.environ, **settings, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(processes: list[subprocess.Popen[str]]) -> None:
    """Wait until all end well; if one fails or time is up, end the others, which wait for it."""
    deadline = time.monotonic() + LIMIT
    try:
        while any(p.poll() is None for p in processes) and time.monotonic() < deadline:
            if any(p.poll() for p in processes):
                break
            time.sleep(0.2)
        in_time = [p.poll() for p in processes]
    finally:
        for process in processes:
            process.kill()
    said = [process.communicate()[0] for process in processes]
    assert in_time == [0] * len(processes), "\n".join(said)


@pytest.mark.parametrize("chosen", [FEW, pytest.param("test", marks=pytest.mark.slow)])
def test_on_eight_devices(chosen):
    finish([start(8, CASES, "-k", chosen)])


@pytest.mark.slow
def test_on_two_processes():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    finish(
        [
            start(2, CASE, SHARDED_COORDINATOR=address, SHARDED_PROCESS=str(process))
            for process in range(2)
        ]
    )


def test_work_follows_what_is_marked():
    marked = np.array([[0, 1, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1]], bool)

    def step(state, index, found):
        steps, seen = state
        place = jnp.where(found, index, marked.shape[1])
        row = jnp.arange(2)[:, None]
        return steps + 1, seen.at[row, place].add(1, mode="drop")

    nothing = jnp.zeros(marked.shape, int)
    steps, seen = _over_marked(jnp.asarray(marked), 2, step, (jnp.int32(0), nothing))
    np.testing.assert_array_equal(seen, marked)
    assert int(steps) == 2  # three marked in a row, two at a time
    steps, _ = _over_marked(jnp.zeros((2, 7), bool), 2, step, (jnp.int32(0), nothing))
    assert int(steps) == 0


def one_device_mesh() -> Mesh:
    return Mesh(np.array(jax.devices()[:1]), ("pages",))


SIZES = {"batch": 2, "kv_heads": 2, "head_size": 8, "pages": 8, "dtype": "float64"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axis": "page"}, "`axis` is 'page'; this mesh has"),
        ({"pages": 0}, "`pages` is 0; a positive integer"),
        ({"page_size": 0}, "`page_size` is 0; a positive integer"),
        ({"dtype": "int32"}, "keys and values are int32"),
    ],
)
def test_create_names_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        ShardedKV.create(**{"mesh": one_device_mesh(), **SIZES, **change})


def test_bad_input_is_named():
    mesh = one_device_mesh()
    tokens = np.ones((2, 2, 40, 8))
    with pytest.raises(ValueError, match="expected \\(B, Hkv, T, D\\)"):
        ShardedKV.from_tokens(tokens[0], tokens[0], mesh=mesh)
    with pytest.raises(ValueError, match="one shape and one type"):
        ShardedKV.from_tokens(tokens, tokens[:, :, 1:], mesh=mesh)
    with pytest.raises(ValueError, match="no free page left"):
        ShardedKV.from_tokens(tokens, tokens, mesh=mesh, pages=4)
    bad = tokens.copy()
    bad[1, 1, 30, 3] = np.nan
    with pytest.raises(ValueError, match="keys"):
        ShardedKV.from_tokens(bad, tokens, mesh=mesh)
    cache = ShardedKV.create(mesh=mesh, **SIZES)
    with pytest.raises(ValueError, match="takes a token \\(2, 2, 8\\)"):
        cache.append(tokens[:1], tokens[:1])
    with pytest.raises(ValueError, match="the cache holds float64"):
        cache.append(tokens.astype("float32"), tokens.astype("float32"))
    with pytest.raises(ValueError, match="sequences are 0 to 1"):
        cache.free(2)
    with pytest.raises(ValueError, match="fork into another one"):
        cache.fork(1, 1)
    with pytest.raises(ValueError, match="`length` is 1; sequence 0 has 0"):
        cache.fork(0, 1, length=1)
    with pytest.raises(ValueError, match="this cache expects \\(2, H, 8\\)"):
        vashista_attention(np.ones((1, 2, 8)), cache, Policy.dense())


def test_pages_that_devices_cannot_share_equally():
    from vashista_theory.attention.cache.checks import as_axis, check_dealt

    with pytest.raises(ValueError, match="8 devices cannot share equally: use 16"):
        check_dealt(9, 8)
    two = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("model", "pages"))
    with pytest.raises(ValueError, match="`axis` is None; this mesh has \\('model', 'pages'\\)"):
        as_axis(two, None)


def test_properties_are_those_of_a_cache_on_one_device():
    one = PagedKV.create(**SIZES)
    many = ShardedKV.create(mesh=one_device_mesh(), **SIZES)
    for name in (
        "batch", "dtype", "page_size", "kv_heads", "head_size", "pages_per_sequence", "spec",
        "work_dtype",
    ):  # fmt: skip
        assert getattr(many, name) == getattr(one, name)
