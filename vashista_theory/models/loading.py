# pyright: reportMissingImports=false, reportUnknownParameterType=false
"""A language model and its tokenizer from a packaged name, a file, a folder or a hub id."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer

from vashista_theory.models import refusals
from vashista_theory.models._switch import supports_interface
from vashista_theory.models.fetching import MODELS, FetchError, ModelFileError, fetch
from vashista_theory.models.interface import NAME


class LoadedModel(NamedTuple):
    """A model in evaluation mode, its tokenizer, and where they came from."""

    model: Any
    tokenizer: Any
    source: str


def load(
    name_or_path: str | Path,
    *,
    attn_implementation: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> LoadedModel:
    """A causal language model with its tokenizer, ready to decode.

    Args:
        name_or_path: "smollm2-135m" (see `fetch`), a GGUF file, a folder in the Hugging Face
            layout, or a hub id such as "HuggingFaceTB/SmolLM2-135M-Instruct".
        attn_implementation: "vashista" (call `register` first), "sdpa", "eager", or None for
            transformers' choice.
        dtype: float32 by default: bfloat16 changes the most probable token at a few per cent of
            the positions.
        device: Where torch keeps the model; "vashista" needs JAX there too.

    Returns:
        `.model`, `.tokenizer`, `.source`.

    Raises:
        ValueError: for a name that is neither known nor a file, folder or hub id.
        ModelFileError: for a file that is truncated or no model.
        FetchError: if there is no network and one is needed.
        UnsupportedModelError: for "vashista" with a model that cannot use it.
    """
    text = str(name_or_path)
    if text in MODELS:
        return _from_file(fetch(text), text, attn_implementation, dtype, device)
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return _from_file(path, str(path), attn_implementation, dtype, device)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelFileError(
                f"{path} has no config.json: a folder in the Hugging Face layout is expected, as "
                "`model.save_pretrained` and `tokenizer.save_pretrained` write it."
            )
        return _loaded(str(path), text, attn_implementation, dtype, device)
    local = text.startswith((".", "/", "~")) or text.endswith(".gguf") or text.count("/") != 1
    if isinstance(name_or_path, Path) or local:
        raise ValueError(
            f"{text!r} is no model: expected one of {', '.join(sorted(MODELS))}, an existing GGUF "
            "file or folder, or a hub id such as 'HuggingFaceTB/SmolLM2-135M-Instruct'."
        )
    return _loaded(text, text, attn_implementation, dtype, device)


def _from_file(
    path: Path, source: str, attention: str | None, dtype: torch.dtype, device: str
) -> LoadedModel:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ModelFileError(
            f"{path} is not a GGUF file (it begins with {magic!r}). Pass a GGUF file, or the "
            "folder that holds a model's config.json."
        )
    folder = str(path.resolve().parent)
    return _loaded(folder, source, attention, dtype, device, gguf_file=path.name)


def _loaded(
    place: str,
    source: str,
    attention: str | None,
    dtype: torch.dtype,
    device: str,
    **options: Any,
) -> LoadedModel:
    if attention == NAME and NAME not in AttentionInterface().valid_keys():
        raise ValueError(
            f"attn_implementation={NAME!r} is not known to transformers yet. Call "
            "`vt.models.register()` first."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        model = AutoModelForCausalLM.from_pretrained(
            place, dtype=dtype, attn_implementation=attention, **options
        )
    except ImportError as error:
        raise ImportError(
            f"loading {source} needs a library that is missing ({error}). Install the extra with "
            '`pip install "vashista-theory[lm]"`.'
        ) from error
    except refusals.UnsupportedModelError:
        raise
    except Exception as error:  # what a broken file raises is nowhere said
        raise _explained(place, source, error, options) from error
    if attention == NAME:
        _check_uses_interface(model)
    model.eval()
    placed: Any = model
    return LoadedModel(placed.to(device), tokenizer, source)


def _explained(place: str, source: str, error: Exception, options: dict[str, Any]) -> Exception:
    text = " ".join(str(error).split())
    short = text if len(text) <= 300 else text[:297] + "..."
    if not options and not Path(place).is_dir():
        return FetchError(
            f"cannot load {source!r} from the hub: {short} Check the name and the network, or pass "
            f"a folder, a GGUF file or one of {', '.join(sorted(MODELS))}."
        )
    return ModelFileError(
        f"{source} cannot be read as a model ({type(error).__name__}: {short}). Is the file whole? "
        "Download it again, and compare its SHA-256 with the publisher's."
    )


def _check_uses_interface(model: Any) -> None:
    if not supports_interface(model):
        raise refusals.unsupported(
            f"{type(model).__name__}: it does not use transformers' attention interface",
            "Use attn_implementation='eager' for it.",
        )
    refusals.check_config(model.config.get_text_config(decoder=True))
