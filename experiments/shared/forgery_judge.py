"""Forgeries shown to the checker, and whether those it accepts have deceived it.

They have, unless what they say is true of the arrays as NumPy reads them. Found out without the
checker, by `hull_truth`.
"""

import contextlib
import io
import json
import math
import time
import warnings
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.shared import hull_truth
from experiments.shared.forgeries import Forgery, Sparse, digest, forgeries, genuine
from vashista_theory import check

COLUMNS = {
    "forged": "what was forged or damaged",
    "tried": "how many",
    "refused": "how many were refused, each in one line",
    "still_true": "accepted, and what they say is true",
    "faults": "accepted and false, refused in more or less than a line, or too slow",
    "slowest_s": "longest time to an answer, seconds",
}
SLOWEST = 2.0
"""Seconds within which a forgery of a small certificate has to be answered."""


class Trial(NamedTuple):
    """What the checker did with a forgery.

    Attributes:
        kind: of the forgery.
        accepted: the exit code was 0.
        fault: why it should not have; or what else was wrong: a traceback, more than one line.
        seconds: from the call to the answer.
        said: what it printed.
    """

    kind: str
    accepted: bool
    fault: str
    seconds: float
    said: str


def tried(forgery: Forgery, folder: Path) -> Trial:
    """Show a forgery to the checker's command line, in this process, from files in a folder."""
    paths = [folder / name for name in ("certificate.json", "keys.npy", "query.npy")]
    for path, content in zip(paths, forgery.files, strict=True):
        sparse = content if isinstance(content, Sparse) else Sparse(content, len(content))
        path.unlink(missing_ok=True)
        with path.open("xb") as file:
            file.write(sparse.start)
            file.truncate(sparse.size)
    output, errors = io.StringIO(), io.StringIO()
    started = time.perf_counter()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            code = check.main([str(path) for path in paths])
    except Exception as error:  # noqa: BLE001 - the fault that is looked for
        code, fault = -1, f"{type(error).__name__}: {error}"
    else:
        fault = ""
    took = time.perf_counter() - started
    said = (output if code == 0 else errors).getvalue()
    if code == 0:
        fault = deceives(forgery, said)
    elif not fault and (code not in (1, 2) or not said.startswith("refused: ")):
        fault = "no refusal and no acceptance"
    elif len(said.splitlines()) != 1 or output.getvalue():
        fault = fault or "more than one line"
    if took > SLOWEST:
        fault = fault or f"{took:.1f} s to an answer"
    return Trial(forgery.kind, code == 0, fault, took, said)


def trials(count: int, seed: int, folder: Path) -> list[Trial]:
    """Forgeries of every kind, each shown to the checker from files in an empty folder."""
    bases = genuine(folder)
    return [tried(forgery, folder) for forgery in forgeries(bases, count, seed)]


def summary(found: list[Trial]) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each kind, under `COLUMNS`, and every fault in words."""
    rows = []
    for kind in dict.fromkeys(trial.kind for trial in found):
        of_kind = [trial for trial in found if trial.kind == kind]
        faults = sum(bool(trial.fault) for trial in of_kind)
        true = sum(trial.accepted and not trial.fault for trial in of_kind)
        row = (kind, len(of_kind), len(of_kind) - faults - true, true, faults)
        slowest = max(trial.seconds for trial in of_kind)
        rows.append(dict(zip(COLUMNS, (*row, slowest), strict=True)))
    said = (f"forged ({t.kind}): {t.fault}; the checker said: {t.said}" for t in found if t.fault)
    return rows, list(said)


def deceives(forgery: Forgery, said: str) -> str:
    """Why an accepted forgery is a false statement; empty if what was said of it is true."""
    if any(isinstance(file, Sparse) for file in forgery.files):
        return "a file of a terabyte"
    text, *arrays = (bytes(file) for file in forgery.files if not isinstance(file, Sparse))
    twice: list[str] = []

    def named(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice.extend(name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1)
        return dict(pairs)

    content = json.loads(text, object_pairs_hook=named)
    if twice:
        return f"{twice[0]} has two values"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keys, query = map(_as_numpy_reads, arrays)
    if keys.ndim != 2 or query.ndim != 1 or keys.dtype.kind not in "fiu":
        return f"arrays of {keys.dtype}, {keys.shape} and {query.shape}"
    if content["sha256"] != digest(keys, query) or [*keys.shape] != [
        content["keys"],
        content["dimension"],
    ]:
        return "it is for other arrays"
    return _false_of(content, keys.astype(float), query.astype(float), said)


def _as_numpy_reads(data: bytes) -> np.ndarray:
    file = io.BytesIO(data)
    array = np.load(file, allow_pickle=False)
    if file.read(1):
        raise ValueError("something follows the array")
    return array


def _false_of(content: dict[str, Any], keys: np.ndarray, query: np.ndarray, said: str) -> str:
    true = hull_truth.truth(keys, query)
    counts = f"{len(true.face)} of {len(keys)} keys on the face"
    face = (content["outcome"], content["face"]) == (true.outcome, true.face) and counts in said
    if true.outcome == "inside_hull":
        gap = content["gap"] is None
    else:
        low, high = _ends(content["gap"])
        gap = low <= (math.inf if true.gap is None else true.gap) <= high
    low, high = _ends(content["residual_norm"])
    norm = low <= 0 or Fraction(low) ** 2 <= true.squared
    norm = norm and high >= 0 and (high == math.inf or Fraction(high) ** 2 >= true.squared)
    pairs = [_ends(pair) for pair in content["point"]]
    point = all(low <= x <= high for (low, high), x in zip(pairs, true.point, strict=True))
    entropy = hull_truth.near(*_ends(content["entropy"]), true.entropy, Decimal(1))
    tangent = True
    if "tangent too" in said:
        size = max(map(abs, true.tangent))
        pairs = [_ends(pair) for pair in content["tangent"]]
        tangent = all(
            hull_truth.near(*ends, value, size)
            for ends, value in zip(pairs, true.tangent, strict=True)
        )
    held = {
        "face": face,
        "gap": gap,
        "residual norm": norm,
        "point": point,
        "entropy": entropy,
        "tangent": tangent,
    }
    false = [name for name, true_of_it in held.items() if not true_of_it]
    return f"{', '.join(false)} not as stated; true is {true}" if false else ""


def _ends(pair: list[str]) -> tuple[float, float]:
    low, high = map(float.fromhex, pair)
    return low, high
