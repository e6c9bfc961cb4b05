"""Figures are drawn from what a dataset holds, and only from that."""

from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr

import vashista_theory as vt
from vashista_theory import plots

KINDS = ("grid",) * 28 + ("model", "published")


def _dataset() -> xr.Dataset:
    """Made-up numbers that obey the laws; no solver is involved."""
    families = ["gaussian", "gaussian", "heads"] + ["degenerate"] * 2 + ["near_degenerate"] * 4
    size = len(families)
    gap = np.array([0.5, 0.4, 0.8, 0.5, 0.5, 1.0, 1.0, 1e-4, 1e-4])
    degenerate = np.array([family == "degenerate" for family in families])
    epsilon = np.tile(np.geomspace(1e2, 1e-7, 28), (size, 1))
    epsilon = np.concatenate([epsilon, np.full((size, 2), np.nan)], axis=1)
    asymptote = -1.0 - gap[:, None] / epsilon
    log_moved = np.log(np.where(degenerate[:, None], epsilon * np.log(2e2 / epsilon), epsilon))
    path, one = ("instance", "temperature"), "instance"
    return xr.Dataset(
        {
            "n": (one, np.full(size, 64)),
            "d": (one, np.full(size, 8)),
            "face_size": (one, np.full(size, 4)),
            "gap": (one, gap),
            "scale": (one, np.full(size, 10.0)),
            "degenerate": (one, degenerate),
            "tangent_norm": (one, np.where(degenerate, np.nan, 1.0)),
            "degeneracy_distance": (one, np.where(degenerate, 1.0, np.nan)),
            "log_constant": (one, np.where(degenerate, np.nan, -1.0)),
            "min_weight": (one, np.array([0.1, 0.1, 0.1, 0.2, 0.2, 0.1, 1e-3, 0.1, 1e-3])),
            "epsilon": (path, epsilon),
            "log_off_face_mass": (path, asymptote + 0.2),
            "log_asymptote": (path, asymptote),
            "log_leakage_t3": (path, asymptote + 1),
            "log_displacement": (path, log_moved),
            "log_displacement_t2": (path, log_moved + 0.5),
            "log_displacement_bootstrap": (path, log_moved + 1),
        },
        coords={"family": (one, families), "kind": ("temperature", list(KINDS))},
    )


def test_every_figure_is_written(tmp_path: Path) -> None:
    written = plots.save_all(_dataset(), tmp_path / "figures")
    assert {path.name for path in written} == {
        f"{name}.{kind}" for name in plots.DRAWINGS for kind in ("png", "pdf")
    }
    for path in written:
        # An empty pair of axes is some 5 kB.
        assert path.stat().st_size > 8_000, path
        assert path.read_bytes()[:4] in (b"\x89PNG", b"%PDF")


def test_only_what_the_data_hold(tmp_path: Path) -> None:
    data = _dataset().isel(instance=[0])
    assert {path.stem for path in plots.save_all(data, tmp_path)} == {"leakage", "displacement"}
    for drawing in (plots.degenerate_law, plots.regime_map):
        with pytest.raises(plots.NothingToDrawError, match="degenerate"):
            drawing(data)


def test_the_map_shows_the_ratio() -> None:
    figure = plots.regime_map(_dataset())
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown.count("$10^{+0.1}$") == 4  # e^0.2 = 10^0.087, as made up above


def test_lines_are_the_data() -> None:
    figure = plots.displacement(_dataset())
    heights = [line.get_ydata() for line in figure.axes[1].lines if len(line.get_ydata()) == 28]
    # Displacement was made ε‖w₀‖ exactly, and the smaller of its bounds e^½ above it.
    assert sum(np.allclose(height, 1.0) for height in heights) == 2
    assert sum(np.allclose(height, np.exp(0.5)) for height in heights) == 2


def test_style_is_left_alone() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plots.leakage(_dataset())
    assert dict(mpl.rcParams) == before


def test_readable_width() -> None:
    for drawing in plots.DRAWINGS.values():
        figure = drawing(_dataset())
        assert figure.get_size_inches()[0] == plots.COLUMN
        sizes = [text.get_fontsize() for axes in figure.axes for text in axes.texts]
        assert min(sizes, default=8) >= 6  # points, in print


def test_float64_is_refused_or_kept_where_jax_would_round_it() -> None:
    """What docs/questions.md says of 64-bit mode, of all that takes keys and a query."""
    rng = np.random.default_rng(0)
    keys, query = rng.normal(size=(40, 6)), 3.0 * rng.normal(size=6)
    tokens = keys[None, None]
    with jax.enable_x64(False):
        short = vt.attention.PagedKV.from_tokens(*2 * [tokens.astype(np.float32)])
        for refuses in (
            lambda: vt.project(keys, query),
            lambda: vt.project_many(keys[None], query[None]),
            lambda: vt.attention.PagedKV.from_tokens(tokens, tokens),
            lambda: vt.attention.dense_attention(query[None, None], tokens, tokens),
            lambda: short.append(tokens[:, :, 0], tokens[:, :, 0]),
        ):
            with pytest.raises(ValueError, match=r"float64"):
                refuses()
        figure = plots.leakage_of(keys, query)
        kept = vt.oracle.project_qp(keys, query).point
    lines = {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}
    projection = vt.project(keys, query)
    ratio, mass = lines["measured"][20]
    exact = vt.relax(projection, float(projection.gap) / ratio)
    # In float32 this is off by 1e-6 and more.
    assert mass == pytest.approx(float(exact.log_off_face_mass), rel=1e-9)
    assert kept.dtype == np.float64


def test_leakage_of_ones_own_hull_is_that_of_relax() -> None:
    rng = np.random.default_rng(0)
    keys, query = rng.normal(size=(40, 6)), 3.0 * rng.normal(size=6)
    projection = vt.project(keys, query)
    figure = plots.leakage_of(keys, query, scale=2.0)
    lines = {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}
    ratio, mass = lines["measured"][20]
    found = vt.relax(projection, float(projection.gap) / ratio)
    # A path of temperatures is solved to the residual of one.
    assert mass == pytest.approx(float(found.log_off_face_mass), rel=1e-9)
    assert np.all(lines["measured"][:, 1] <= lines["bound T3"][:, 1] + 1e-9)
    assert lines["the model's ε"][0, 0] == pytest.approx(2.0 * float(projection.gap), rel=1e-12)
    with pytest.raises(plots.NothingToDrawError, match="in the hull"):
        plots.leakage_of(np.eye(3) - 1 / 3, np.zeros(3))
