"""Dense baselines of torch: flash attention, and FlashInfer where it is installed.

They see JAX's arrays through DLPack, without a copy, and are optional: what is missing is said.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.decode_gpu.data import PAGE, Geometry
from experiments.decode_gpu.timing import CannotRunError, Measured, reason_of

_IN_GRAPH = 20  # calls captured in one CUDA graph, each with a query of its own
_WORKSPACE = 256 * 2**20  # bytes, what FlashInfer's documentation asks for


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise CannotRunError("torch is not installed") from error
    if not torch.cuda.is_available():
        raise CannotRunError("torch sees no GPU")
    return torch


def sdpa(
    shape: Geometry, keys: jax.Array, values: jax.Array, queries: jax.Array, *, seconds: float
) -> Measured:
    """Torch's flash attention over (B, T, Hkv, D), heads of a group as queries of one head.

    Raises:
        CannotRunError: No torch, no GPU, or flash attention refuses.
    """
    torch = _torch()
    call = sdpa_call(shape, keys, values)
    return _measured(torch, call, queries, seconds)


def sdpa_call(shape: Geometry, keys: jax.Array, values: jax.Array) -> Callable[[Any], Any]:
    """A call of flash attention on tensors (B, H, D)."""
    torch = _torch()
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError as error:
        raise CannotRunError("this torch cannot force flash attention") from error
    # Strides tell flash attention where heads lie: nothing is moved.
    k, v = (torch.from_dlpack(a).transpose(1, 2) for a in (keys, values))

    def call(query: Any) -> Any:
        rows = query.view(shape.batch, shape.kv_heads, shape.group, shape.head_size)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            out = torch.nn.functional.scaled_dot_product_attention(rows, k, v)
        return out.reshape(query.shape)

    return call


def flashinfer(
    shape: Geometry, keys: jax.Array, values: jax.Array, queries: jax.Array, *, seconds: float
) -> Measured:
    """FlashInfer's paged decode over every page.

    Raises:
        CannotRunError: It is not installed, or refuses.
    """
    torch = _torch()
    return _measured(torch, flashinfer_call(shape, keys, values), queries, seconds)


def flashinfer_call(shape: Geometry, keys: jax.Array, values: jax.Array) -> Callable[[Any], Any]:
    """A planned call of FlashInfer's paged decode on tensors (B, H, D)."""
    torch = _torch()
    try:
        import flashinfer as library
    except ImportError as error:
        raise CannotRunError("FlashInfer is not installed") from error
    try:
        pool = (shape.batch * shape.pages, PAGE, shape.kv_heads, shape.head_size)
        cache = tuple(torch.from_dlpack(a).view(pool) for a in (keys, values))
        space = torch.empty(_WORKSPACE, dtype=torch.uint8, device="cuda")
        wrapper = library.BatchDecodeWithPagedKVCacheWrapper(
            space, "NHD", use_tensor_cores=shape.group > 1
        )
        starts = torch.arange(shape.batch + 1, dtype=torch.int32, device="cuda") * shape.pages
        wrapper.plan(
            starts,
            torch.arange(pool[0], dtype=torch.int32, device="cuda"),
            torch.full((shape.batch,), PAGE, dtype=torch.int32, device="cuda"),
            *(shape.heads, shape.kv_heads, shape.head_size, PAGE),
            q_data_type=cache[0].dtype,
            kv_data_type=cache[0].dtype,
        )
    except Exception as error:
        raise CannotRunError(reason_of(error)) from error
    return lambda query: wrapper.run(query, cache)


def once(call: Callable[[Any], Any], query: jax.Array) -> np.ndarray:
    """One call on a JAX array, for the comparison with the reference."""
    torch = _torch()
    return call(torch.from_dlpack(query)).float().cpu().numpy()


def _measured(torch: Any, call: Callable[[Any], Any], queries: jax.Array, seconds: float) -> Any:
    try:
        return _time(torch, call, list(torch.from_dlpack(queries)), seconds)
    except Exception as error:
        raise CannotRunError(reason_of(error)) from error


def _time(torch: Any, call: Callable[[Any], Any], queries: list[Any], seconds: float) -> Measured:
    for query in queries[:2]:
        call(query)
    torch.cuda.synchronize()
    one = _alone(torch, call, queries[-1])
    steps = int(np.clip(seconds / 6 / one, 2, min(len(queries), _IN_GRAPH)))
    run = _loop(torch, call, queries[:steps])
    run()
    torch.cuda.synchronize()
    rounds = max(1, int(seconds / 6 / (one * steps)))
    loops = []
    for _ in range(5):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(rounds):
            run()
        end.record()
        torch.cuda.synchronize()
        loops.append(1e3 * start.elapsed_time(end) / (rounds * steps))
    count = int(np.clip(seconds / one, 2, len(queries)))
    alone = [1e6 * _alone(torch, call, query) for query in queries[:count]]
    p50, p90, p99 = (float(np.percentile(alone, p)) for p in (50, 90, 99))
    low, high = min(loops), max(loops)
    return Measured(float(np.median(loops)), low, high, steps, 5, p50, p90, p99, count)


def _loop(torch: Any, call: Callable[[Any], Any], queries: list[Any]) -> Callable[[], Any]:
    """Calls in one CUDA graph, so that launches do not count; one by one where it refuses."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for query in queries:
                call(query)
    except RuntimeError:
        torch.cuda.synchronize()
        return lambda: [call(query) for query in queries]
    return graph.replay


def _alone(torch: Any, call: Callable[[Any], Any], query: Any) -> float:
    start = time.perf_counter()
    call(query)
    torch.cuda.synchronize()
    return time.perf_counter() - start
