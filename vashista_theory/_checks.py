"""Checks of arguments: what people have as arrays, made into arrays that can be computed with.

Every public function takes its arrays through here, so all of them take and refuse the same things
in the same words. Checks look at concrete numbers under a transformation too: an array that was
closed over is concrete there, only tracers are not.
"""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

_LOADED_UNASKED = 2.0**30
"""Bytes (1 GiB) up to which an array on disk is read into memory without being asked."""

_HELD_BY_ALL = 2**24
"""Integers up to this are numbers of float32, and of every wider type."""


def is_traced(*values: object) -> bool:
    """Whether any value is abstract, that is inside jit, vmap or grad and no constant there."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


def is_integer(value: object, *, least: int, most: int | None = None) -> bool:
    """Whether this is an integer in that range; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return False
    return least <= int(value) and (most is None or int(value) <= most)


def is_positive(value: Any) -> bool:
    """Whether this is one finite number above zero: Python's, or of an array without axes."""
    if isinstance(value, bool | str) or np.ndim(value) != 0:
        return False
    try:
        return 0 < float(value) < np.inf
    except (TypeError, ValueError):
        return False


def as_array(value: Any, name: str, *, most_bytes: float = _LOADED_UNASKED) -> np.ndarray | Array:
    """An array of NumPy in the machine's byte order, of any type, or the JAX array it is.

    Lists and tuples are taken, and whatever converts itself to an array of NumPy. The type stays
    what it was, except that `numpy.longdouble` is rounded to float64, to nearest: nothing here
    computes in more digits.

    Args:
        value: What a user passed.
        name: Of the argument.
        most_bytes: Of an array on disk, which is read into memory.

    Raises:
        ValueError: naming what was given, if it does not convert, is masked or sparse, or is a
            larger array on disk.
    """
    _refuse_unlike(value, name, most_bytes)
    if isinstance(value, jax.Array):
        if jnp.issubdtype(value.dtype, jax.dtypes.extended):
            raise ValueError(f"`{name}` is {value.dtype}; an array of real numbers is expected.")
        return value
    if isinstance(value, list | tuple) and is_traced(value):
        return jnp.asarray(value)
    array = _as_numpy(value, name)
    if array.ndim == 0 and array.dtype == np.object_:
        held = getattr(value, name, None)
        remedy = f" Pass its `.{name}`." if held is not None and not callable(held) else ""
        raise ValueError(
            f"`{name}` is object ({_named(value)}); an array of real numbers is expected, "
            f"floating-point ones or integers.{remedy}"
        )
    return array


def as_numbers(value: Any, name: str, *, most_bytes: float = _LOADED_UNASKED) -> np.ndarray | Array:
    """As `as_array`, of real numbers.

    Raises:
        ValueError: as `as_array`, and for any other type.
    """
    array = as_array(value, name, most_bytes=most_bytes)
    if _is_floating(array) or _is_whole(array) or array.dtype == np.bool_:
        return array
    raise ValueError(
        f"`{name}` is {array.dtype}; real numbers are expected, floating-point ones or integers. "
        "Convert it, for example with `.astype('float32')`."
    )


def as_float_array(value: Any, name: str) -> Array:
    """Real numbers as a JAX array of floats, in the precision they were given in.

    Integers, and lists and tuples of Python numbers, take the precision JAX is set to; half
    precisions are computed in float32.

    Raises:
        ValueError: as `as_numbers`; for float64 while JAX's 64-bit mode is off, and for integers
            that the precision JAX is set to cannot hold.
    """
    array = as_numbers(value, name)
    if not _is_floating(array) or not _has_type(value):
        array = _as_floats(array, jnp.result_type(float), name)
    _refuse_float64(array, name)
    short = jnp.finfo(array.dtype).bits < 32
    return _on_device(array, jnp.dtype("float32") if short else array.dtype)


def as_host_floats(value: Any, name: str) -> np.ndarray | Array:
    """Floating-point numbers in the type they were given in; what is on the host stays there.

    Lists and tuples of Python numbers take the precision JAX is set to.

    Raises:
        ValueError: as `as_numbers`; for integers, and for float64 while JAX's 64-bit mode is off.
    """
    array = as_numbers(value, name)
    if not _is_floating(array):
        raise ValueError(
            f"`{name}` is {array.dtype}; real floating-point numbers are expected. Convert it, for "
            "example with `.astype('float32')`."
        )
    if not _has_type(value):
        array = _as_floats(array, jnp.result_type(float), name)
    _refuse_float64(array, name)
    return array


def as_floats(value: Any, name: str) -> Array:
    """As `as_host_floats`, as a JAX array."""
    array = as_host_floats(value, name)
    return _on_device(array, array.dtype)


def as_float64(value: Any, name: str) -> np.ndarray:
    """Real numbers as an array of NumPy in float64, row by row, whatever JAX is set to.

    Raises:
        ValueError: as `as_numbers`; for tracers, and for integers that float64 cannot hold.
    """
    array = as_numbers(value, name)
    if is_traced(array):
        raise ValueError(
            f"`{name}` is traced, and its numbers are needed: call this outside jit, vmap and grad."
        )
    # Row by row: BLAS adds in another order where columns come first.
    return np.asarray(_as_floats(np.asarray(array), np.dtype(np.float64), name), order="C")


def as_scale(scale: Any, d: int, dtype: np.dtype) -> Array:
    """The factor on scores as one positive number of that type, d^(−1/2) for None.

    A traced one that is none becomes NaN, which shows; a negative one would turn every bound
    around.

    Raises:
        ValueError: if it is none, or so small or large that `dtype` makes 0 or infinity of it.
    """
    least, most = float(jnp.finfo(dtype).tiny), float(jnp.finfo(dtype).max)
    if scale is None:
        return jnp.asarray(d**-0.5, dtype)
    array = as_array(scale, "scale")
    real = array.shape == () and (_is_floating(array) or _is_whole(array))
    if is_traced(array):
        if not real or _is_whole(array):
            raise ValueError(f"scale is {scale!r}; one floating-point number is expected.")
        array = array.astype(dtype)
        return jnp.where((array >= least) & (array <= most), array, jnp.nan)
    if not real or not least <= float(array) <= most:
        raise ValueError(
            f"scale is {scale!r}; one positive, finite number is expected, in {dtype} from "
            f"{least:.2g} to {most:.2g}, or None for 1/√(head size)."
        )
    return jnp.asarray(float(array), dtype)


def check_finite(
    array: np.ndarray | Array,
    name: str,
    remedy: str = "Remove these rows or mask them before the call.",
) -> None:
    """Raise for a NaN or an infinity, naming the first place; what is traced is not looked at."""
    if is_traced(array):
        return
    if not isinstance(array, np.ndarray):
        with jax.ensure_compile_time_eval():
            if bool(jnp.all(jnp.isfinite(array))):
                return
    values = np.asarray(array)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        place = tuple(int(i) for i in bad[0])
        raise ValueError(
            f"`{name}` must be finite, but {name}{list(place)} is {values[place]} "
            f"({len(bad)} such value(s) in all). {remedy}"
        )


def _is_floating(array: np.ndarray | Array) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def _is_whole(array: np.ndarray | Array) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.integer))


def _on_device(array: np.ndarray | Array, dtype: np.dtype) -> Array:
    """As a JAX array: a constant if the numbers are, and no longer tied to the caller's memory."""
    if isinstance(array, jax.Array) and array.dtype == dtype and not array.weak_type:
        return array
    if is_traced(array):
        return jnp.asarray(array, dtype)
    with jax.ensure_compile_time_eval():
        # JAX copies some arrays in the background, and the caller may soon write to them again.
        return jax.block_until_ready(jnp.asarray(array, dtype))


def _as_floats(array: np.ndarray | Array, dtype: np.dtype, name: str) -> np.ndarray | Array:
    """Rounded to a type of floats, but only if that holds the integers among them."""
    if is_traced(array):
        return array.astype(dtype)
    given = np.asarray(array)
    if _is_whole(given):
        large = given[np.abs(given.astype(np.float64)) > _HELD_BY_ALL]
        # As Python's numbers, of which an integer and a float are compared exactly.
        if np.any(large.astype(dtype).astype(object) != large.astype(object)):
            raise ValueError(
                f"`{name}` is {given.dtype} with integers that {dtype} cannot hold. Round it "
                "yourself, for example with `.astype(float)`."
            )
    return given.astype(dtype, copy=False)


def _refuse_float64(array: np.ndarray | Array, name: str) -> None:
    if array.dtype == np.float64 and jnp.result_type(float) != np.float64:
        raise ValueError(
            f"`{name}` is float64 but JAX's 64-bit mode is off, so it would be rounded to float32 "
            "silently. Call `jax.config.update('jax_enable_x64', True)` first, or pass "
            f"`{name}.astype('float32')` to compute in float32."
        )


def _has_type(value: Any) -> bool:
    """Whether its numbers have a type, as those of arrays have and Python's have not."""
    if isinstance(value, list | tuple):
        return any(map(_has_type, value))
    return type(value) not in (bool, int, float)


def _as_numpy(value: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        array = _by_dlpack(value)
        if array is None:
            what = "" if isinstance(value, list | tuple) else f" ({_named(value)})"
            raise ValueError(
                f"`{name}` is not a rectangular array of numbers{what}: {error}"
            ) from None
    kind, size = array.dtype.kind, array.dtype.itemsize
    wide = kind == "f" and size > 8
    return array.astype("=f8" if wide else array.dtype.newbyteorder("="), copy=False)


def _by_dlpack(value: Any) -> np.ndarray | None:
    """A tensor in a type that NumPy lacks (bfloat16) and JAX has."""
    try:
        return np.asarray(jax.dlpack.from_dlpack(value, copy=True))
    except (AttributeError, TypeError, ValueError, RuntimeError, BufferError):
        return None


def _refuse_unlike(value: Any, name: str, most_bytes: float) -> None:
    """Raise for what NumPy would take for something else without a word, in lists too."""
    if isinstance(value, list | tuple):
        for part in value:
            if not isinstance(part, int | float):
                _refuse_unlike(part, name, most_bytes)
    elif isinstance(value, np.ma.MaskedArray):
        raise ValueError(
            f"`{name}` is a masked array, and its mask would be lost. Pass the rows that count: "
            f"`{name}.data[~numpy.ma.getmaskarray({name}).any(axis=-1)]` has those without a "
            "masked entry."
        )
    elif hasattr(value, "todense"):
        raise ValueError(
            f"`{name}` is {_named(value)}, which is sparse; an ordinary array is expected. Convert "
            "it with `.todense()`."
        )
    elif isinstance(value, np.memmap) or hasattr(value, "chunks"):
        nbytes = getattr(value, "nbytes", 0)
        if nbytes > most_bytes:
            raise ValueError(
                f"`{name}` is an array on disk of {nbytes / 2**30:.1f} GiB, which would be read "
                "into memory. Use `vashista_theory.project_blocks`, which passes over it block by "
                f"block, or pass `numpy.array({name})` to have it loaded."
            )


def _named(value: object) -> str:
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value)
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
