"""Check a certificate by exact arithmetic with the standard library alone.

  python -m vashista_theory.check CERTIFICATE KEYS.npy QUERY.npy    (or this file alone, anywhere)

Exit code: 0 accepted, 1 refused (one line says why), 2 for bad use. Keys k_i, query q and the
certificate's floats are the exact binary numbers they are. With x_i = k_i − q and P = Σ w_j x_j for
its positive "weights" w of sum 1 (hexadecimal, over "denominator", for the keys in "support"):

* P = 0 proves the query inside the hull. Otherwise ⟨P, x_i⟩ must be equal on the "face", larger
  elsewhere: p* = q + P, ‖r*‖ = ‖P‖, the face is F and Δ the least excess; "gap", "residual_norm"
  and "point", pairs of `float.hex`, must enclose them. "successful": the whole face has weight.
  "degenerate_face": for the "margin" y, ⟨y, x_j⟩ is equal on the support, larger on F's rest.
* "entropy": h is not below −Σ w_j log w_j, and not above log Σ e^{⟨t, k_j − p*⟩} over the support,
  t the "tilt" (inside: log n). "tangent": ⟨w₀, k_j − k_0⟩ = log w_j − log w_0, if distinct keys of
  the face are affinely independent; otherwise reported as not covered.
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


class Refused(ValueError):  # noqa: N818
    """The certificate does not prove what it says about this input."""


def _require(condition: object, reason: str) -> None:
    if not condition:
        raise Refused(reason)


def _read_npy(path: str) -> tuple[tuple[int, ...], list[float]]:
    """Shape and values in C order."""
    data = Path(path).read_bytes()
    _require(data[:6] == b"\x93NUMPY" and len(data) > 12, f"{path} is not a .npy file")
    try:
        end = data.index(b"\n", 10) + 1
        header = ast.literal_eval(data[10 if data[6] == 1 else 12 : end].decode())
        shape, order, code = header["shape"], header["descr"][0], CODES[header["descr"][1:]]
        raw = struct.unpack(f"{order.replace('|', '<')}{math.prod(shape)}{code}", data[end:])
    except (ValueError, KeyError, TypeError, SyntaxError, struct.error) as error:
        raise Refused(f"{path} is damaged or holds no plain real numbers ({error})") from None
    values = [float(value) + 0.0 for value in raw]  # −0.0 becomes 0.0
    _require(list(raw) == values, f"{path} holds a NaN or an integer that float64 cannot hold")
    if header["fortran_order"] and len(shape) == 2:
        values = [values[i + k * shape[0]] for i in range(shape[0]) for k in range(shape[1])]
    return shape, values


def _log(a: int, b: int) -> tuple[int, int]:
    """(value, error) of log(a/b) for positive integers, as e log 2 + 2 artanh((x−1)/(x+1))."""
    e, value = a.bit_length() - b.bit_length(), 0
    x = (a << BITS) // (b << e) if e >= 0 else (a << (BITS - e)) // b  # a/b 2^-e, in (1/2, 2)
    for times, y in ((1, ((x - ONE) << BITS) // (x + ONE)), (e, ONE // 3)):
        total, power, k = 0, y, 1
        while power not in (0, -1):  # under BITS terms, each off by under 3 units
            total, power, k = total + power // k, (power * (y * y >> BITS)) >> BITS, k + 2
        value += 2 * times * total
    return value, (abs(e) + (a != b)) << 12


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


def _dot(a: Any, b: Any) -> Any:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _interval(pair: list[str], name: str, value: Fraction | float | None = None) -> Any:
    low, high = map(float.fromhex, pair)
    _require(value is None or low <= value <= high, f"the {name} is outside its interval")
    return low, high


def verify(cert: Any, shape: tuple[int, ...], keys: list[float], query: list[float]) -> str:
    """What is proved of this input, in words; raises `Refused` where something is not."""
    _require(cert["format"] == "vashista-theory certificate 1", "it has an unknown format")
    n, d, outcome = cert["keys"], cert["dimension"], cert["outcome"]
    _require(shape == (n, d) and len(query) == d and n > 0 < d, f"it is for keys of ({n}, {d})")
    packed = struct.pack("<QQ", n, d) + struct.pack(f"<{n * d + d}d", *keys, *query)
    _require(hashlib.sha256(packed).hexdigest() == cert["sha256"], "it is for other inputs (hash)")
    ratios = [value.as_integer_ratio() for value in keys + query]  # to integers, in one unit
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
    _require(min(weights) > 0, "a weight is not positive")
    _require(sum(weights) == total, "the weights do not sum to 1")
    _require(set(support) <= set(face), "a key off the face has weight")
    step = [_dot(weights, column) for column in zip(*(rows[j] for j in support), strict=True)]
    squared, inside, strict = Fraction(0), outcome == "inside_hull", outcome == "successful"
    if inside:
        _require(not any(step) and len(face) == n and not cert["gap"], "it is not proved inside")
    else:
        _require(any(step), "the query is inside the hull")
        products, on_face = [_dot(step, row) for row in rows], set(face)
        level = products[face[0]]  # ‖P‖²
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
        _require(strict and support == face, "a key of the face has no weight, so it is not strict")
    low, high = _interval(cert["residual_norm"], "residual norm")
    held = low >= 0 and Fraction(low) ** 2 <= squared <= Fraction(high) ** 2
    _require(held, "the residual norm is outside its interval")
    for o, s, pair in zip(origin, step, cert["point"], strict=True):
        _interval(pair, "point", Fraction(o * total + s, total) * unit)
    lower = sum(w * (value - err) for w in weights for value, err in [_log(total, w)])
    low, high = _interval(cert["entropy"], "entropy")
    tilt = [Fraction(float.fromhex(t)) * unit for t in cert["tilt"]]
    at_point = _dot(tilt, step) / Fraction(total)
    used = [rows[j] for j in support]
    exponents = [Fraction(0)] * n if inside else [_dot(tilt, row) - at_point for row in used]
    upper = _log_sum_exp_above(Counter(exponents))
    held = low <= Fraction(lower, total << BITS) and Fraction(upper, ONE) <= high
    _require(held, "the entropy is not proved within its interval")
    covered = strict and cert["tangent"] and _check_tangent(cert["tangent"], used, weights, unit)
    told = f"{outcome}: {len(face)} of {n} keys on the face; gap, residual norm, point and entropy"
    return f"{told} within their intervals; tangent {'too' if covered else 'not covered'}"


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
        print("accepted:", verify(certificate, shape, keys, query))
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        damage = f"{arguments[0]} is damaged or no certificate ({type(error).__name__}: {error})"
        plain = isinstance(error, Refused | OSError)
        print(f"refused: {error if plain else damage}.", file=sys.stderr)
        return 2 if isinstance(error, OSError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
