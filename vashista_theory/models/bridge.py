# pyright: reportMissingImports=false, reportUnknownParameterType=false
"""torch tensors as JAX arrays and back, by DLPack."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Array, Bool, Float

from vashista_theory._version import install
from vashista_theory.attention.bounds.sketch import EXPECTED_QUERIES
from vashista_theory.models.refusals import unsupported


def alike(*tensors: Float[torch.Tensor, "B _ _ D"]) -> tuple[list[torch.Tensor], torch.dtype]:
    """Queries, keys and values of one type, and the type that a model expects attention to have.

    Under autocast that is what torch's attention casts them to. Otherwise the widest of them,
    and the type of the values, which come straight from the model's weights.
    """
    widest = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    answer = tensors[-1].dtype
    platform = tensors[0].device.type
    if widest != torch.float64 and torch.is_autocast_enabled(platform):
        widest = answer = torch.get_autocast_dtype(platform)
    return [tensor.to(widest) for tensor in tensors], answer


def as_stored(dtype: torch.dtype | None, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Numbers in the type of the pages that hold others already, where that loses nothing."""
    if dtype is not None and torch.promote_types(tensors[0].dtype, dtype) != dtype:
        raise unsupported(
            f"a cache of {dtype} that is given {tensors[0].dtype}",
            "Read it under the autocast, and with the type of model, that filled it.",
        )
    return [tensor.to(dtype or tensor.dtype) for tensor in tensors]


def precision(dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    """JAX as it has to be for numbers of this type: 64-bit mode for float64, else left alone."""
    return jax.enable_x64(True) if dtype == torch.float64 else contextlib.nullcontext()


def to_jax(tensor: Float[torch.Tensor, "B H T D"]) -> Float[Array, "B T H D"]:
    """The numbers of a tensor, token by token, without a copy where they lie that way.

    Models project a token to all of its heads at once, so their tensors do lie that way; JAX
    copies one that does not start at a multiple of 64 bytes.

    Raises:
        ValueError: if JAX has no device where the tensor is, or no such type.
    """
    token_major = tensor.detach().transpose(1, 2).contiguous()
    try:
        with precision(tensor.dtype):
            return jax.dlpack.from_dlpack(token_major)
    except (RuntimeError, TypeError, BufferError, ValueError) as error:
        platforms = sorted({device.platform for device in jax.devices()})
        raise ValueError(
            f"a {tensor.dtype} tensor on {tensor.device} cannot be handed to JAX, which has "
            f"{', '.join(platforms)} here ({error}). Move the model to the CPU, or install JAX for "
            f"its device, for example {install('cuda')}."
        ) from error


def expected_queries(
    query: Float[torch.Tensor, "B H T D"], new: Bool[torch.Tensor, "B T"] | None
) -> Float[Array, "B H Q D"]:
    """The last queries of a prompt, with zeros for padding, for bad ones and where there are fewer.

    So not every length of a prompt is compiled anew.
    """
    last = query[:, :, -EXPECTED_QUERIES:].detach().float()
    last = last.masked_fill(~last.isfinite().all(dim=-1, keepdim=True), 0.0)
    if new is not None:
        last = last.masked_fill(~new[:, None, -EXPECTED_QUERIES:, None], 0.0)
    last = torch.nn.functional.pad(last, (0, 0, 0, EXPECTED_QUERIES - last.shape[2]))
    return to_jax(last).swapaxes(1, 2)


def as_argument(
    tensor: Float[torch.Tensor, "B H T D"],
) -> Float[Array, "B T H D"] | Float[np.ndarray, "B T H D"]:
    """Like `to_jax`, for the few numbers of a decode step, as a compiled call takes them.

    On the CPU a view for NumPy is enough, and is made ten times as fast as an array of JAX.

    Raises:
        ValueError: as `to_jax`.
    """
    if tensor.device.type != "cpu" or jax.default_backend() != "cpu":
        return to_jax(tensor)
    token_major = tensor.detach().transpose(1, 2)
    if tensor.dtype == torch.bfloat16:  # which NumPy itself does not know
        return token_major.view(torch.int16).numpy().view(jnp.dtype("bfloat16"))
    return token_major.numpy()


def as_numbers(tensor: Float[torch.Tensor, "*n"]) -> Float[np.ndarray, "*n"]:
    """A few numbers of a model for a compiled call, in float32 at least."""
    return tensor.detach().to("cpu", torch.promote_types(tensor.dtype, torch.float32)).numpy()


def to_torch(array: Array) -> torch.Tensor:
    """A tensor of its own: JAX arrays must not change, and models may write in place."""
    if jax.default_backend() != "cpu":
        return torch.from_dlpack(jax.block_until_ready(array)).clone()
    numbers = np.array(array)
    if array.dtype == jnp.bfloat16:
        return torch.from_numpy(numbers.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(numbers)
