"""Compiles the kernels for one target, in a process of its own. Prints JSON.

Run as `python -m experiments.compile_check.child TARGET FOLDER NAME...` with the environment that
`compile_for` sets: compilers read it when they are loaded.
"""

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments.compile_check.targets import H100, TARGETS, Target
from experiments.shared import process

_ENVIRONMENT = {
    # Nothing runs: the CPU is the device at hand, and no driver or metadata server is looked for.
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    # The process that started this one may have loaded libtpu; nobody has a chip to share.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_LONGEST_MESSAGE = 300


def compile_for(target: str, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Compile every kernel of the target's platform, in a fresh process.

    Args:
        target: One of `TARGETS`.
        names: The arg_specs to compile for.

    Returns:
        One row for each back end, stage and arg_spec.

    Raises:
        RuntimeError: the process died; the message has the end of what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        return process.run(
            "experiments.compile_check.child",
            *(target, folder, *names),
            environment={**_ENVIRONMENT, "MOSAIC_GPU_DUMP_TO": folder},
        )


def _child(name: str, folder: Path, names: list[str]) -> list[dict[str, Any]]:
    import jax

    from experiments.compile_check.calls import compile_call, kernels

    target = TARGETS[name]
    topologies = _topologies()
    if target.platform == "cuda":
        options = {"topology": target.topology, "target_config": H100}
    else:
        options = {"topology_name": target.topology}
    found = topologies.get_topology_desc(platform=target.platform, **options)
    sharding = jax.sharding.SingleDeviceSharding(found.devices[0])
    rows: list[dict[str, Any]] = []
    for kernel in kernels(target.platform, names):
        row: dict[str, Any] = {"target": name, **kernel.labels}
        rows.append(row)
        if kernel.why_not is not None:
            row["result"] = f"refused: {kernel.why_not}"
            continue
        if (reason := _too_large(kernel, target)) is not None:
            row["result"] = reason
            continue
        for left in folder.iterdir():
            left.unlink()
        try:
            with target.at_hand():
                row["temporary_bytes"] = compile_call(kernel, target.platform, sharding)
        except Exception as error:  # noqa: BLE001 - the message is the result
            message = " ".join(str(error).split())[:_LONGEST_MESSAGE]
            row["result"] = f"failed: {type(error).__name__}: {message}"
            continue
        row["result"] = "compiled"
        row |= _resources(folder)
    return rows


def _too_large(kernel: Any, target: Target) -> str | None:
    """What no kernel could help: the arguments alone, keys and values most of all, do not fit."""
    needed = kernel.argument_bytes / 2**30
    if needed <= target.memory:
        return None
    return (
        f"too large for one {target.kind}, whatever the kernel: its arguments take {needed:.1f} "
        f"GiB, and the chip's memory is {target.memory} GiB"
    )


def _topologies() -> Any:
    from jax.experimental import topologies

    return topologies


def _resources(folder: Path) -> dict[str, Any]:
    """What the assembler and the launch say, of the kernel that takes most; empty for a TPU."""
    said = "\n".join(path.read_text("utf-8") for path in sorted(folder.glob("*.ptxas")))
    if not said:
        return {}

    def most(pattern: str, text: str) -> int:
        return max(map(int, re.findall(pattern, text)))

    # One of them is there, by the way the kernel is lowered.
    found = [*folder.glob("*.before_layout_inference.txt")] or [*folder.glob("*.mlir-passes.log")]
    launched = "\n".join(path.read_text("utf-8") for path in found)
    return {
        "registers": most(r"Used (\d+) registers", said),
        "spilled_bytes": most(r"(\d+) bytes spill stores", said)
        + most(r"(\d+) bytes spill loads", said),
        "shared_bytes": most(r"dynamic_shared_memory_size %c(\d+)_i32", launched),
    }


if __name__ == "__main__":
    print(json.dumps(_child(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])))
