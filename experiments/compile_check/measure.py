"""Every kernel compiles for Hopper and for TPUs at every arg_spec, and nothing spills.

No such device is needed: the compilers come as wheels, for the version of JAX that is installed.

    pip install "jax-cuda13-plugin==$V" "jax-cuda13-pjrt==$V" nvidia-cuda-nvcc nvidia-nvvm libtpu

    JAX_PLATFORMS=cpu python -m experiments compile_check

where V is that version (`python -c "import jax; print(jax.__version__)"`). An environment of its
own keeps the compilers out of the way, and JAX_PLATFORMS keeps JAX from looking for their devices.
libtpu comes under Google's own licence: leave it out to compile for Hopper alone. A target whose
wheels are missing is left out and named. A kernel that does not compile, or whose registers spill
to memory, is a failure: exit code 1.

Compiled is not run: nothing here says that a kernel is right or fast on a device.

Example: JAX_PLATFORMS=cpu python -m experiments compile_check --targets h100 v5e --force
"""

import platform
from dataclasses import dataclass

import jax

from experiments.compile_check.child import compile_for
from experiments.compile_check.targets import TARGETS
from experiments.framework.outcome import Measured, NotMeasured
from experiments.shared.process import version
from vashista_theory.attention.kernels.arg_specs import ARG_SPECS

BY_HAND = "needs the compilers for H100 and TPU"


@dataclass(frozen=True)
class Config:
    """What to compile.

    Attributes:
        targets: Devices: h100, v4, v5e, v5p, v6e.
        quick: One shape alone, for tests.
    """

    targets: tuple[str, ...] = ("h100", "v5e", "v4", "v5p", "v6e")
    quick: bool = False

    def __post_init__(self) -> None:
        if not self.targets or not set(self.targets) <= TARGETS.keys():
            raise ValueError(f"targets is {self.targets}; expected some of {', '.join(TARGETS)}")


def inputs() -> dict[str, str | None]:
    """What the result depends on beside configuration and code: the compilers."""
    wheels = sorted({wheel for target in TARGETS.values() for wheel in target.wheels})
    found = {name: version(name) for name in ("jax", "jaxlib", *wheels)}
    return {"python": platform.python_version(), **found}


def measure(config: Config) -> Measured:
    """Compile for every target whose compiler is installed.

    Raises:
        NotMeasured: there is no compiler for any of them.
    """
    missing = {name: TARGETS[name].missing() for name in config.targets}
    present = [name for name in config.targets if not missing[name]]
    if not present:
        wheels = sorted({wheel for wheels in missing.values() for wheel in wheels})
        raise NotMeasured(
            f"no compiler for {', '.join(config.targets)} is installed; it takes the wheels "
            f"{' '.join(wheels)} (jax-* in version {jax.__version__}; see --help)"
        )
    names = tuple(spec.name for spec in ARG_SPECS)[: 1 if config.quick else None]
    rows = [row for name in present for row in compile_for(name, names)]
    return Measured(
        {
            "kernels": rows,
            "versions": [{"name": k, "version": v} for k, v in inputs().items()],
            "left out": [
                {"target": name, "missing": ", ".join(missing[name])}
                for name in config.targets
                if missing[name]
            ],
        }
    )
