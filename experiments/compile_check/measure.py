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

import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from experiments.compile_check.child import compile_for
from experiments.compile_check.targets import TARGETS, version
from experiments.framework.outcome import NotMeasured, Outcome, Table
from vashista_theory.attention import kernels
from vashista_theory.attention.kernels.arg_specs import ARG_SPECS

_COLUMNS = {
    "target": "device compiled for",
    "kernel": "back end and stage",
    "shape": "arg_spec",
    "result": "compiled, refused (the next back end takes it), too large for the memory of one "
    "chip whatever the kernel, or failed",
    "registers": "of a thread; 255 are the most there are",
    "spilled_bytes": "stored to and loaded from memory for want of registers, bytes of a thread",
    "shared_bytes": "shared memory of a block of threads, bytes",
    "temporary_bytes": "memory beside arguments and results, bytes",
}
_VERSIONS = {"name": "what", "version": "installed; empty if not"}


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
    """What the result depends on beside the configuration: the compilers and the kernels."""
    digest = hashlib.sha256()
    for path in sorted(Path(kernels.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return {**_versions(), "kernels": digest.hexdigest()}


def run(config: Config) -> Outcome:
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
    left_out = [
        f"{name}: not compiled for, {', '.join(missing[name])} is not installed."
        for name in config.targets
        if missing[name]
    ]
    failures = _failures(rows)
    return Outcome(
        tables={
            "kernels": Table(_COLUMNS, rows),
            "versions": Table(
                _VERSIONS, [{"name": k, "version": v} for k, v in _versions().items()]
            ),
        },
        values=_values(rows),
        findings=[*failures, *_findings(present, rows), *left_out],
        notes=[
            "Compiled without the device, for its description; nothing was run.",
            "Registers, spills: ptxas. Shared memory: the launch, static and dynamic.",
        ],
        failures=failures,
    )


def _versions() -> dict[str, str | None]:
    wheels = sorted({wheel for target in TARGETS.values() for wheel in target.wheels})
    found = {name: version(name) for name in ("jax", "jaxlib", *wheels)}
    return {"python": platform.python_version(), **found}


def _failures(rows: list[dict[str, Any]]) -> list[str]:
    found = [
        f"{row['kernel']} at {row['shape']} for {row['target']} {row['result']}"
        for row in rows
        if row["result"].startswith("failed")
    ]
    return found + [
        f"{row['kernel']} at {row['shape']} for {row['target']} spills {row['spilled_bytes']} bytes"
        for row in rows
        if row.get("spilled_bytes")
    ]


def _findings(targets: list[str], rows: list[dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    for name in targets:
        of_target = [row for row in rows if row["target"] == name]
        if not of_target:
            lines.append(f"{name}: there is no kernel for it yet.")
            continue
        counts = {
            word: sum(row["result"].startswith(word) for row in of_target)
            for word in ("compiled", "refused", "too large", "failed")
        }
        line = f"{name}: " + ", ".join(f"{n} {word}" for word, n in counts.items())
        registers = [row["registers"] for row in of_target if "registers" in row]
        if registers:
            shared = max(row["shared_bytes"] for row in of_target if "shared_bytes" in row)
            spilled = sum(row["spilled_bytes"] > 0 for row in of_target if "registers" in row)
            line += (
                f"; at most {max(registers)} registers and {shared:,} bytes of shared memory; "
                f"{spilled} spill"
            )
        lines.append(f"{line}.")
        lines += [
            f"{name}: {row['kernel']} at {row['shape']} is {row['result']}."
            for row in of_target
            if row["result"].startswith("too large")
        ]
    return lines


def _values(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {
        "compiled": sum(row["result"] == "compiled" for row in rows),
        "too_large": sum(row["result"].startswith("too large") for row in rows),
        "refused": sum(row["result"].startswith("refused") for row in rows),
        "failed": sum(row["result"].startswith("failed") for row in rows),
        "spilled": sum(bool(row.get("spilled_bytes")) for row in rows),
    }
