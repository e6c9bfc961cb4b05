"""From answers to rows: each reader beside dense attention, and each press beside drawn tokens."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr

from experiments.framework.outcome import Cell, Measured
from experiments.peers.ours import DENSE, DRAWN
from experiments.peers.readers import CONTROL
from experiments.shared import paired

OWN = (DENSE, "sampled", "budget", "oracle-pages", CONTROL)
# Nats. Two softmaxes of float32 that add up in different orders differ by rounding: the logits by
# about 1e-4, of which KL is the square.
ROUNDING = 1e-5


def measured(lengths: list[xr.Dataset], values: Mapping[str, Cell]) -> Measured:
    """The tables of the answers at each length."""
    controls = [float(_of(one, CONTROL, 0)["divergence"].max()) for one in lengths]
    failures = [
        f"kvpress's way of reading is {worst:.1e} nats from dense with nothing pressed, above "
        f"{ROUNDING:.0e}: the two do not read the same prompt"
        for worst in controls
        if not worst <= ROUNDING
    ]
    tables = {
        "answers": [row for one in lengths for row in _answers(one)],
        "beside": [row for one in lengths for row in _beside(one)],
    }
    return Measured(tables, {"control": max(controls), **values}, failures)


def _answers(found: xr.Dataset) -> Iterator[dict[str, Any]]:
    dense = _of(found, DENSE, 0)
    for number in range(found.sizes["reader"]):
        one = found.isel(reader=number)
        name = str(one["name"].values)
        if name == CONTROL:
            continue
        ran = one["exact"].values >= 0
        row = _place(one) | {
            "chooses": str(one["chooses"].values),
            "prompts": int(ran.sum()),
            "failed": int((~ran).sum()),
        }
        if ran.any():
            change = _shares(one, ran) - _shares(dense, ran)
            low, high = paired.interval(change)
            row |= {
                "exact": float(_shares(one, ran).mean()),
                "chosen": float(one["chosen"].values[ran].mean()),
                "difference": float(change.mean()),
                "difference_low": low,
                "difference_high": high,
            }
            row |= {
                column: float(one[column].values[ran].mean())
                for column in ("divergence", "kept", "tokens", "bytes", "held")
            }
        yield row


def _beside(found: xr.Dataset) -> Iterator[dict[str, Any]]:
    """Presses beside drawn tokens of the same number, prompt by prompt."""
    for number in range(found.sizes["reader"]):
        one = found.isel(reader=number)
        if str(one["name"].values) in OWN:
            continue
        drawn = _of(found, DRAWN, int(one["budget"]))
        ran = one["exact"].values >= 0
        if not ran.any():
            continue
        change = _shares(one, ran) - _shares(drawn, ran)
        low, high = paired.interval(change)
        kl = [float(each["divergence"].values[ran].mean()) for each in (one, drawn)]
        yield _place(one) | {
            "chooses": str(one["chooses"].values),
            "prompts": int(ran.sum()),
            "difference": float(change.mean()),
            "difference_low": low,
            "difference_high": high,
            "lost": int((change < 0).sum()),
            "gained": int((change > 0).sum()),
            "divergence": kl[0],
            "drawn_divergence": kl[1],
            "bytes": float(np.mean(one["bytes"].values[ran]) / np.mean(drawn["bytes"].values[ran])),
            "held": float(np.mean(one["held"].values[ran]) / np.mean(drawn["held"].values[ran])),
        }


def _place(one: xr.Dataset) -> dict[str, Any]:
    return {
        "context": int(one["context"].values[0]),
        "budget": int(one["budget"].values),
        "read": str(one["name"].values),
    }


def _of(found: xr.Dataset, name: str, budget: int) -> xr.Dataset:
    here = (found["name"].values == name) & (found["budget"].values == budget)
    return found.isel(reader=int(np.flatnonzero(here)[0]))


def _shares(one: xr.Dataset, ran: np.ndarray) -> np.ndarray:
    return one["exact"].values[ran].astype(float)
