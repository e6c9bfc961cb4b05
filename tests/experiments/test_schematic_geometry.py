"""The drawn geometry, with the plane's projection worked out by hand."""

import dataclasses

import numpy as np
import pytest

from experiments import schematic_geometry
from experiments.framework import results
from experiments.framework.outcome import Outcome


@pytest.fixture(scope="module")
def drawn() -> Outcome:
    config = schematic_geometry.Config(quick=True)
    found = schematic_geometry.measure(config)
    return schematic_geometry.report(dataclasses.replace(found, configuration=vars(config)))


def rows(drawn: Outcome, table: str, panel: str) -> list[dict]:
    return [dict(row) for row in drawn.tables[table].rows if row["panel"] == panel]


def test_the_plane_by_hand(drawn: Outcome) -> None:
    # Edge from (−1.5, 0.55) to (1.25, 1.1), query (−1.15, 1.75): along (2.75, 0.55) the foot of the
    # perpendicular is at (0.35 · 2.75 + 1.2 · 0.55)/(2.75² + 0.55²) = 1.6225/7.865 of the edge.
    share = 1.6225 / 7.865
    keys = rows(drawn, "keys", "2D")
    # A few sums of numbers near 1 in float64.
    close = {"abs": 1e-13}
    assert [row["on_face"] for row in keys] == [True, True, False, False, False, False]
    assert keys[1]["weight"] == pytest.approx(share, **close)
    point = rows(drawn, "points", "2D")[1]
    assert point["x"] == pytest.approx(-1.5 + 2.75 * share, **close)
    assert point["y"] == pytest.approx(0.55 + 0.55 * share, **close)
    # The line is 0.55 x − 2.75 y + 2.3375 = 0; key 2 is (1.95, 0.4).
    depth = (0.55 * 1.95 - 2.75 * 0.4 + 2.3375) / np.sqrt(7.865)
    residual = abs(0.55 * -1.15 - 2.75 * 1.75 + 2.3375) / np.sqrt(7.865)
    assert drawn.values["depth_2d"] == pytest.approx(depth, **close)
    assert drawn.values["residual_2d"] == pytest.approx(residual, **close)
    assert drawn.values["gap_2d"] == pytest.approx(depth * residual, **close)
    assert drawn.values["face_2d"] == 2


@pytest.mark.parametrize(("panel", "face"), [("2D", 2), ("3D", 3)])
def test_what_is_drawn_is_what_is_named(drawn: Outcome, panel: str, face: int) -> None:
    assert not drawn.failures
    assert sum(row["on_face"] for row in rows(drawn, "keys", panel)) == face
    (side,) = (row for row in rows(drawn, "hull", panel) if row["on_face"])
    assert sum(side.get(corner) is not None for corner in "abc") == face
    path = rows(drawn, "path", panel)
    assert sum(row["marked"] for row in path) == 4
    for name in ("displacement", "leakage"):
        assert np.all(np.diff([row[name] for row in path]) > 0), "both grow with the temperature"


def test_the_committed_result_is_one_of_it(drawn: Outcome) -> None:
    stored = results.outcome("schematic_geometry")
    assert stored.values == pytest.approx(drawn.values)
    assert {name: table.columns for name, table in stored.tables.items()} == {
        name: table.columns for name, table in drawn.tables.items()
    }


def test_bad_configurations() -> None:
    with pytest.raises(ValueError, match="above 0"):
        schematic_geometry.Config(marked=(1.0, 0.0))
    with pytest.raises(ValueError, match="2 temperatures"):
        schematic_geometry.Config(path=1)
