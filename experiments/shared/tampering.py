"""Certificates and inputs changed on purpose, one statement at a time."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np

Content = dict[str, Any]


def _weight(content: Content, rng: np.random.Generator) -> None:
    place = rng.integers(len(content["weights"]))
    content["weights"][place] = hex(int(content["weights"][place], 16) + 1)


def _two_weights(content: Content, rng: np.random.Generator) -> None:
    """The sum stays 1; with a single weight, its denominator changes."""
    weights = content["weights"]
    if len(weights) == 1:
        content["denominator"] = hex(int(content["denominator"], 16) + 1)
        return
    one, other = rng.choice(len(weights), 2, replace=False)
    step = 1 + int(weights[one], 16) // 1000
    weights[one] = hex(int(weights[one], 16) + step)
    weights[other] = hex(int(weights[other], 16) - step)


def _face_less(content: Content, rng: np.random.Generator) -> None:
    content["face"].pop(rng.integers(len(content["face"])))


def _face_more(content: Content, rng: np.random.Generator) -> None:
    off = sorted(set(range(content["keys"])) - set(content["face"]))
    if not off:
        _face_less(content, rng)
        return
    content["face"] = sorted([*content["face"], int(rng.choice(off))])


def _moved(pair: list[str], rng: np.random.Generator) -> list[str]:
    """An interval of the same kind just beside the true one, by one unit in the last place."""
    low, high = map(float.fromhex, pair)
    if math.isinf(low):
        return [(1.0).hex(), (2.0).hex()]
    if rng.integers(2):
        start = math.nextafter(high, math.inf)
        return [start.hex(), (start * (1 + 1e-9)).hex()]
    end = math.nextafter(low, -math.inf)
    return [(end * (1 - 1e-9)).hex(), end.hex()]


def _gap(content: Content, rng: np.random.Generator) -> None:
    inside = content["gap"] is None
    content["gap"] = [(0.5).hex(), (1.0).hex()] if inside else _moved(content["gap"], rng)


def _residual(content: Content, rng: np.random.Generator) -> None:
    low, high = map(float.fromhex, content["residual_norm"])
    start = math.nextafter(high, math.inf)
    content["residual_norm"] = [start.hex(), (2 * start + low).hex()]
    del rng


def _point(content: Content, rng: np.random.Generator) -> None:
    place = rng.integers(content["dimension"])
    high = float.fromhex(content["point"][place][1])
    start = math.nextafter(high, math.inf)
    content["point"][place] = [start.hex(), (start + abs(start)).hex()]


def _entropy(content: Content, rng: np.random.Generator) -> None:
    low, high = map(float.fromhex, content["entropy"])
    start = math.nextafter(high, math.inf)
    content["entropy"] = [(start + 1e-12).hex(), (start + 1.0 + low).hex()]
    del rng


def _outcome(content: Content, rng: np.random.Generator) -> None:
    others = {"successful", "degenerate_face", "inside_hull"} - {content["outcome"]}
    content["outcome"] = sorted(others)[rng.integers(2)]


def _hash(content: Content, rng: np.random.Generator) -> None:
    place = int(rng.integers(64))
    digit = content["sha256"][place]
    other = "0" if digit != "0" else "1"
    content["sha256"] = content["sha256"][:place] + other + content["sha256"][place + 1 :]


CHANGES: dict[str, Callable[[Content, np.random.Generator], None]] = {
    "a weight": _weight,
    "two weights": _two_weights,
    "the face, a key less": _face_less,
    "the face, a key more": _face_more,
    "the gap": _gap,
    "the residual norm": _residual,
    "the point": _point,
    "the entropy": _entropy,
    "the outcome": _outcome,
    "the hash": _hash,
}
INPUTS = ("a key", "the query")


def tampered(kind: str, content: Content, rng: np.random.Generator) -> Content:
    """The certificate with one statement changed."""
    changed = copy.deepcopy(content)
    CHANGES[kind](changed, rng)
    return changed


def nudged(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One number of an input moved by one unit in its last place."""
    changed = array.copy()
    place = rng.integers(changed.size)
    changed.flat[place] = np.nextafter(changed.flat[place], np.inf)
    return changed
