"""The same picture as a Jupyter widget: drag the query or a key, and it is computed anew."""

from collections.abc import Sequence
from importlib import resources
from typing import Any

import anywidget
import numpy as np
import traitlets

from vashista_theory._checks import as_float64
from vashista_theory._types import ArrayLike
from vashista_theory.explore.drawing import frame
from vashista_theory.explore.view import View, look

_TEMPERATURES = (1e-3, 1e1)
"""Ends of the slider of temperatures, in units of the picture's squared size."""


def _text(name: str) -> str:
    return (resources.files("vashista_theory.explore") / name).read_text(encoding="utf-8")


class DragWidget(anywidget.AnyWidget):
    """A picture of one query and its keys; `query`, `places` and `epsilon` may be set from Python.

    Attributes:
        places: keys (n, 2) as lists; their number stays as it is. (`keys` is taken by ipywidgets.)
        query: (2,) as a list.
        epsilon: temperature, squared length.
        picture: what is drawn, from `view`.
        corners: lower and upper corner of the part of the plane that is shown.
        temperatures: ends of the slider.
    """

    _esm = _text("widget.js")
    _css = _text("widget.css")

    places = traitlets.List(traitlets.List(traitlets.Float())).tag(sync=True)
    query = traitlets.List(traitlets.Float()).tag(sync=True)
    epsilon = traitlets.Float().tag(sync=True)
    picture = traitlets.Dict().tag(sync=True)
    corners = traitlets.List().tag(sync=True)
    temperatures = traitlets.List(traitlets.Float()).tag(sync=True)

    def __init__(self, keys: ArrayLike, query: ArrayLike, *, epsilon: float) -> None:
        first = look(keys, query, epsilon=epsilon)
        low, high = frame(np.concatenate([first.keys, first.query[None]]))
        size = float((high - low).max()) ** 2
        super().__init__(
            places=first.keys.tolist(),
            query=first.query.tolist(),
            epsilon=first.epsilon,
            picture=first.as_dict(),
            corners=[low.tolist(), high.tolist()],
            temperatures=[end * size for end in _TEMPERATURES],
        )
        self._view = first
        self.observe(self._look_again, names=["places", "query", "epsilon"])

    @property
    def view(self) -> View:
        """What is drawn, as numbers."""
        return self._view

    @traitlets.validate("query")
    def _check_query(self, proposal: Any) -> Sequence[float]:
        return _checked(proposal.value, (2,), "query")

    @traitlets.validate("places")
    def _check_places(self, proposal: Any) -> Sequence[Sequence[float]]:
        count = len(self.places) or len(proposal.value)
        return _checked(proposal.value, (count, 2), "places")

    @traitlets.validate("epsilon")
    def _check_epsilon(self, proposal: Any) -> float:
        if not (np.isfinite(proposal.value) and proposal.value > 0):
            raise ValueError(
                f"epsilon is {proposal.value}; a temperature must be positive and finite"
            )
        return proposal.value

    def _look_again(self, _: Any) -> None:
        self._view = look(self.places, self.query, epsilon=self.epsilon)
        self.picture = self._view.as_dict()


def _checked(value: Any, shape: tuple[int, ...], name: str) -> Any:
    array = as_float64(value, name)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{name} is {value}; finite numbers of shape {shape} are needed")
    return array.tolist()


def drag(keys: ArrayLike, query: ArrayLike, *, epsilon: float = 0.1) -> DragWidget:
    """A widget for Jupyter: drag the query or a key with mouse, finger or arrow keys.

    Args:
        keys: (n, 2).
        query: (2,).
        epsilon: temperature of the entropic attention, squared length; a slider changes it.

    Returns:
        The widget. Setting its `query`, `places` or `epsilon` moves the picture too, and `view` has
        the numbers, in a browser and without one.

    Raises:
        ValueError: as `look`.
        ImportError: anywidget is missing (extra `notebooks`).
    """
    return DragWidget(keys, query, epsilon=epsilon)
