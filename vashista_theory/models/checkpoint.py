# pyright: reportMissingImports=false
"""What a model folder holds besides weights, and whether the weights are all there.

transformers fills a tensor that is missing with random numbers and leaves out one that it has no
place for; both are said in a log and nowhere else.
"""

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch

from vashista_theory._reading import json_object, read_text
from vashista_theory.models.fetching import ModelFileError
from vashista_theory.models.gguf_header import GgufHeader

MOST_MODULES = 10_000
"""Layers, or experts: far more than any model has, and each would be built before it could fail."""

_COUNTS = (
    *("num_hidden_layers", "num_layers", "n_layer", "n_layers"),
    *("num_experts", "num_local_experts", "n_routed_experts"),
)
_ADAPTER = "adapter_config.json"
_GENERATE = "custom_generate"
_SHOWN = 3


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be loaded as it stands.

    Raises:
        ModelFileError: It has no config.json that can be used, or code to generate text with.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise ModelFileError(
            f"{folder} has no config.json: a folder in the Hugging Face layout is expected, as "
            "`model.save_pretrained` and `tokenizer.save_pretrained` write it."
        )
    if (folder / _GENERATE).exists():
        raise ModelFileError(
            f"{folder} brings its own way to generate text ({_GENERATE}), which is code and is not "
            "run. Take that folder away to load the model without it."
        )
    try:
        content = json_object(read_text(config), str(config))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{error}. Copy the folder again from where it came.") from None
    for part in (content, *(part for part in content.values() if isinstance(part, dict))):
        for name in _COUNTS:
            count: Any = part.get(name)
            if isinstance(count, int | float) and count > MOST_MODULES:
                raise ModelFileError(
                    f"{config} has {name} = {count:.4g}; at most {MOST_MODULES:,} are expected. "
                    "Copy the folder again from where it came."
                )


def check_no_adapter(found: str | None, source: str) -> None:
    """Refuse an adapter: whether it is used depends on the libraries that happen to be there.

    Raises:
        ModelFileError: One was found.
    """
    if found is not None:
        raise ModelFileError(
            f"{source} has an adapter ({_ADAPTER}) for the weights of a model. Merge the two with "
            "peft's `merge_and_unload`, save that, and load it; or take the adapter's files away."
        )


def check_weights(model: Any, report: Mapping[str, Any], source: str) -> None:
    """Refuse a model whose tensors are not exactly those of its checkpoint, all of them numbers.

    Args:
        model: As loaded.
        report: What `from_pretrained` says with ``output_loading_info=True``.
        source: For the error message.

    Raises:
        ModelFileError: With the names of the tensors.
    """
    for problem, key in (
        ("lacks tensors", "missing_keys"),
        ("has tensors that its model does not", "unexpected_keys"),
        ("has tensors of another shape than its model", "mismatched_keys"),
        ("has tensors that could not be read", "error_msgs"),
    ):
        if report.get(key):
            raise _refusal(source, problem, (_name(one) for one in report[key]))
    tensors: dict[str, torch.Tensor] = model.state_dict()
    bad = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
    if bad:
        raise _refusal(source, f"has NaN or infinity, read as {model.dtype}, in", bad)


def check_all_used(model: Any, header: GgufHeader, source: str) -> None:
    """Refuse a GGUF file of which the model took other than all numbers.

    Raises:
        ModelFileError: With the names of the tensors that have no place, where they can be told.
    """
    given = sum(prod(shape) for shape in header.shapes.values())
    distinct = {tensor.data_ptr(): tensor.numel() for tensor in model.state_dict().values()}
    if given == sum(distinct.values()):
        return
    known = set(_gguf_names(model, header))
    unused = [name for name in header.shapes if name not in known]
    problem = f"has {given:,} numbers, its model takes {sum(distinct.values()):,}; without a place"
    raise _refusal(source, problem, unused or ["which ones cannot be told"])


def _gguf_names(model: Any, header: GgufHeader) -> Iterator[str]:
    import gguf

    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    if header.architecture in kinds:
        names = gguf.get_tensor_name_map(kinds[header.architecture], header.layers)
        for name in model.state_dict():
            yield f"{names.get_name(name, ('.weight', '.bias'))}"


def _name(entry: Any) -> str:
    return str(entry[0] if isinstance(entry, tuple) else entry)


def _refusal(source: str, problem: str, names: Iterable[str]) -> ModelFileError:
    known = sorted(names)
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return ModelFileError(
        f"{source} {problem}: {', '.join(known[:_SHOWN])}{more}. It is damaged, or a part of "
        "another model: download it again, and compare its SHA-256 with the publisher's."
    )
