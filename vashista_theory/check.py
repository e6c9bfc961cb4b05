"""Check a certificate by exact arithmetic with the standard library alone.

  python -m vashista_theory.check CERTIFICATE KEYS.npy QUERY.npy    (or this file alone, anywhere)

Exit code: 0 accepted, 1 refused (one line says why), 2 for bad use (or files in another order).
Keys k_i, query q and the certificate's floats are the exact binary numbers they are. With
x_i = k_i − q and P = Σ w_j x_j for its positive "weights" w of sum 1 (over "denominator", for the
keys in "support"):

* P = 0 proves the query inside the hull. Otherwise ⟨P, x_i⟩ must be equal on the "face", larger
  elsewhere: p* = q + P, ‖r*‖ = ‖P‖, the face is F and Δ the least excess; "gap", "residual_norm"
  and "point" must enclose them. "successful": the whole face has weight. "degenerate_face": for
  the "margin" y, ⟨y, x_j⟩ is equal on the support, larger on F's rest.
* "entropy": h is not below −Σ w_j log w_j, and not above log Σ e^{⟨t, k_j − p*⟩} over the support,
  t the "tilt" (inside: log n). "tangent": ⟨w₀, k_j − k_0⟩ = log w_j − log w_0, if distinct keys of
  the face are affinely independent; otherwise reported as not covered.

A certificate is a JSON object with the `NAMES` below, each once: integers as `hex` writes them,
floats as `float.hex`, intervals as pairs of those, keys by number; null where there is nothing to
say. A .npy file is read as its format says: one array of real numbers and nothing behind it.
"""

import ast
import functools
import hashlib
import json
import math
import os
import signal
import stat
import struct
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

FORMAT = "vashista-theory certificate 1"
NAMES = {"format", "keys", "dimension", "sha256", "outcome", "face", "support", "weights"} | {
    *("denominator", "margin", "gap", "residual_norm", "point", "entropy", "tilt", "tangent")
}
MOST_NUMBERS = 1 << 24  # in keys.npy
MOST_BYTES = 1 << 24  # in a certificate
MOST_DIGITS = 1 << 16  # hexadecimal, in an integer of a certificate
MOST_HEADER = 10_000  # bytes, as in NumPy
MOST_BITS = 2304  # behind the point, in a logarithm
TYPES: dict[Any, str] = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h"} | (
    {"i1": "b", "u8": "Q", "u4": "I", "u2": "H", "u1": "B"}
)
DAMAGE = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, SyntaxError),
    *(TypeError, ValueError, struct.error),
)


class Refused(ValueError):  # noqa: N818
    """The certificate does not prove what it says about this input."""


class Misused(Refused):
    """The files are not the three that are asked for, in their order."""


def _require(condition: object, reason: str) -> None:
    if not condition:
        raise Refused(reason)


# ---------------------------------------------------------------------------- reading the files


def _read(path: str, most: int) -> bytes:
    """At most so many bytes of a file."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - a pipe would be waited for
        raise Misused(f"{path} is not a file")
    with Path(path).open("rb") as file:
        return file.read(most)


def read_npy(path: str, name: str, wanted: tuple[int, ...]) -> list[float]:
    """The values of an array of the shape wanted, in C order."""
    data = _read(path, 8 * math.prod(wanted) + MOST_HEADER + 13)  # 12 bytes before the header
    if data.lstrip()[:1] == b"{":
        raise Misused(f"{path} is no array: give CERTIFICATE KEYS.npy QUERY.npy")
    _require(data[:6] == b"\x93NUMPY" and len(data) > 12, f"{path} is not a .npy file")
    damaged = f"{path} is damaged or holds no plain real numbers"
    try:
        start = {b"\1\0": 10, b"\2\0": 12, b"\3\0": 12}[data[6:8]]
        end = start + int.from_bytes(data[8:start], "little")
        text = data[start:end].decode("utf-8" if data[6] == 3 else "latin-1")
        whole = end <= min(len(data), start + MOST_HEADER) and text.endswith("\n")
        _require(whole, f"{damaged}: its header is cut off or too long")
        with warnings.catch_warnings(action="ignore"):  # of an odd literal, on lines of their own
            tree: Any = ast.parse(text, mode="eval").body
        header = ast.literal_eval(tree)
        _require(len(header) == len(tree.keys) == 3, f"{damaged}: its header has other names")
        descr, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
        kind = TYPES[descr[1:]]
    except DAMAGE as error:
        raise error if isinstance(error, Refused) else Refused(f"{damaged} ({error})") from None
    plain = type(shape) is tuple and all(type(k) is int for k in shape) and type(fortran) is bool
    _require(plain, f"{damaged}: its header has no shape or no order")
    if len(shape) != len(wanted):
        raise Misused(f"{path} has shape {shape}: keys (n, d) come first, then a query (d,)")
    _require(shape == wanted, f"it is for {name} of {wanted}, {path} has shape {shape}")
    order, size, count = descr[0], int(descr[2]), math.prod(shape)
    _require(order in ("<", ">", "|" if size == 1 else ">"), f"{damaged}: no byte order")
    _require(len(data) - end == count * size, f"{damaged}: not {count * size} bytes of numbers")
    raw = struct.unpack_from(f"{order.replace('|', '<')}{count}{kind}", data, end)
    values = [float(value) + 0.0 for value in raw]  # −0.0 becomes 0.0
    exact = raw == tuple(values) and all(map(math.isfinite, values))
    _require(exact, f"{path} holds a NaN, an infinity or an integer that float64 cannot hold")
    if fortran and len(shape) == 2:
        values = [values[i + k * shape[0]] for i in range(shape[0]) for k in range(shape[1])]
    return values


def read_certificate(data: bytes) -> Any:
    """JSON in which every name is given once and every number is an integer."""

    def named(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _require(len(dict(pairs)) == len(pairs), "a name is in it twice")
        return dict(pairs)

    def refuse(number: str) -> NoReturn:
        raise Refused(f"a number in it is not an integer ({number[:20]})")

    _require(len(data) <= MOST_BYTES, f"it is too large: above {MOST_BYTES} bytes")
    text = data.decode("utf-8")
    return json.loads(text, object_pairs_hook=named, parse_float=refuse, parse_constant=refuse)


def _integer(text: Any, name: str) -> int:
    short = type(text) is str and len(text) <= MOST_DIGITS
    value = int(text, 16) if short else 0
    _require(short and hex(value) == text, f'"{name}" is not as hex writes it, or too long')
    return value


def _float(text: Any, name: str) -> float:
    value = float.fromhex(text) if type(text) is str else math.nan
    _require(value.hex() == text != "nan", f'"{name}" is not as float.hex writes it')
    return value


def _pair(pair: Any, name: str) -> list[float]:
    _require(type(pair) is list and len(pair) == 2, f'"{name}" is not a pair')
    return [_float(end, name) for end in pair]


def _list(cert: Any, name: str, count: int, read: Callable[[Any, str], Any]) -> list[Any]:
    given = cert[name]
    _require(type(given) is list and len(given) == count, f'"{name}" is not a list of {count}')
    return [read(entry, name) for entry in given]


def _keys(cert: Any, name: str, n: int) -> list[int]:
    given = cert[name]
    numbers = type(given) is list and 0 < len(given) <= n and all(type(i) is int for i in given)
    rising = numbers and all(a < b for a, b in zip([-1, *given], [*given, n], strict=True))
    _require(rising, f'"{name}" is no list of keys that rises within 0 to n − 1')
    return given


# ----------------------------------------------------------------------------------- arithmetic


def _dot(a: Any, b: Any) -> Any:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _integers(values: list[float]) -> tuple[list[int], int]:
    """Integers a and the least k for which the values are a 2^-k."""
    k = max(value.as_integer_ratio()[1].bit_length() for value in values) - 1
    ratios = (value.as_integer_ratio() for value in values)
    return [above << (k + 1 - below.bit_length()) for above, below in ratios], k


def _enclosed(
    ends: list[float], low: int, high: int, below: int, name: str, *, power: int = 1
) -> None:
    """Refuse unless both low/below and high/below lie between the ends, raised to the power."""
    for end, value, sign in ((ends[0], low, 1), (ends[1], high, -1)):
        held = end * sign < 0
        if math.isfinite(end):
            a, b = end.as_integer_ratio()  # compared without a common divisor: digits may be many
            held = sign * a**power * below <= sign * value * b**power
        _require(held, f"the {name} is outside its interval")


def _log(a: int, b: int, bits: int) -> tuple[int, int]:
    """(value, error) of log(a/b) in units of 2^-bits, as e log 2 + 2 artanh((x−1)/(x+1))."""
    e, one = a.bit_length() - b.bit_length(), 1 << bits
    x = (a << bits) // (b << e) if e >= 0 else (a << (bits - e)) // b  # a/b 2^-e, in (1/2, 2)
    value = _twice_artanh(((x - one) << bits) // (x + one), bits)
    return value + (e and e * _log_2(bits)), (abs(e) + (a != b)) << 13


def _twice_artanh(y: int, bits: int) -> int:
    # Under bits/3 + 2 terms, since |y| <= 1/3, each off by under 3 units: in all under 2^13.
    total, power, k = 0, y, 1
    while power not in (0, -1):
        total, power, k = total + power // k, (power * (y * y >> bits)) >> bits, k + 2
    return 2 * total


@functools.cache
def _log_2(bits: int) -> int:
    return _twice_artanh((1 << bits) // 3, bits)


def _log_sum_exp_above(exponents: Counter[int], bits: int) -> int:
    """An upper end of log Σ e^u: e^u = E e^δ <= E (1 + δ + δ²) for δ = u − log E <= 1."""
    total, one = Fraction(0), 1 << bits
    for u, count in exponents.items():
        guess = Fraction(math.exp(min(max(u, -700 * one), 700 * one) / one))
        value, error = _log(guess.numerator, guess.denominator, bits)
        delta = Fraction(max(u - value + error, -one), one)
        _require(delta <= 1, "the tilt is too large to be used")
        total += count * guess * (1 + delta + delta * delta)
    return sum(_log(total.numerator, total.denominator, bits))


# ----------------------------------------------------------------------------------- the proof


def size(cert: Any) -> tuple[int, int]:
    """The numbers of keys and dimensions that a certificate is for."""
    _require(cert["format"] == FORMAT, "it has an unknown format")
    _require(set(cert) == NAMES, f"it lacks or adds {ascii(sorted(NAMES ^ set(cert)))[:200]}")
    n, d = cert["keys"], cert["dimension"]
    sized = type(n) is int and type(d) is int and min(n, d) > 0 and n * d <= MOST_NUMBERS
    _require(sized, f"it is not for 1 to {MOST_NUMBERS} numbers")
    return n, d


def verify(cert: Any, keys: list[float], query: list[float]) -> str:
    """What is proved of this input, in words; raises `Refused` where something is not."""
    (n, d), outcome = size(cert), cert["outcome"]
    _require((len(keys), len(query)) == (n * d, d), f"it is for keys of ({n}, {d})")
    packed = struct.pack("<QQ", n, d) + struct.pack(f"<{n * d + d}d", *keys, *query)
    _require(hashlib.sha256(packed).hexdigest() == cert["sha256"], "it is for other inputs (hash)")

    inside, strict = outcome == "inside_hull", outcome == "successful"
    degenerate = outcome == "degenerate_face"
    _require(inside or strict or degenerate, "its outcome is not one that is proved")
    face, support = _keys(cert, "face", n), _keys(cert, "support", n)
    weights = _list(cert, "weights", len(support), _integer)
    total = _integer(cert["denominator"], "denominator")
    _require(min(weights) > 0, "a weight is not positive")
    _require(sum(weights) == total, "the weights do not sum to 1")
    _require(set(support) <= set(face), "a key off the face has weight")

    whole, k = _integers(keys + query)  # lengths are integers, in units of 2^-k
    origin, cut = whole[n * d :], (whole[i : i + d] for i in range(0, n * d, d))
    rows = [[x - o for x, o in zip(row, origin, strict=True)] for row in cut]
    used = [rows[j] for j in support]
    step = [_dot(weights, column) for column in zip(*used, strict=True)]  # P times the total
    level = 0  # ‖P‖² times the total
    if inside:
        _require(not any(step) and len(face) == n, "it is not proved inside")
    else:
        _require(any(step), "the query is inside the hull")
        products, on_face = [_dot(step, row) for row in rows], set(face)
        level = products[face[0]]
        _require(all(products[j] == level for j in face), "a key of the face has a multiplier")
        off = [product for i, product in enumerate(products) if i not in on_face]
        _require(all(p > level for p in off), "a key off the face has no positive multiplier")
        gap, excess = _pair(cert["gap"], "gap"), min(off, default=level) - level
        if off:
            _enclosed(gap, excess, excess, total << 2 * k, "gap")
        _require(off or gap[1] == math.inf, "the gap is outside its interval")
    if degenerate:
        margin, carrying = _list(cert, "margin", d, _integer), set(support)
        heights = {j: _dot(margin, rows[j]) for j in face}
        least, rest = heights[support[0]], [heights[j] for j in face if j not in carrying]
        _require(all(heights[j] == least for j in support), "the margin tilts the support")
        _require(rest and min(rest) > least, "the margin does not separate")
    elif strict:
        _require(support == face, "a key of the face has no weight, so it is not strict")
    for name, has_place in (("gap", not inside), ("margin", degenerate), ("tangent", strict)):
        _require(has_place or cert[name] is None, f'"{name}" has no place beside {outcome}')
    norm = _pair(cert["residual_norm"], "residual_norm")
    _require(0 <= norm[0] <= norm[1], "the residual norm is outside its interval")
    _enclosed(norm, level, level, total << 2 * k, "residual norm", power=2)
    for o, s, pair in zip(origin, step, _list(cert, "point", d, _pair), strict=True):
        _enclosed(pair, o * total + s, o * total + s, total << k, "point")

    # A weight of 2^-b is worth about 2^-b of entropy: logarithms need as many bits more.
    bits = min(256 + total.bit_length() - min(weights).bit_length(), MOST_BITS)
    lower = sum(w * (value - err) for w in weights for value, err in [_log(total, w, bits)])
    tilt, m = _integers(_list(cert, "tilt", d, _float))
    at_point, below = _dot(tilt, step), total << (k + m)
    tilted = [] if inside else [_dot(tilt, row) * total - at_point for row in used]
    exponents = [-((-t << bits) // below) for t in tilted] or [0] * n  # rounded up
    upper = _log_sum_exp_above(Counter(exponents), bits)
    entropy = _pair(cert["entropy"], "entropy")
    _enclosed(entropy, max(lower, 0), upper * total, total << bits, "entropy that is proved")
    tangent = [] if cert["tangent"] is None else _list(cert, "tangent", d, _pair)
    covered = tangent and _check_tangent(tangent, used, weights, k, bits)
    told = f"{outcome}: {len(face)} of {n} keys on the face; gap, residual norm, point and entropy"
    return f"{told} within their intervals; tangent {'too' if covered else 'not covered'}"


def _check_tangent(
    tangent: list[list[float]], rows: list[list[int]], weights: list[int], k: int, bits: int
) -> bool:
    """Whether the rows are independent; then w₀ = Σ_j b_j X_j, with b the logs, G X = the edges."""
    mass: Counter[tuple[int, ...]] = Counter()
    for row, weight in zip(rows, weights, strict=True):
        mass[tuple(row)] += weight
    copies, ((first, m0), *others) = Counter(map(tuple, rows)), mass.items()
    if len(others) > len(first):
        return False
    logs = [_log(m * copies[first], m0 * copies[row], bits) for row, m in others]
    edges = [[x - o for x, o in zip(row, first, strict=True)] for row, _ in others]
    size, last = len(edges), 1
    work = [[*(_dot(a, b) for b in edges), *(int(a is b) for b in edges)] for a in edges]
    for c, line in enumerate(work):  # Gauss-Jordan without fractions (Bareiss): divisions are exact
        if (pivot := line[c]) == 0:
            return False
        for i in set(range(size)) - {c}:
            f = work[i][c]
            work[i] = [(pivot * x - f * y) // last for x, y in zip(work[i], line, strict=True)]
        last = pivot
    for i, pair in enumerate(tangent):
        edge = [row[i] for row in edges]
        terms = [(_dot(line[size:], edge), *b) for line, b in zip(work, logs, strict=True)]
        value, error = sum(x * v for x, v, _ in terms), sum(abs(x) * e for x, _, e in terms)
        _enclosed(pair, (value - error) << k, (value + error) << k, last << bits, "tangent")
    return True


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    if len(arguments) != 3:
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        data = _read(arguments[0], MOST_BYTES + 1)
        if data[:6] == b"\x93NUMPY":
            raise Misused(f"{arguments[0]} is an array: give CERTIFICATE KEYS.npy QUERY.npy")
        cert = read_certificate(data)
        n, d = size(cert)
        keys = read_npy(arguments[1], "keys", (n, d))
        query = read_npy(arguments[2], "query", (d,))
        print("accepted:", verify(cert, keys, query))
    except (OSError, *DAMAGE) as error:
        damage = f"{arguments[0]} is damaged or no certificate ({type(error).__name__}: {error})"
        said = str(error) if isinstance(error, Refused | OSError) else damage
        line = "".join(c if c.isprintable() else " " for c in said)[:500]
        print(f"refused: {line}.", file=sys.stderr)
        return 2 if isinstance(error, OSError | Misused) else 1
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # a reader that leaves ends this quietly; Windows has none
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main(sys.argv[1:]))
