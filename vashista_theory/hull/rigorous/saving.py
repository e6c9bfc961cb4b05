"""Certificates as files. `vashista_theory/check.py` documents the format and reads it."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from vashista_theory.hull.rigorous.balls import Enclosure, flint
from vashista_theory.hull.rigorous.certificate import Certificate

FORMAT = "vashista-theory certificate 1"


def save(certificate: Certificate, path: Path) -> None:
    """Write atomically: a reader sees the old file or the whole new one."""
    text = json.dumps(content(certificate), indent=1) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        why = error.strerror or str(error)
        raise type(error)(
            error.errno,
            f"cannot write the certificate ({why}); choose a path in a folder that can be written",
            str(path),
        ) from None


def content(certificate: Certificate) -> dict[str, Any]:
    """What the file holds: integers in hexadecimal, floats as `float.hex` writes them.

    Raises:
        ValueError: nothing is proved, so there is nothing to certify.
    """
    witness = certificate.witness
    if witness is None or not certificate.proved:
        raise ValueError(
            f"nothing to save: {certificate.reason} A certificate file holds a proof or nothing."
        )
    common = flint.fmpz(1)
    for weight in witness.weights.values():
        common = common.lcm(weight.q)
    order = sorted(witness.weights)
    inside = certificate.outcome == "inside_hull"
    strict = certificate.outcome == "successful"
    return {
        "format": FORMAT,
        "keys": certificate.keys.shape[0],
        "dimension": certificate.keys.shape[1],
        "sha256": witness.sha256,
        "outcome": certificate.outcome,
        "face": np.flatnonzero(certificate.face).tolist(),
        "support": order,
        "weights": [hex(int((witness.weights[i] * common).p)) for i in order],
        "denominator": hex(int(common)),
        "margin": None if witness.margin is None else [hex(y) for y in witness.margin],
        "gap": None if inside else [certificate.gap_lower.hex(), certificate.gap_upper.hex()],
        "residual_norm": _interval(certificate.residual_norm),
        "point": _intervals(certificate.point),
        "entropy": _interval(certificate.entropy),
        "tilt": [value.hex() for value in witness.tilt],
        "tangent": _intervals(certificate.tangent)
        if strict and not np.isnan(certificate.tangent.lower).any()
        else None,
    }


def _interval(enclosure: Enclosure) -> list[str]:
    lower, upper = float(enclosure.lower), float(enclosure.upper)
    return [lower.hex(), upper.hex()]


def _intervals(enclosure: Enclosure) -> list[list[str]]:
    pairs = zip(enclosure.lower.tolist(), enclosure.upper.tolist(), strict=True)
    return [[low.hex(), high.hex()] for low, high in pairs]
