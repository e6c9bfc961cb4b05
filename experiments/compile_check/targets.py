"""Devices that kernels are compiled for without having one."""

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass

from jax.sharding import AbstractMesh, use_abstract_mesh

from experiments.shared.process import version

try:
    from jax.sharding import AbstractDevice
except ImportError:  # before JAX 0.11
    from jax._src.mesh import AbstractDevice


@dataclass(frozen=True)
class Target:
    """A device to compile for.

    Attributes:
        platform: By XLA's names ("cuda", "tpu").
        kind: The device's own name, by which kernels know their generation.
        cores: Multiprocessors of a GPU, cores of a TPU.
        topology: By XLA's names; one of its devices is compiled for.
        memory: What its compiler lets a program take, GiB.
        wheels: What has to be installed beside JAX, and the version of it that fits.
    """

    platform: str
    kind: str
    cores: int
    topology: str
    memory: float
    wheels: tuple[str, ...]

    def missing(self) -> list[str]:
        """The wheels that are not installed."""
        return [name for name in self.wheels if version(name) is None]

    @contextlib.contextmanager
    def at_hand(self) -> Iterator[None]:
        """Lower as if this device were at hand."""
        known = inspect.signature(AbstractDevice).parameters
        # JAX 0.10 has no platform here.
        platform = {"cuda": "gpu"}.get(self.platform, self.platform)
        given = {"device_kind": self.kind, "num_cores": self.cores, "platform": platform}
        device = AbstractDevice(**{name: given[name] for name in given if name in known})
        with use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
            yield


_CUDA = ("jax-cuda13-plugin", "jax-cuda13-pjrt", "nvidia-cuda-nvcc", "nvidia-nvvm")
_TPU = ("libtpu",)
TARGETS = {
    "h100": Target("cuda", "NVIDIA H100 80GB HBM3", 132, "1x1x1", 79.1, _CUDA),
    "v4": Target("tpu", "TPU v4", 2, "v4:2x2x1", 15.25, _TPU),
    "v5e": Target("tpu", "TPU v5 lite", 1, "v5e:2x2", 15.75, _TPU),
    "v5p": Target("tpu", "TPU v5", 2, "v5p:2x2x1", 95.0, _TPU),
    "v6e": Target("tpu", "TPU v6 lite", 1, "v6e:2x2", 31.25, _TPU),
}

# What XLA wants to know of a GPU that is not there: its GpuTargetConfigProto as text, in the form
# in which JAX writes it down on such a machine. Limits are those of compute capability 9.0 in the
# CUDA C++ programming guide, the rest is the H100 SXM5 80 GB of NVIDIA's data sheet.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
  name: "NVIDIA H100 80GB HBM3"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
