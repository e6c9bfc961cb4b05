"""Tables of the predictions that drawn tokens keep, from divergences made by hand."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("xarray")

import xarray as xr

from experiments import sampled_text
from experiments.framework.outcome import Measured

TEXTS, POSITIONS = 2, 64


def predictions(kl: dict[str, float]) -> Measured:
    """Every policy off by so much at each position of two texts, the second twice as far."""
    shape = (TEXTS, len(kl), POSITIONS)
    each = np.array(list(kl.values()))[None, :, None] * np.array([1.0, 2.0])[:, None, None]
    dataset = xr.Dataset(
        {
            "divergence": (("instance", "policy", "position"), np.broadcast_to(each, shape)),
            "agrees": (("instance", "policy", "position"), np.ones(shape, np.int8)),
            "error": (("instance", "policy", "layer"), np.full((TEXTS, len(kl), 3), 0.25)),
        },
        coords={"policy": list(kl), "context": ("instance", [2048, 2048])},
    )
    return sampled_text.tabulated(dataset)


def test_means_and_pairs_by_hand() -> None:
    found = predictions({"dense": 0.0, "sampled@8": 0.01, "oracle-pages@8": 0.03})
    ours, pages = found.tables["divergence"]
    assert (ours["tokens"], ours["read"], pages["read"]) == (128, "sampled", "oracle-pages")
    np.testing.assert_allclose((ours["kl"], ours["low"], ours["high"]), (0.015, 0.01, 0.02))
    (pair,) = found.tables["paired"]
    numbers = [pair[name] for name in ("times", "times_low", "times_high", "better")]
    np.testing.assert_allclose(numbers, (3, 3, 3, 1))


def test_what_is_missed_and_who_is_better_is_said() -> None:
    found = predictions(
        {"sampled@8": 0.004, "oracle-tokens@8": 0.002, "sampled@16": 0.002, "oracle-tokens@16": 1.0}
    )
    said = " ".join(sampled_text.report(found).findings)
    assert "Of 2 aims 1 are met; missed: 256 tokens at 2,048 (0.003 where 0.0025" in said
    assert "oracle-tokens: 0.5 to 5e+02 times" in said
    assert "further off in 1 of 2 cells, closer in 1 (95 %)" in said


def test_what_is_asked_of_the_evaluation(tmp_path: Path) -> None:
    quick = sampled_text.Config(store=tmp_path, quick=True).asked()
    assert (quick.policy, quick.contexts) == (("dense", "sampled", "oracle-pages"), (512,))
    whole = sampled_text.Config(store=tmp_path).asked()
    assert whole.policy == ("dense", *sampled_text.KINDS)
    assert {16 * pages for pages in whole.pages} == set(sampled_text.AIMS)
    assert whole.tasks == ()
