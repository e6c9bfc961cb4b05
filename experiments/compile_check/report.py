"""What `compile_check` says of the kernels."""

from experiments.framework.outcome import Measured, Outcome, Rows

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


def report(found: Measured) -> Outcome:
    """What compiles for what, and what spills."""
    rows, absent = found.tables["kernels"], found.tables["left out"]
    left_out = [
        f"{row['target']}: not compiled for, {row['missing']} is not installed." for row in absent
    ]
    names = {row["target"] for row in absent}
    present = [name for name in found.configuration["targets"] if name not in names]
    failures = _failures(rows)
    return Outcome(
        tables=found.described({"kernels": _COLUMNS, "versions": _VERSIONS}),
        values=_values(rows),
        findings=[*failures, *_findings(present, rows), *left_out],
        notes=[
            "Compiled without the device, for its description; nothing was run.",
            "Registers, spills: ptxas. Shared memory: the launch, static and dynamic.",
        ],
        failures=failures,
    )


def _failures(rows: Rows) -> list[str]:
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


def _findings(targets: list[str], rows: Rows) -> list[str]:
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


def _values(rows: Rows) -> dict[str, int]:
    return {
        "compiled": sum(row["result"] == "compiled" for row in rows),
        "too_large": sum(row["result"].startswith("too large") for row in rows),
        "refused": sum(row["result"].startswith("refused") for row in rows),
        "failed": sum(row["result"].startswith("failed") for row in rows),
        "spilled": sum(bool(row.get("spilled_bytes")) for row in rows),
    }
