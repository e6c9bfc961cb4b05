"""Certificates as files. `vashista_theory/check.py` documents the format and reads it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from vashista_theory import check
from vashista_theory._files import write_atomically
from vashista_theory.hull.rigorous.balls import Enclosure, ceil_float, flint
from vashista_theory.hull.rigorous.certificate import Certificate


def save(certificate: Certificate, path: Path) -> None:
    """Write what the checker accepts, whole or not at all; no link is followed.

    Raises:
        ValueError: nothing is proved, or the checker would refuse it.
        OSError: the file cannot be written.
    """
    write_atomically(path, _accepted(certificate))


def _accepted(certificate: Certificate) -> str:
    """The text of the file, after the checker has read it."""
    keys, query = ((a + 0.0).ravel().tolist() for a in (certificate.keys, certificate.query))
    stated, refusal = content(certificate), ""
    # At the ends of the float range a tilt in float64 proves no entropy to the last place. The
    # entropy of weights on so many keys is proved without one, between 0 and their logarithm.
    widest = Enclosure(0.0, ceil_float(flint.arb(len(stated["support"])).log()))
    untilted = {"entropy": _interval(widest), "tilt": [(0.0).hex()] * certificate.keys.shape[1]}
    for attempt in (stated, stated | untilted):
        text = json.dumps(attempt, indent=1) + "\n"
        try:
            check.verify(check.read_certificate(text.encode()), keys, query)
        except check.Refused as error:
            refusal = str(error)
        else:
            return text
    raise ValueError(
        f"nothing to save: the checker would not accept it ({refusal}). A certificate file holds a "
        "proof that can be checked, or nothing."
    )


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
        "format": check.FORMAT,
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
