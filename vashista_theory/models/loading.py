# pyright: reportMissingImports=false, reportUnknownParameterType=false
"""A language model and its tokenizer from a packaged name, a file, a folder or a hub id."""

import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.peft_utils import find_adapter_config_file

from vashista_theory._version import install
from vashista_theory.models import refusals
from vashista_theory.models._switch import supports_interface
from vashista_theory.models.checkpoint import (
    check_all_used,
    check_folder,
    check_no_adapter,
    check_weights,
)
from vashista_theory.models.fetching import MODELS, FetchError, ModelFileError, copy_verified
from vashista_theory.models.gguf_header import read_header
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

    Nothing that comes with a model is run: no Python of its folder, no pickle. A GGUF file is
    loaded from a folder of its own, so nothing beside it is read.

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
        ModelFileError: for a file that is truncated or no model, tensors that are missing or have
            no place in it, weights that are not finite; the message names them.
        FetchError: if there is no network and one is needed.
        UnsupportedModelError: for "vashista" with a model that cannot use it.
    """
    text = str(name_or_path)
    how = _How(attn_implementation, dtype, device)
    if text in MODELS:
        with tempfile.TemporaryDirectory(prefix="vashista-") as alone:
            return _from_gguf(copy_verified(text, Path(alone)), text, how)
    path = Path(name_or_path).expanduser()
    if path.is_file():
        # Of its neighbours, a loader would read what is called as a part of a model.
        with tempfile.TemporaryDirectory(prefix="vashista-") as alone:
            return _from_gguf(_linked(path.resolve(), Path(alone)), str(path), how)
    if path.is_dir():
        check_folder(path)
        _check_tokenizer(path)
        return _loaded(str(path), text, how)
    local = text.startswith((".", "/", "~")) or text.endswith(".gguf") or text.count("/") != 1
    if isinstance(name_or_path, Path) or local:
        raise ValueError(
            f"{text!r} is no model: expected one of {', '.join(sorted(MODELS))}, an existing GGUF "
            "file or folder, or a hub id such as 'HuggingFaceTB/SmolLM2-135M-Instruct'."
        )
    return _loaded(text, text, how)


_TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt",
    "spiece.model", "tekken.json",
)  # fmt: skip


def _check_tokenizer(folder: Path) -> None:
    if (folder / "config.json").is_file() and not any((folder / n).is_file() for n in _TOKENIZERS):
        raise ModelFileError(
            f"{folder} holds a model without its tokenizer (no {_TOKENIZERS[0]} or the like). Save "
            "it beside the model with `tokenizer.save_pretrained(folder)`."
        )


class _How(NamedTuple):
    attention: str | None
    dtype: torch.dtype
    device: str


def _linked(path: Path, folder: Path) -> Path:
    link = folder / path.name
    try:
        link.symlink_to(path)
    except OSError:  # not everybody may make links on Windows
        shutil.copyfile(path, link)
    return link


def _from_gguf(path: Path, source: str, how: _How) -> LoadedModel:
    try:
        header = read_header(path)
    except ModelFileError as error:
        raise ModelFileError(str(error).replace(str(path), source)) from None
    loaded = _loaded(str(path.parent), source, how, gguf_file=path.name)
    check_all_used(loaded.model, header, source)
    for part in (loaded.model.config, loaded.tokenizer):  # not the folder that is gone by now
        part.name_or_path = source
    return loaded


def _loaded(place: str, source: str, how: _How, **options: Any) -> LoadedModel:
    if how.attention == NAME and NAME not in AttentionInterface().valid_keys():
        raise ValueError(
            f"attn_implementation={NAME!r} is not known to transformers yet. Call "
            "`vt.models.register()` first."
        )
    # Said, not left to the defaults: unset, transformers asks on standard input whether it may run
    # the folder's code; torch takes any pickle where an environment variable says so; and a
    # configuration may name an attention kernel to be downloaded, unless a name is given here.
    options["trust_remote_code"] = False
    try:
        check_no_adapter(find_adapter_config_file(place), source)
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place,
            config=AutoConfig.from_pretrained(place, **options),
            dtype=how.dtype,
            attn_implementation=how.attention,
            weights_only=True,
            ignore_mismatched_sizes=True,  # reported, and refused below with their names
            output_loading_info=True,
            **options,
        )
    except ImportError as error:
        raise ImportError(
            f"loading {source} needs a library that is missing ({_shortened(error)}). Remedy: "
            f"{install('lm')}."
        ) from error
    except (ModelFileError, refusals.UnsupportedModelError):
        raise
    except Exception as error:  # what a broken file raises is nowhere said
        raise _explained(place, source, error) from error
    model, report = loaded
    check_weights(model, report, source)
    if how.attention == NAME:
        _check_uses_interface(model)
    return LoadedModel(model.eval().to(how.device), tokenizer, source)


def _explained(place: str, source: str, error: Exception) -> Exception:
    short = _shortened(error)
    if "trust_remote_code" in str(error):
        return ModelFileError(
            f"{source} needs Python code of its own, which is not run here. Choose a model that "
            "transformers knows by itself."
        )
    if not Path(place).is_dir():
        return FetchError(
            f"cannot load {source!r} from the hub: {short} Check the name and the network, or pass "
            f"a folder, a GGUF file or one of {', '.join(sorted(MODELS))}."
        )
    return ModelFileError(
        f"{source} cannot be read as a model ({type(error).__name__}: {short}). Is the file whole? "
        "Download it again, and compare its SHA-256 with the publisher's."
    )


def _shortened(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."


def _check_uses_interface(model: Any) -> None:
    if not supports_interface(model):
        raise refusals.unsupported(
            f"{type(model).__name__}: it does not use transformers' attention interface",
            "Use attn_implementation='eager' for it.",
        )
    refusals.check_config(model.config.get_text_config(decoder=True))
