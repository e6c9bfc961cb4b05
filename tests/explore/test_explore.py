"""What the picture says, against hand-worked examples and a solver; the widget without a browser.

Every hull here has five keys, so that nothing is compiled twice.
"""

import json
import math
from typing import Any

import numpy as np
import pytest

import vashista_theory as vt

# A square of side 2 with its centre: rows 0 to 3 are the corners, 4 the middle.
SQUARE = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [0.0, 0.0]])
WALL = [[0.0, -1.0], [0.0, 1.0], [0.0, 0.5], [0.0, 0.0], [0.0, 1.0]]


def test_an_edge_worked_by_hand() -> None:
    # r* = (2, 0): the middle lies 1 behind the line x = 1, the far corners 2, so μ = 2 and 4.
    view = vt.explore.look(SQUARE, [3.0, 0.5])
    np.testing.assert_allclose(view.point, [1.0, 0.5], atol=1e-15)
    assert np.flatnonzero(view.face).tolist() == [1, 2]
    np.testing.assert_allclose(view.multipliers, [4, 0, 0, 4, 2], atol=1e-14)
    assert view.gap == pytest.approx(2.0, rel=1e-14)
    assert view.depth == pytest.approx(1.0, rel=1e-14)
    assert view.normal is not None
    np.testing.assert_allclose(view.normal, [1.0, 0.0], atol=1e-15)
    assert view.readings["face"] == "keys 1, 2 (an edge)"
    assert view.readings["gap"] == "Δ = 2.000"
    assert view.readings["projection"] == "p* = (1.000, 0.500)"
    assert view.readings["residual"] == "‖q − p*‖ = 2.000"


def test_a_vertex_worked_by_hand() -> None:
    # r* = (1, 1): μ = r·(k_2 − k_i) is 4, 2, 0, 2, 2.
    view = vt.explore.look(SQUARE, [2.0, 2.0])
    np.testing.assert_allclose(view.multipliers, [4, 2, 0, 2, 2], atol=1e-14)
    assert view.readings["face"] == "key 2 (a vertex)"
    assert view.gap == pytest.approx(2.0, rel=1e-14)


def test_inside_there_is_no_face_and_no_gap() -> None:
    view = vt.explore.look(SQUARE, [0.25, -0.5])
    assert view.inside
    assert math.isnan(view.gap)
    assert view.normal is None
    assert view.depth is None
    assert "inside" in view.readings["face"]
    assert view.readings["gap"] == "Δ does not exist"
    # Nothing that JSON cannot say.
    assert view.as_dict()["gap"] is None


def test_the_end_of_an_edge_is_said_to_be_degenerate() -> None:
    # Above the corner (1, 1): the edge 1-2 is exposed, and p* is its end.
    view = vt.explore.look(SQUARE, [3.0, 1.0])
    assert view.outcome == "degenerate_face"
    assert "degenerate" in view.readings["face"]


def test_every_key_on_the_face() -> None:
    view = vt.explore.look(WALL, [2.0, 0.0])
    assert math.isinf(view.gap)
    assert view.depth is None
    assert "∞" in view.readings["gap"]
    assert view.as_dict()["gap"] is None


def test_leakage_is_softmax_on_the_effective_query() -> None:
    # The fixed point of theory: α ∝ exp(⟨q − p, k⟩/ε), checked by doing it.
    query, epsilon = np.array([2.5, 0.7]), 0.3
    view = vt.explore.look(SQUARE, query, epsilon=epsilon)
    scores = SQUARE @ (query - view.entropic_point) / epsilon
    weights = np.exp(scores - scores.max())
    np.testing.assert_allclose(view.entropic_weights, weights / weights.sum(), atol=1e-12)
    assert view.off_face_mass == pytest.approx(weights[~view.face].sum() / weights.sum(), rel=1e-9)
    assert view.off_face_mass <= view.off_face_bound


@pytest.mark.parametrize("query", [(2.2, -0.4), (-3.0, 2.5), (0.1, 1.9)])
def test_an_independent_solver_agrees(query: tuple[float, float]) -> None:
    oracle = vt.oracle.project_qp(SQUARE, np.array(query))
    view = vt.explore.look(SQUARE, query)
    np.testing.assert_allclose(view.point, oracle.point, atol=1e-7)
    assert view.gap == pytest.approx(oracle.gap, abs=1e-7)
    assert view.face.tolist() == oracle.face.tolist()


@pytest.mark.parametrize(
    "keys",
    [[[1.0, 2.0]] * 5, WALL, [[float(i % 3), float(i % 3)] for i in range(5)]],
)
def test_a_hull_without_inside_is_drawn_from_end_to_end(keys: list[list[float]]) -> None:
    view = vt.explore.look(keys, [5.0, 0.25])
    ends = view.keys[view.outline]
    assert {tuple(end) for end in ends} == {tuple(min(keys)), tuple(max(keys))}
    assert vt.explore.draw(view).axes


def test_pictures_share_one_scale_and_say_what_the_face_is() -> None:
    views = [vt.explore.look(SQUARE, query) for query in ([3.0, 0.0], [0.2, 0.2])]
    left, right = vt.explore.draw(*views).axes
    assert left.get_xlim() == right.get_xlim()
    assert left.get_title(loc="left") == "face: keys 1, 2 (an edge)"


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(5, 2\) and \(3,\).*diagnose"):
        vt.explore.look(SQUARE, [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"query\[1\] is nan"):
        vt.explore.look(SQUARE, [1.0, math.nan])
    with pytest.raises(ValueError, match="epsilon"):
        vt.explore.look(SQUARE, [1.0, 2.0], epsilon=-1.0)
    with pytest.raises(ValueError, match="got 0 views"):
        vt.explore.draw()


@pytest.fixture
def widget() -> Any:
    pytest.importorskip("anywidget", reason="the extra `notebooks` is not installed")
    return vt.explore.drag(SQUARE, [-3.0, 0.5])


def test_moving_the_query_moves_the_picture(widget: Any) -> None:
    assert widget.picture["readings"]["face"] == "keys 0, 3 (an edge)"
    widget.query = [3.0, 0.5]
    assert widget.picture["readings"]["face"] == "keys 1, 2 (an edge)"
    assert widget.picture["gap"] == pytest.approx(2.0, rel=1e-14)
    np.testing.assert_allclose(widget.view.point, [1.0, 0.5], atol=1e-15)


def test_moving_a_key_moves_the_picture(widget: Any) -> None:
    # The middle is pulled out to the left: it is now nearest, and alone.
    widget.places = [*SQUARE[:4].tolist(), [-2.0, 0.5]]
    assert widget.view.readings["face"] == "key 4 (a vertex)"
    assert widget.view.residual == pytest.approx(1.0, rel=1e-14)


def test_what_is_sent_is_json_even_where_a_number_is_infinite(widget: Any) -> None:
    widget.places, widget.query = WALL, [2.0, 0.0]
    assert math.isinf(widget.view.gap)
    assert json.loads(json.dumps(widget.picture, allow_nan=False))["depth"] is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("query", [1.0]),
        ("query", [1.0, math.nan]),
        ("places", [[0.0, 0.0]]),
        ("epsilon", 0.0),
    ],
)
def test_bad_moves_are_refused_and_change_nothing(widget: Any, name: str, value: object) -> None:
    before = widget.picture
    with pytest.raises(ValueError, match=name):
        setattr(widget, name, value)
    assert widget.picture == before
