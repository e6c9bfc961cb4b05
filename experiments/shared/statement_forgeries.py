"""What a certificate says, forged an entry at a time."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.shared import tampering

Content = dict[str, Any]
Rng = np.random.Generator

_PAIRS = ("gap", "residual_norm", "entropy")
_LISTS = ("face", "support", "weights", "margin", "gap", "residual_norm", "point", "entropy")
_LISTS += ("tilt", "tangent")


def _pairs(content: Content) -> list[list[str]]:
    found = [content[name] for name in _PAIRS if content[name]]
    return found + content["point"] + (content["tangent"] or [])


def draw(choices: Any, rng: Rng) -> Any:
    """One of several, each as likely."""
    return choices[int(rng.integers(len(choices)))]


def _an_ulp(content: Content, rng: Rng) -> None:
    pair, end = draw(_pairs(content), rng), int(rng.integers(2))
    value = float.fromhex(pair[end])
    pair[end] = math.nextafter(value, draw((-math.inf, math.inf), rng)).hex()


def an_interval(content: Content, rng: Rng) -> None:
    """An interval turned round, widened, moved or emptied."""
    pair = draw(_pairs(content), rng)
    low, high = map(float.fromhex, pair)
    width = float(rng.choice([1e-300, 1e-12, 1.0, 1e300]))
    pair[:] = [
        value.hex()
        for value in draw(
            [
                (high, low),
                (low, -high),
                (-high, -low),
                (low, math.nan),
                (math.nan, high),
                (low - width, high + width),
                (low + width, high + width),
                (0.0, high),
                (low, math.inf),
                (-math.inf, high),
                (math.inf, -math.inf),
                (math.inf, math.inf),
            ],
            rng,
        )
    ]


def _a_list(content: Content, rng: Rng) -> None:
    name = draw([name for name in _LISTS if content[name]], rng)
    given = content[name]
    place = int(rng.integers(len(given)))
    other = given[int(rng.integers(len(given)))]
    content[name] = draw(
        [
            given[:place],
            given[:place] + given[place + 1 :],
            [*given, other],
            [other, *given],
            given * 2,
            given[::-1],
            [given[i] for i in rng.permutation(len(given))],
            [],
            None,
            [given],
            {str(i): entry for i, entry in enumerate(given)},
        ],
        rng,
    )


def _a_key_number(content: Content, rng: Rng) -> None:
    given = content[draw(("face", "support"), rng)]
    n = content["keys"]
    new = draw([-1, -n, n, n + 1, 2**31, -(2**63), 10**30, given[0], True, 0.0, "0", None], rng)
    given[int(rng.integers(len(given)))] = new


_ODD = (None, True, False, 0, 1, -1, 2.0, 0.5, 1e400, "", "0x1", "one", [], {}, [[]], [None])


def _a_type(content: Content, rng: Rng) -> None:
    name = draw(sorted(content), rng)
    value = content[name]
    odd = copy.deepcopy(draw(_ODD, rng))
    if isinstance(value, list) and value and rng.integers(2):
        place = int(rng.integers(len(value)))
        if isinstance(value[place], list) and rng.integers(2):
            value[place][int(rng.integers(2))] = odd
        else:
            value[place] = odd
    else:
        content[name] = odd


def _spelled(content: Content, rng: Rng) -> None:
    """A number in another spelling: of the same or another value, to a careless reader."""
    if rng.integers(2):
        given = content["weights"]
        place = int(rng.integers(len(given)))
        digits = given[place].removeprefix("0x")
        spellings = [f"0X{digits}", digits, f" 0x{digits}", f"0x_{digits}", f"0x0{digits}"]
        spellings += [f"+0x{digits}", f"-0x{digits}", f"0x{digits}\n", f"0x{digits.upper()}.0"]
        spellings += ["0x" + digits.translate({48 + k: 0xFF10 + k for k in range(10)})]
        given[place] = draw(spellings, rng)
        return
    pair = draw(_pairs(content), rng)
    end = int(rng.integers(2))
    value = float.fromhex(pair[end])
    spellings = ["nan", "-nan", "inf", "-inf", "1e5", repr(value), f" {pair[end]}", "0x1p99999"]
    spellings += [pair[end].replace("0x", "0X"), pair[end].replace("p", "0p"), str(int(1e9))]
    pair[end] = draw(spellings, rng)


def _scaled_weights(content: Content, rng: Rng) -> None:
    factor = int(draw([-1, 0, 2, 3, 16**60, 16**70_000], rng))
    for name in ("weights", "denominator") if rng.integers(2) else ("weights",):
        given = content[name]
        scaled = [hex(int(w, 16) * factor) for w in ([given] if name == "denominator" else given)]
        content[name] = scaled if name == "weights" else scaled[0]


def _other_weights(content: Content, rng: Rng) -> None:
    drawn = [int(w) for w in rng.integers(1, 1000, size=len(content["weights"]))]
    if rng.integers(3) == 0:  # as many digits as are read, nothing in common, one next to nothing
        drawn = [int.from_bytes(rng.bytes(30_000), "big") | 1 for _ in drawn]
        drawn[0] = draw([1, drawn[0]], rng)
    content["weights"], content["denominator"] = [hex(w) for w in drawn], hex(sum(drawn))


def _outcome(content: Content, rng: Rng) -> None:
    content["outcome"] = draw(
        ["successful", "degenerate_face", "inside_hull", "ambiguous_face", "Successful", "", 1], rng
    )
    for name, value in (("margin", None), ("tangent", None), ("gap", None)):
        if rng.integers(2):
            content[name] = value


def _margin(content: Content, rng: Rng) -> None:
    d = content["dimension"]
    content["margin"] = [hex(int(y)) for y in rng.integers(-2, 3, size=d)]


def _tilt(content: Content, rng: Rng) -> None:
    scale = float(rng.choice([0.0, 1e-9, 1.0, 1e6, 1e300]))
    content["tilt"] = [float(t).hex() for t in scale * rng.normal(size=content["dimension"])]


def _size(content: Content, rng: Rng) -> None:
    name = draw(("keys", "dimension"), rng)
    content[name] = draw(
        [content[name] + 1, 0, -1, 10**9, 10**4000, True, float(content[name])], rng
    )


def _names(content: Content, rng: Rng) -> None:
    name = draw(sorted(content), rng)
    value = content.pop(name)
    new = draw([None, name.upper(), f"{name} ", f"{name}_lower", "gap_upper"], rng)
    if new is not None:
        content[new] = value
    if rng.integers(2):
        content[name] = value


CHANGES: dict[str, Callable[[Content, Rng], None]] = {
    **{f"statement: {name}": change for name, change in tampering.CHANGES.items()},
    "an end moved by an ulp": _an_ulp,
    "an interval turned, widened or moved": an_interval,
    "a list cut, lengthened or permuted": _a_list,
    "a key number that is none": _a_key_number,
    "a wrong type": _a_type,
    "another spelling of a number": _spelled,
    "weights scaled": _scaled_weights,
    "other weights": _other_weights,
    "another outcome": _outcome,
    "another margin": _margin,
    "another tilt": _tilt,
    "another size": _size,
    "names missing, added or changed": _names,
}
