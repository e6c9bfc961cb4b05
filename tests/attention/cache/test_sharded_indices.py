"""A sequence that is none, met under jit, leaves a cache on several devices as it is."""

import jax
import numpy as np
import pytest

from vashista_theory.attention import PagedKV, ShardedKV


def caches() -> tuple[PagedKV, ShardedKV]:
    rng = np.random.default_rng(0)
    keys, values = (rng.normal(size=(2, 1, 40, 8)).astype(np.float32) for _ in range(2))
    mesh = jax.make_mesh((1,), ("pages",))
    return PagedKV.from_tokens(keys, values), ShardedKV.from_tokens(keys, values, mesh=mesh)


@pytest.mark.parametrize(("source", "target"), [(0, -1), (0, 2), (-1, 1), (2, 1), (0, 0), (0, 1)])
def test_forks_are_those_of_one_device(source: int, target: int) -> None:
    one, spread = caches()
    fork = jax.jit(lambda cache, source, target: cache.fork(source, target, length=5))
    wanted = np.asarray(fork(one, source, target).lengths)
    found = fork(spread, source, target)
    np.testing.assert_array_equal(found.lengths, wanted)
    np.testing.assert_array_equal(np.asarray(found.parts.lengths)[0], wanted)


@pytest.mark.parametrize("sequence", [-1, 2, 1])
def test_what_is_freed_is_that_of_one_device(sequence: int) -> None:
    one, spread = caches()
    free = jax.jit(lambda cache, sequence: cache.free(sequence))
    wanted = np.asarray(free(one, sequence).lengths)
    found = free(spread, sequence)
    np.testing.assert_array_equal(found.lengths, wanted)
    np.testing.assert_array_equal(np.asarray(found.parts.lengths)[0], wanted)
