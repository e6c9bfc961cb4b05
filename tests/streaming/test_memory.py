"""Keys beyond a memory limit that the test sets: enforced by the kernel, and measured beside it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MIB = 2**20

# RLIMIT_DATA counts private writable memory whether touched or not, so threads' stacks and arenas
# count as well; an allocation beyond it fails. RssAnon is what was touched.
CHILD = """
import json, resource, sys, threading
import numpy as np
import vashista_theory as vt

def status(name):
    fields = dict(line.split(":", 1) for line in open("/proc/self/status", encoding="utf-8"))
    return int(fields[name].split()[0]) * 1024

keys, query = np.load(sys.argv[1], mmap_mode="r"), np.load(sys.argv[2])
room, n = int(sys.argv[3]), len(keys)
vt.project_blocks(keys[:2000], query)      # compiled, and threads started, before the limit
before = status("RssAnon")
resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + room,) * 2)
try:
    np.ones(keys.shape)
    enforced = False
except MemoryError:
    enforced = True
peak, stop = [before], threading.Event()
def watch():
    while not stop.wait(0.002):
        peak[0] = max(peak[0], status("RssAnon"))
watcher = threading.Thread(target=watch)
watcher.start()
found = vt.project_blocks(keys, query, workers=2)
stop.set()
watcher.join()
print(json.dumps({
    "enforced": enforced, "above": max(peak[0], status("RssAnon")) - before, "peak": peak[0],
    "point": found.point.tolist(), "face": found.face.tolist(), "gap": found.gap,
    "support": found.support.tolist(), "weights": found.weights.tolist(), "passes": found.passes,
    "scale": found.scale, "outcome": bool(found.result == vt.Result.successful),
}))
"""


def solve_under_limit(folder: Path, n: int, room: int) -> tuple[np.ndarray, np.ndarray, dict]:
    """Project n keys (n, 64) of float32 on disk with `room` bytes above what is in use already."""
    rng = np.random.Generator(np.random.SFC64(0))
    path = folder / "keys.npy"
    keys = np.lib.format.open_memmap(path, "w+", np.float32, (n, 64))
    for start in range(0, n, 100_000):
        keys[start : start + 100_000] = rng.standard_normal(
            (min(100_000, n - start), 64), np.float32
        )
    keys.flush()
    query = 1.5 * np.random.default_rng(1).normal(size=64)
    np.save(folder / "query.npy", query)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(folder / "query.npy"), str(room)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return keys, query, json.loads(done.stdout)


def check(keys: np.ndarray, query: np.ndarray, found: dict, room: int) -> None:
    assert found["enforced"], "the limit does not stop an allocation of the keys in float64"
    assert found["above"] < room
    assert found["outcome"]
    # Optimality, recomputed in blocks from the answer alone: numbers of rounding size.
    point, residual = np.array(found["point"]), query - np.array(found["point"])
    off = np.concatenate(
        [(point - keys[at : at + 100_000]) @ residual for at in range(0, len(keys), 100_000)]
    )
    np.testing.assert_allclose(off[found["face"]], 0, atol=1e-13 * found["scale"])
    off[found["face"]] = np.inf
    np.testing.assert_allclose(off.min(), found["gap"], atol=1e-13 * found["scale"])
    held = np.array(found["weights"]) @ keys[found["support"]].astype(np.float64)
    np.testing.assert_allclose(held, point, rtol=0, atol=1e-13)


pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="anonymous memory is read from /proc"
)


def test_a_million_keys_within_a_fifth_of_their_size(tmp_path: Path) -> None:
    # 256 MB on disk, 512 MB in the precision of the arithmetic.
    room = 100 * MIB
    check(*solve_under_limit(tmp_path, 1_000_000, room), room)


@pytest.mark.slow
def test_ten_million_keys_within_the_same_limit(tmp_path: Path) -> None:
    room = 100 * MIB
    check(*solve_under_limit(tmp_path, 10_000_000, room), room)
