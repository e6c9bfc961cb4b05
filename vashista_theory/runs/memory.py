"""Whether a plan fits in memory, asked before anything of it is built."""

import contextlib
import os
from pathlib import Path

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory() -> int | None:
    """Bytes that this process may have at most; None where the system does not tell.

    The least of the machine's memory, the limit of its container, and that of its address space.
    """
    found: list[int] = []
    with contextlib.suppress(AttributeError, OSError, ValueError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # absent, or "max"
            found.append(int(Path(path).read_text(encoding="ascii")))
    with contextlib.suppress(ImportError, OSError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        found.extend([limit] if limit != resource.RLIM_INFINITY else [])
    return min((size for size in found if size > 0), default=None)


def refuse_beyond_memory(asked: str, needed: int, remedy: str) -> None:
    """Refuse what could not be held.

    Args:
        asked: What was asked for, with its number: "instances is 8".
        needed: Bytes that it takes at least.
        remedy: What to do instead.

    Raises:
        ValueError: It is more than `memory`.
    """
    there = memory()
    if there is not None and needed > there:
        raise ValueError(
            f"{asked}: this takes at least {_readable(needed)} of memory, and there are "
            f"{_readable(there)}. {remedy}"
        )


def _readable(size: int | float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} PB"
