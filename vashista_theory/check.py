"""Check a certificate by exact arithmetic with the standard library alone.

  python -m vashista_theory.check CERTIFICATE KEYS.npy QUERY.npy
  python check.py CERTIFICATE KEYS.npy QUERY.npy            # this file alone, nothing installed

Exit code: 0 accepted, 1 refused (one line says why), 2 for bad use. Keys k_i, query q and the
certificate's floats are the exact binary numbers they are. With x_i = k_i − q and P = Σ w_j x_j for
its positive "weights" w of sum 1 (hexadecimal, over "denominator", for the keys in "support"):

* P = 0 proves the query inside the hull. Otherwise ⟨P, x_i⟩ must be equal on the "face", larger
  elsewhere: p* = q + P, ‖r*‖ = ‖P‖, the face is F and Δ the least excess. "gap", "residual_norm"
  and "point", pairs of `float.hex`, must have the exact values between them.
* "successful": every key of the face has weight. "degenerate_face": integers y, the "margin", have
  ⟨y, x_j⟩ equal on the support and larger on the rest of the face: no strict complementarity.
* "entropy": h is not below −Σ w_j log w_j, and not above log Σ e^{⟨t, k_j − p*⟩}, t the "tilt",
  summed over the support (inside: over all keys).
* "tangent": ⟨w₀, k_j − k_0⟩ = log w_j − log w_0, if the distinct keys of the face are affinely
  independent; otherwise it is reported as not covered.
"""

import ast
import hashlib
import json
import math
import struct
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

BITS, ONE = 256, 1 << 256  # fixed-point logarithms, in units of 2^-BITS
CODES = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u1": "B"}


class Refused(Exception):  # noqa: N818
    """The certificate does not prove what it says about this input."""


def _require(condition: object, reason: str) -> None:
    if not condition:
        raise Refused(reason)


def _read_npy(path: str) -> tuple[tuple[int, ...], list[float]]:
    """Shape and values in C order."""
    data = Path(path).read_bytes()
    _require(data[:6] == b"\x93NUMPY" and len(data) > 12, f"{path} is not a .npy file")
    start, width = (10, "<H") if data[6] == 1 else (12, "<I")
    try:
        end = start + struct.unpack(width, data[8:start])[0]
        header = ast.literal_eval(data[start:end].decode())
        shape, order, code = header["shape"], header["descr"][0], CODES[header["descr"][1:]]
        form = f"{'>' if order == '>' else '<'}{math.prod(shape)}{code}"
        raw = struct.unpack(form, data[end:])
    except (ValueError, KeyError, TypeError, SyntaxError, struct.error) as error:
        raise Refused(f"{path} is damaged or holds no plain real numbers ({error})") from None
    values = [float(value) + 0.0 for value in raw]  # −0.0 becomes 0.0
    exact = all(map(math.isfinite, values)) and list(raw) == values
    _require(exact, f"{path} holds a NaN, an infinity or an integer that float64 cannot hold")
    if header["fortran_order"] and len(shape) == 2:
        values = [values[i + k * shape[0]] for i in range(shape[0]) for k in range(shape[1])]
    return shape, values


def _log(a: int, b: int) -> tuple[int, int]:
    """(value, error) of log(a/b) for positive integers, as e log 2 + 2 artanh((x−1)/(x+1))."""
    if a == b:
        return 0, 0
    e, value = a.bit_length() - b.bit_length(), 0
    x = (a << BITS) // (b << e) if e >= 0 else (a << (BITS - e)) // b  # a/b 2^-e, in (1/2, 2)
    for times, y in ((1, ((x - ONE) << BITS) // (x + ONE)), (e, ONE // 3)):
        total, power, k = 0, y, 1
        while power not in (0, -1):  # under BITS terms, each off by under 3 units
            total, power, k = total + power // k, (power * (y * y >> BITS)) >> BITS, k + 2
        value += 2 * times * total
    return value, (abs(e) + 1) << 12


def _log_sum_exp_above(exponents: Counter[Fraction]) -> int:
    """An upper end of log Σ e^u: e^u = E e^δ <= E (1 + δ + δ²) for δ = u − log E <= 1."""
    total = Fraction(0)
    for u, count in exponents.items():
        guess = Fraction(math.exp(min(max(float(u), -700.0), 700.0)))
        value, error = _log(guess.numerator, guess.denominator)
        delta = max(Fraction(math.ceil(u * ONE) - value + error, ONE), Fraction(-1))
        _require(delta <= 1, "the tilt is too large to be used")
        total += count * guess * (1 + delta + delta * delta)
    return sum(_log(total.numerator, total.denominator))


def _dot(a: Any, b: Any) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _interval(pair: list[str], name: str, value: Fraction | float | None = None) -> Any:
    low, high = map(float.fromhex, pair)
    _require(low <= high, f"the interval of the {name} is empty")
    _require(value is None or low <= value <= high, f"the {name} is outside its interval")
    return low, high


def verify(cert: Any, shape: tuple[int, ...], keys: list[float], query: list[float]) -> list[str]:
    """What is proved of this input, in words.

    Raises:
        Refused: something is not; the message says what.
    """
    _require(cert["format"] == "vashista-theory certificate 1", "it has an unknown format")
    n, d, outcome = cert["keys"], cert["dimension"], cert["outcome"]
    _require(shape == (n, d) and len(query) == d and n > 0 < d, f"it is for keys of ({n}, {d})")
    packed = struct.pack("<QQ", n, d) + struct.pack(f"<{n * d + d}d", *keys, *query)
    _require(hashlib.sha256(packed).hexdigest() == cert["sha256"], "it is for other inputs (hash)")
    # Every number as an integer in one unit, a power of two.
    ratios = [value.as_integer_ratio() for value in keys + query]
    top = max(below.bit_length() for _, below in ratios)
    whole = [above << (top - below.bit_length()) for above, below in ratios]
    unit, origin = Fraction(1, 1 << (top - 1)), whole[n * d :]
    cut = (whole[i : i + d] for i in range(0, n * d, d))
    rows = [[x - o for x, o in zip(row, origin, strict=True)] for row in cut]
    face, support = cert["face"], cert["support"]
    weights, total = [int(w, 16) for w in cert["weights"]], int(cert["denominator"], 16)
    for keys_of in (face, support):
        rising = all(a < b for a, b in zip([-1, *keys_of], [*keys_of, n], strict=True))
        _require(keys_of and rising, "a list of keys does not rise within 0 to n − 1")
    positive = len(weights) == len(support) and min(weights) > 0
    _require(positive and sum(weights) == total, "the weights are not positive or not of sum 1")
    _require(set(support) <= set(face), "a key off the face has weight")
    step = [_dot(weights, column) for column in zip(*(rows[j] for j in support), strict=True)]
    squared, inside = Fraction(0), outcome == "inside_hull"
    if inside:
        _require(not any(step), "the weights do not give the query")
        _require(len(face) == n and cert["gap"] is None, "inside there is no gap, and all is face")
    else:
        _require(any(step), "the query is inside the hull")
        products, on_face = [_dot(step, row) for row in rows], set(face)
        level = products[face[0]]
        _require(all(products[j] == level for j in face), "a key of the face has a multiplier")
        off = [product for i, product in enumerate(products) if i not in on_face]
        _require(all(p > level for p in off), "a key off the face has no positive multiplier")
        gap = Fraction(min(off) - level, total) * unit**2 if off else math.inf
        _interval(cert["gap"], "gap", gap)
        squared = Fraction(level, total) * unit**2
    if outcome == "degenerate_face":
        margin, carrying = [int(y, 16) for y in cert["margin"]], set(support)
        heights = {j: _dot(margin, rows[j]) for j in face}
        least, rest = heights[support[0]], [heights[j] for j in face if j not in carrying]
        _require(all(heights[j] == least for j in support), "the margin tilts the support")
        _require(rest and min(rest) > least, "the margin does not separate")
    elif not inside:
        _require(outcome == "successful", "it has an unknown outcome")
        _require(support == face, "a key of the face has no weight: no strict complementarity")
    low, high = _interval(cert["residual_norm"], "residual norm")
    held = low >= 0 and Fraction(low) ** 2 <= squared <= Fraction(high) ** 2
    _require(held, "the residual norm is outside its interval")
    for o, s, pair in zip(origin, step, cert["point"], strict=True):
        _interval(pair, "point", Fraction(o * total + s, total) * unit)
    lower = sum(w * (value - err) for w in weights for value, err in [_log(total, w)])
    low, high = _interval(cert["entropy"], "entropy")
    tilt = [Fraction(float.fromhex(t)) * unit for t in cert["tilt"]]
    at_point = _dot(tilt, step) / Fraction(total)
    used = rows if inside else [rows[j] for j in support]
    upper = _log_sum_exp_above(Counter(_dot(tilt, row) - at_point for row in used))
    held = low <= Fraction(lower, total << BITS) and Fraction(upper, ONE) <= high
    _require(held, "the entropy is not proved within its interval")
    told = {"inside_hull": "query inside the hull", "successful": "face, strictly complementary"}
    tangent = cert["tangent"] if outcome == "successful" else None
    covered = tangent is not None and _check_tangent(tangent, used, weights, unit)
    return [
        f"{told.get(outcome, 'face, not strictly complementary')}: {len(face)} of {n} keys",
        "in their intervals: gap, residual norm, point, entropy" + ", tangent" * covered,
        *(["not covered: tangent"] * (not covered)),
    ]


def _check_tangent(pairs: Any, rows: Any, weights: list[int], unit: Fraction) -> bool:
    """Whether the rows are independent; then w₀ = Σ_j b_j X_j, with b the logs, G X = the edges."""
    mass: Counter[tuple[int, ...]] = Counter()
    for row, weight in zip(rows, weights, strict=True):
        mass[tuple(row)] += weight
    copies, ((first, m0), *others) = Counter(map(tuple, rows)), mass.items()
    logs = [_log(m * copies[first], m0 * copies[row]) for row, m in others]
    edges = [[x - o for x, o in zip(row, first, strict=True)] for row, _ in others]
    work, last = [[*(_dot(a, b) for b in edges), *a] for a in edges], 1
    for k, line in enumerate(work):  # Gauss-Jordan without fractions (Bareiss): divisions are exact
        if (pivot := line[k]) == 0:
            return False
        for i in set(range(len(work))) - {k}:
            f = work[i][k]
            work[i] = [(pivot * x - f * y) // last for x, y in zip(work[i], line, strict=True)]
        last = pivot
    below = (last << BITS) * unit
    for k, pair in enumerate(pairs):
        terms = [(line[len(work) + k], *b) for line, b in zip(work, logs, strict=True)]
        value, error = sum(x * v for x, v, _ in terms), sum(abs(x) * e for x, _, e in terms)
        for end in ((value - error) / below, (value + error) / below):
            _interval(pair, "tangent", end)
    return True


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    if len(arguments) != 3:
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        certificate = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
        (shape, keys), (_, query) = map(_read_npy, arguments[1:])
        print("\n".join(["accepted", *verify(certificate, shape, keys, query)]))
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except Refused as reason:
        print(f"refused: {reason}.", file=sys.stderr)
        return 1
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        print(f"refused: {arguments[0]} is damaged or no certificate ({what}).", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
