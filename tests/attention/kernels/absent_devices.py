"""Lowering for accelerators that are not here: JAX asks an abstract device what it would be."""

import contextlib
import inspect
from collections.abc import Iterator

import jax
from jax.sharding import AbstractMesh, use_abstract_mesh

try:
    from jax.sharding import AbstractDevice
except ImportError:  # before JAX 0.11
    from jax._src.mesh import AbstractDevice

# Name by JAX, cores, platform.
DEVICES = {
    "h100": ("NVIDIA H100 80GB HBM3", 132, "gpu"),
    "v4": ("TPU v4", 2, "tpu"),
    "v5e": ("TPU v5 lite", 1, "tpu"),
    "v5p": ("TPU v5", 2, "tpu"),
    "v6e": ("TPU v6 lite", 1, "tpu"),
}


@contextlib.contextmanager
def absent_device(name: str) -> Iterator[None]:
    kind, cores, platform = DEVICES[name]
    given = {"device_kind": kind, "num_cores": cores, "platform": platform}
    known = inspect.signature(AbstractDevice).parameters
    device = AbstractDevice(**{key: value for key, value in given.items() if key in known})
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        yield


def lowered(function, arguments, platform: str, device: str) -> str:
    """The module that would be compiled for that device."""
    abstract = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arguments]
    with absent_device(device):
        return jax.jit(function).trace(*abstract).lower(lowering_platforms=(platform,)).as_text()
