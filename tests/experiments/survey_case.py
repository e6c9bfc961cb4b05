"""A survey that nobody measured, whose answers are known."""

import numpy as np
import xarray as xr

from experiments.head_survey import measure as head_survey


def made_up(seed: int = 0) -> xr.Dataset:
    """A survey whose Δ/ε tells unsafe reads apart exactly, and whose score gap knows nothing."""
    config = head_survey.Config(text=("a", "b"), contexts=(512, 1024), segments=1, queries=2)
    model = type("Model", (), {"layers": 3, "heads": 4})()
    plan = [(t, 0, c) for c in config.contexts for t in config.text]
    dataset = head_survey._template(config, model, plan)
    rng = np.random.default_rng(seed)
    for variable in dataset.data_vars.values():
        variable.values[...] = rng.uniform(1, 2, variable.shape)
    dropped = rng.uniform(0, 0.1, dataset["read_dropped"].shape)
    dataset["read_dropped"].values[...] = dropped
    dataset["read_bound"].values[...] = dropped + 0.01
    dataset["hull_gap_ratio"].values[...] = 1 - dropped[..., -1]
    for name in ("hull_failed", "hull_inside"):
        dataset[name].values[...] = 0
    dataset["score_gap"].values[...] = 1.0
    # 90 % of the mass: 10 tokens, then 20 at twice the length: exponent 1.
    dataset["tokens"].values[..., 1] = 10 * dataset["context"].values[:, None, None, None] / 512
    return dataset
