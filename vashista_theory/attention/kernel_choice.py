"""Which back end's kernels a decode step uses."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Int

from vashista_theory._checks import is_traced
from vashista_theory.attention.kernels import api, spec
from vashista_theory.attention.read import Pools

IMPLEMENTATIONS = ("jax", *api.IMPLEMENTATIONS)
"""What `vashista_attention` can be told to use: plain JAX, or the kernels of one back end."""


class Kernels(NamedTuple):
    """Whose kernels a step uses.

    Attributes:
        names: Back ends, the first that can is taken; none for plain JAX.
        platform: Where they run, by XLA's name; elsewhere the step is plain JAX. None if the back
            end was named: then it has to do every stage there is a kernel for.
    """

    names: tuple[str, ...] = ()
    platform: str | None = None

    def able(self, stage: spec.Stage, shape: spec.Shape) -> spec.StageOfBackend | None:
        """The first that can do such a call, None if none can."""
        return api.stage_that_can(stage, shape, self.names)

    def stage(self, stage: spec.Stage, shape: spec.Shape) -> spec.StageOfBackend | None:
        """Who does such a call, None for plain JAX.

        Raises:
            NotImplementedError: if a back end was named and cannot.
        """
        if self.names and self.platform is None:
            return api.stage_of(stage, shape, self.names[0])
        found = self.able(stage, shape)
        if found is None and self.platform is not None:
            api.tell_why_not(stage, shape, self.platform, self.names)
        return found


PLAIN = Kernels()


def kernels_for(implementation: str | None, work: DTypeLike, query: Array, keys: Array) -> Kernels:
    """The kernels that an implementation stands for.

    Args:
        implementation: One of `IMPLEMENTATIONS`, or None.
        work: Type that scores are computed in.
        query: What is asked.
        keys: What is read; where that is, is known unless something is traced.

    Raises:
        NotImplementedError: if the implementation was named and cannot run.
    """
    single = jnp.dtype(work) == jnp.float32
    if implementation is None:
        here = api.platform_here()
        names = api.device_backends(here) if single else ()
        return Kernels(names, here) if names else PLAIN
    if implementation == "jax":
        return PLAIN
    found = api.backend(implementation)
    remedy = "Use implementation=None, or 'jax' for plain JAX."
    if not single:
        raise NotImplementedError(
            f"{implementation!r} computes in float32, and this query and cache take {work}. "
            f"{remedy}"
        )
    platform = None if is_traced(query, keys) else _platform_of(keys)
    if platform is not None and platform not in found.platforms:
        raise NotImplementedError(
            f"{implementation!r} runs on {' or '.join(found.platforms)}, and this cache is on "
            f"{platform}. {remedy}"
        )
    return Kernels((implementation,))


def _platform_of(array: Array) -> str:
    platform: str = next(iter(array.devices())).platform
    return "cuda" if platform == "gpu" else platform


def physical_pages(pools: Pools, pages: Int[Array, "R K"]) -> Int[Array, "R K"]:
    """Where logical pages of each row lie; somewhere in the pool if the table is invalid.

    A kernel reads wherever it is told to. That the table is invalid is told in the result.
    """
    place = jnp.clip(pages, 0, pools.table.shape[1] - 1)
    physical = jnp.take_along_axis(pools.table, place, axis=1)
    return jnp.clip(physical, 0, pools.keys.shape[1] - 1)
