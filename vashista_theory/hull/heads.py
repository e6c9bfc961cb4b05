"""Real attention heads: the sample inside the package, and files of the same format."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int

from vashista_theory._array_files import read_npz
from vashista_theory._reading import json_object

_ARRAYS = ("queries", "keys", "values", "layers", "positions", "scale", "provenance")
_FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True)
class Heads:
    """Recorded queries, keys and values of a language model's attention heads.

    Query heads share key heads in equal consecutive groups: query head h reads key head
    h // (H // Hkv). The query at position t sees the keys 0 to t. Scores are ⟨q, k⟩·scale, so the
    temperature at which the model runs is ``1 / scale``.

    Attributes:
        queries: As the model used them (after any position encoding), by layer, query head and
            recorded position.
        keys: By layer, key head and token; positions and tokens count alike, from 0.
        values: Like the keys.
        layers: The model's number of each recorded layer.
        positions: The position of each recorded query.
        scale: The factor on the scores.
        provenance: Where the numbers came from.
    """

    queries: Float[np.ndarray, "L H Tq D"]
    keys: Float[np.ndarray, "L Hkv T D"]
    values: Float[np.ndarray, "L Hkv T D"]
    layers: Int[np.ndarray, " L"]
    positions: Int[np.ndarray, " Tq"]
    scale: float
    provenance: Mapping[str, Any]

    @property
    def count(self) -> int:
        """How many queries are recorded: layers × heads × positions."""
        layers, heads, positions, _ = self.queries.shape
        return layers * heads * positions

    def locate(self, index: int) -> tuple[int, int, int]:
        """(layer_index, head, position_index) of the index-th query, last position first."""
        if not 0 <= index < self.count:
            raise ValueError(f"index {index} is not among the {self.count} recorded queries")
        layers, heads, positions, _ = self.queries.shape
        back, within = divmod(index, layers * heads)
        layer_index, head = divmod(within, heads)
        return layer_index, head, positions - 1 - back

    def attend(
        self, layer_index: int, head: int, position_index: int
    ) -> tuple[Float64[np.ndarray, " D"], Float64[np.ndarray, "t D"], Float64[np.ndarray, "t D"]]:
        """The query with the keys and values it sees, exact in float64.

        Args:
            layer_index: Index into `layers`, not the model's layer number.
            head: The query head.
            position_index: Index into `positions`; negative ones count from the end, as for the
                other two.

        Raises:
            ValueError: If an index is out of range.
        """
        given = (layer_index, head, position_index)
        names = ("layer_index", "head", "position_index")
        for name, index, size in zip(names, given, self.queries.shape, strict=False):
            if not -size <= index < size:
                raise ValueError(f"{name} = {index} is out of range: this file has {size}")
        group = self.queries.shape[1] // self.keys.shape[1]
        key_head = (head % self.queries.shape[1]) // group
        visible = slice(0, int(self.positions[position_index]) + 1)
        return (
            self.queries[layer_index, head, position_index].astype(np.float64),
            self.keys[layer_index, key_head, visible].astype(np.float64),
            self.values[layer_index, key_head, visible].astype(np.float64),
        )


def load_heads(path: str | Path | None = None) -> Heads:
    """Read a heads file, or the sample inside the package if no path is given.

    The format is an ``.npz`` archive of `queries` (L, H, Tq, D), `keys` and `values`
    (L, Hkv, T, D) in float16, float32 or float64, integer `layers` (L,) and `positions` (Tq,), a
    positive number `scale`, and a text `provenance` that holds a JSON object.

    Raises:
        ValueError: If the file cannot be read or breaks the format; the text names the file, the
            problem and the remedy.
    """
    with ExitStack() as stack:
        if path is None:
            packaged = resources.files("vashista_theory") / "hull" / "data" / "heads_sample.npz"
            file = stack.enter_context(resources.as_file(packaged))
            remedy = "the installation is damaged: reinstall vashista-theory"
        else:
            file = Path(path)
            remedy = "make the file again, or leave the path out to use the packaged sample"
        return _checked(file, _read(file, remedy), remedy)


def _read(file: Path, remedy: str) -> dict[str, np.ndarray]:
    if file.exists() and not file.is_file():  # a pipe would be waited for
        raise _refusal(file, "it is not a regular file", remedy)
    try:
        arrays = read_npz(file, _ARRAYS).items()
        # In this machine's byte order: the file may come from one of another.
        return {name: a.astype(a.dtype.newbyteorder("="), copy=False) for name, a in arrays}
    except FileNotFoundError:
        raise _refusal(file, "there is no such file", remedy) from None
    except OSError as error:
        raise _refusal(file, f"it cannot be read ({error.strerror or error})", remedy) from None
    except ValueError as error:
        raise _refusal(file, str(error), remedy) from error


class HeadsFileError(ValueError):
    """A heads file that cannot be used."""


def _refusal(file: Path, problem: str, remedy: str) -> HeadsFileError:
    return HeadsFileError(f"heads file {str(file)!r}: {problem}. Remedy: {remedy}.")


def _checked(file: Path, arrays: dict[str, np.ndarray], remedy: str) -> Heads:
    def refuse_unless(condition: bool, problem: str) -> None:
        if not condition:
            raise _refusal(file, problem, remedy)

    for name in ("queries", "keys", "values"):
        array = arrays[name]
        refuse_unless(
            array.ndim == 4 and array.size > 0,
            f"{name} has shape {array.shape}, but four axes of positive length are expected",
        )
        refuse_unless(
            array.dtype in _FLOATS, f"{name} is {array.dtype}, not float16, float32 or float64"
        )
        bad = int(np.count_nonzero(~np.isfinite(array)))
        refuse_unless(bad == 0, f"{name} has {bad} entries that are NaN or infinite")
    layers, heads, recorded, size = arrays["queries"].shape
    key_layers, key_heads, tokens, key_size = arrays["keys"].shape
    refuse_unless(
        arrays["values"].shape == arrays["keys"].shape,
        f"values have shape {arrays['values'].shape}, keys {arrays['keys'].shape}",
    )
    refuse_unless(
        (key_layers, key_size) == (layers, size),
        f"queries (L, H, Tq, D) = {arrays['queries'].shape} and keys (L, Hkv, T, D) = "
        f"{arrays['keys'].shape} disagree in L or D",
    )
    refuse_unless(
        heads % key_heads == 0, f"{heads} query heads cannot share {key_heads} key heads equally"
    )
    for name, length in (("layers", layers), ("positions", recorded)):
        array = arrays[name]
        refuse_unless(
            array.shape == (length,) and np.issubdtype(array.dtype, np.integer),
            f"{name} is {array.dtype} of shape {array.shape}, not integers of shape ({length},)",
        )
    positions = arrays["positions"]
    refuse_unless(
        bool(np.all((positions >= 0) & (positions < tokens))),
        f"positions {positions.tolist()} are not all among the {tokens} tokens",
    )
    scale = arrays["scale"]
    refuse_unless(
        scale.size == 1
        and np.issubdtype(scale.dtype, np.floating)
        and bool(np.all(np.isfinite(scale) & (scale > 0))),
        f"scale is {scale!r}, not one positive number",
    )
    return Heads(
        arrays["queries"],
        arrays["keys"],
        arrays["values"],
        arrays["layers"],
        positions,
        float(scale.reshape(())),
        _provenance(file, arrays["provenance"], remedy),
    )


def _provenance(file: Path, text: np.ndarray, remedy: str) -> dict[str, Any]:
    if text.dtype.kind != "U" or text.shape:
        raise _refusal(file, f"provenance is {text.dtype} of shape {text.shape}, not text", remedy)
    try:
        return json_object(str(text), "provenance")
    except ValueError as error:
        raise _refusal(file, str(error), remedy) from error
