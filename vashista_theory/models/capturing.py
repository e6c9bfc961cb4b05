# pyright: reportMissingImports=false, reportUnknownParameterType=false
"""Queries, keys and values of a model's attention heads, written as a heads file."""

import contextlib
import datetime as dt
import hashlib
import json
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from vashista_theory._checks import as_array
from vashista_theory._files import whole_file
from vashista_theory._version import __version__
from vashista_theory._words import count
from vashista_theory.hull.heads import Heads
from vashista_theory.models import refusals
from vashista_theory.models._switch import (
    decoder_config,
    forget,
    make_known,
    supports_interface,
    using_attention,
)
from vashista_theory.models.own_attention import attend_densely, check_own_attention

_NAME = "vashista_capture"


def capture(
    model: Any,
    tokens: Any,
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | int = 8,
    path: str | Path | None = None,
    dtype: str = "float16",
    provenance: dict[str, Any] | None = None,
) -> Heads:
    """Run a model densely over one sequence and record what its attention heads saw.

    Queries and keys are recorded as the attention function receives them: after rotary encoding.
    The file is what ``python -m vashista_theory.sweep --families heads --heads FILE`` and
    `vashista_theory.heads.load_heads` read. The sample inside this package was made like this, by
    ``--layers 0 5 10 15 20 25 29 --tokens 1024 --positions 8``.

    Args:
        model: A causal language model of transformers that uses its attention interface.
        tokens: (T,) or (1, T) token ids.
        layers: Which layers, all by default.
        positions: Which queries to keep: positions, or how many of the last ones.
        path: Where to write an .npz; None only returns the heads.
        dtype: Of the numbers that are kept: "float16", which rounds them to 11 bits whatever the
            model computes in and halves the file, or "float32". What float16 cannot hold is
            refused.
        provenance: What to note in the file beside what is noted anyhow.

    Returns:
        The heads, as they would be read from the file.

    Raises:
        UnsupportedModelError: for a model whose attention is not plain causal attention through the
            interface, or fewer positions than tokens.
        ValueError: for a model in training mode, and for tokens, layers or positions that do not
            exist, naming them.
        OSError: if the file cannot be written.
    """
    _refuse_training(model)
    ids = _as_tokens(tokens, model)
    wanted = _as_layers(layers, model)
    chosen = _as_positions(positions, ids.shape[1])
    if dtype not in ("float16", "float32"):
        raise ValueError(f"dtype is {dtype!r}; 'float16' or 'float32' is expected.")
    seen: dict[int, tuple[Any, Any, Any]] = {}
    scales: set[float] = set()

    def record(
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        mask: Any,
        dropout: float = 0.0,
        scaling: float | None = None,
        **options: Any,
    ) -> Any:
        refusals.check_call(module, query, key, value, mask, dropout, options)
        check_own_attention(module, query, key, scaling)
        scales.add(query.shape[-1] ** -0.5 if scaling is None else float(scaling))
        if module.layer_idx in wanted:
            kept = query[0, :, chosen]
            seen[module.layer_idx] = tuple(
                array.to(torch.float32).cpu().numpy() for array in (kept, key[0], value[0])
            )
        return attend_densely(module, query, key, value, mask, scaling, options), None

    with _recording(model, record), torch.inference_mode():
        model(input_ids=ids, use_cache=False)
    missing = sorted(set(wanted) - set(seen))
    if missing:
        raise refusals.unsupported(
            f"{type(model).__name__}: layers {missing} did not call the attention interface"
        )
    if len(scales) != 1:
        raise ValueError(f"layers have different scales {sorted(scales)}; capture them apart.")
    arrays = [_narrowed(np.stack([seen[i][part] for i in wanted]), dtype) for part in range(3)]
    notes = _provenance(model, ids, arrays) | (provenance or {})
    queries, keys, values = arrays
    heads = Heads(
        queries, keys, values, np.asarray(wanted), np.asarray(chosen), scales.pop(), notes
    )
    if path is not None:
        _write(Path(path), heads)
    return heads


def _refuse_training(model: Any) -> None:
    training = [name or "the model" for name, module in model.named_modules() if module.training]
    if training:
        raise ValueError(
            f"{type(model).__name__} is in training mode ({count(len(training), 'module')} of it, "
            f"first {training[0]}), where dropout changes what is recorded. Call `model.eval()` "
            "first."
        )


@contextlib.contextmanager
def _recording(model: Any, function: Any) -> Generator[None]:
    """Let a model use an attention function for a while."""
    refusals.check_unmixed(decoder_config(model.config))
    if not supports_interface(model):
        raise refusals.unsupported(
            f"{type(model).__name__}: it does not use transformers' attention interface"
        )
    make_known(_NAME, function)
    try:
        with using_attention(model, _NAME):
            yield
    finally:
        forget(_NAME)


def _as_tokens(tokens: Any, model: Any) -> torch.Tensor:
    ids = torch.as_tensor(np.asarray(as_array(tokens, "tokens")))
    if ids.ndim == 1:
        ids = ids[None]
    if ids.ndim != 2 or ids.shape[0] != 1 or ids.shape[1] == 0 or ids.is_floating_point():
        raise ValueError(
            f"`tokens` is {ids.dtype} of shape {tuple(ids.shape)}; token ids (T,) are expected, "
            "one sequence without padding."
        )
    config = decoder_config(model.config)
    if int(ids.min()) < 0 or int(ids.max()) >= config.vocab_size:
        raise ValueError(f"token ids must be 0 to {config.vocab_size - 1}, got {int(ids.max())}.")
    refusals.check_context(ids.shape[1], config)
    return ids.to(model.device)


def _as_layers(layers: Sequence[int] | None, model: Any) -> list[int]:
    count = decoder_config(model.config).num_hidden_layers
    if isinstance(layers, int | np.integer):
        raise ValueError(
            f"layers is {layers!r}; a list of numbers is expected, such as [{layers}]."
        )
    wanted = list(range(count)) if layers is None else [int(i) for i in layers]
    bad = [i for i in wanted if not 0 <= i < count]
    if bad or not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"layers are {wanted}; this model has 0 to {count - 1}, each once.")
    return wanted


def _as_positions(positions: Sequence[int] | int, tokens: int) -> list[int]:
    if isinstance(positions, int | np.integer):
        if not 1 <= positions <= tokens:
            raise ValueError(f"positions is {positions}; there are {tokens} tokens.")
        return list(range(tokens - positions, tokens))
    chosen = [int(i) for i in positions]
    if not chosen or any(not 0 <= i < tokens for i in chosen):
        raise ValueError(f"positions are {chosen}; there are 0 to {tokens - 1}.")
    return chosen


def _narrowed(array: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        narrow = array.astype(dtype)
    if not np.isfinite(narrow).all():
        raise ValueError(
            f"the largest number is {np.abs(array).max():.3g}, which {dtype} cannot hold. Use "
            "dtype='float32'."
        )
    return narrow


def _provenance(model: Any, ids: torch.Tensor, arrays: list[np.ndarray]) -> dict[str, Any]:
    config = decoder_config(model.config)
    names = ("queries", "keys", "values")
    return {
        "model": f"{config.model_type}, {config.num_hidden_layers} layers",
        "tokens": int(ids.shape[1]),
        "tokens_sha256": hashlib.sha256(ids.cpu().numpy().astype("<i8").tobytes()).hexdigest(),
        "computed_in": str(model.dtype).removeprefix("torch."),
        "encoding": "queries and keys as attention receives them, after position encoding",
        "shapes": {name: list(a.shape) for name, a in zip(names, arrays, strict=True)},
        "sha256": {
            name: hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest()
            for name, a in zip(names, arrays, strict=True)
        },
        "versions": {
            "vashista_theory": __version__,
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
        },
        "captured": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def _write(path: Path, heads: Heads) -> None:
    with whole_file(path) as file:
        np.savez_compressed(
            file,
            queries=heads.queries,
            keys=heads.keys,
            values=heads.values,
            layers=heads.layers,
            positions=heads.positions,
            scale=np.float64(heads.scale),
            provenance=np.array(json.dumps(heads.provenance)),
        )
