"""Tiny models of every family, by our attention and by transformers' eager, in one process.

Run as `python -m experiments.shared.model_comparison SEED FAMILY...`; without a family it takes all
of them. Its last line is JSON. The interpreter decides the release.
"""

import copy
import functools
import inspect
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from experiments.shared.tiny_models import CONTEXT, VOCABULARY, tiny_config

# Parameters: more is not tiny, and takes memory by the gigabyte where a size has an unknown name.
_MOST_PARAMETERS = 3_000_000
_SECONDS = 120  # a family
_PROMPT, _FIRST, _NEW = 16, 9, 6
# Of the largest logit. Eager and sdpa add up float32 products in different orders and differ by up
# to 1e-5 after two layers; an attention that is not the model's own differs by 1e-2 and more.
TOLERANCE = 1e-4


def families() -> dict[str, Any]:
    """The configuration class of every decoder of transformers' auto mapping, by model type."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return {
        name: transformers.CONFIG_MAPPING[name]
        for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        if name in transformers.CONFIG_MAPPING
    }


def compare(names: list[str], seed: int) -> list[dict[str, Any]]:
    """One row a family: its outcome, in words, and the largest difference seen.

    The implementation has to be registered, with a policy that reads everything.
    """
    known = families()
    return [_compared(name, known[name], seed) for name in names or known]


def _compared(name: str, kind: Any, seed: int) -> dict[str, Any]:
    from vashista_theory import models

    row: dict[str, Any] = {"family": name}
    try:
        with _at_most(_SECONDS):
            config, reference = _eager(kind, seed)
    except models.UnsupportedModelError as refusal:
        return row | {"outcome": "refused", "words": _reason(refusal)}
    except Exception as error:  # noqa: BLE001 - the reason is the result
        return row | {"outcome": "not tried", "words": _said(error)}
    inputs = _inputs(seed)
    cases: dict[str, str] = {}
    differences: list[float] = []
    try:
        with _at_most(_SECONDS):
            for case, ask in _CASES.items():
                try:
                    expected = ask(reference, inputs)
                except Exception as error:  # noqa: BLE001 - not ours to mend
                    cases[case] = f"not tried: {_said(error)}"
                    continue
                cases[case], difference = _case(ask, config, reference, inputs, expected)
                differences += [difference] if difference is not None else []
    except TimeoutError as error:
        cases["time"] = f"not tried: {error}"
    return row | _summary(cases, differences)


def _summary(cases: dict[str, str], differences: list[float]) -> dict[str, Any]:
    tried = {case: said for case, said in cases.items() if not said.startswith("not tried")}
    refused = {case: said for case, said in tried.items() if said.startswith("refused: ")}
    wrong = {case: said for case, said in tried.items() if said.startswith("wrong")}
    worst = max(differences, default=None)
    if wrong:
        words = "; ".join(f"{case}: {said}" for case, said in wrong.items())
        return {"outcome": "wrong", "words": words, "difference": worst}
    if not tried:
        return {"outcome": "not tried", "words": next(iter(cases.values()))[len("not tried: ") :]}
    if not refused:
        return {"outcome": "exact", "words": "", "difference": worst}
    # By what is said before the sizes in brackets.
    reasons = {said.partition(" (")[0]: said[len("refused: ") :] for said in refused.values()}
    words = "; ".join(reasons.values())
    if len(refused) < len(tried):
        return {
            "outcome": "exact in part",
            "words": f"{', '.join(refused)}: {words}",
            "difference": worst,
        }
    return {"outcome": "refused", "words": words}


def _case(
    ask: Callable[..., Any], config: Any, reference: Any, inputs: Any, expected: Any
) -> tuple[str, float | None]:
    """What one way to call a model gives: exact, refused or wrong, with the difference."""
    from vashista_theory import models

    try:
        ours = _made(type(reference), config, "vashista")
        ours.load_state_dict(reference.state_dict())
        found = ask(ours, inputs)
    except models.UnsupportedModelError as refusal:
        return f"refused: {_reason(refusal)}", None
    except TimeoutError:
        raise
    except Exception as error:  # noqa: BLE001 - an error that names nothing is a fault
        return f"wrong: {_said(error)}", None
    if found["text"] != expected["text"]:
        return "wrong: another text", None
    size = max(float(expected["logits"].abs().max()), 1.0)
    difference = float((found["logits"] - expected["logits"]).abs().max()) / size
    # A comparison that NaN fails.
    return "exact" if difference <= TOLERANCE else "wrong: other logits", difference


def _eager(kind: Any, seed: int) -> tuple[Any, Any]:
    """A tiny configuration, and a model of it with random weights."""
    import torch
    import transformers

    from vashista_theory import models

    config = tiny_config(kind)
    known = transformers.AutoModelForCausalLM._model_mapping[type(config)]
    model_class = known[0] if isinstance(known, list | tuple) else known
    if model_class.config_class is not type(config):
        config = config.get_text_config(decoder=True)  # what loading from a folder does
    try:
        with torch.device("meta"):
            _made(model_class, config, "vashista")
    except models.UnsupportedModelError:  # before it is known whether eager runs: it is not asked
        raise
    except Exception:  # noqa: BLE001 - the next attempt says what it is
        pass
    try:
        with torch.device("meta"):
            size = sum(p.numel() for p in _made(model_class, config, "eager").parameters())
    except NotImplementedError:  # it computes while it is made
        size = 0
    if size > _MOST_PARAMETERS:
        raise ValueError(f"{size:,} parameters at the least that the procedure finds")
    model = _made(model_class, config, "eager")
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                # Scores of several nats, as those of trained heads; nothing is left at zero.
                drawn = torch.randn(parameter.shape, generator=source, dtype=parameter.dtype)
                parameter.copy_(0.3 * drawn if parameter.ndim > 1 else parameter + 0.1 * drawn)
    logits = _logits(model, _inputs(seed))
    if not logits.isfinite().all():
        raise ValueError("the logits of its own eager attention are not finite")
    return config, model


def _made(model_class: Any, config: Any, implementation: str) -> Any:
    model = model_class._from_config(copy.deepcopy(config), attn_implementation=implementation)
    model.eval()
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = None  # write as long as the others
    return model


def _inputs(seed: int) -> dict[str, Any]:
    """Two sequences, the second with padding on its left."""
    import torch

    source = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (2, _PROMPT), generator=source)
    mask = torch.ones_like(ids)
    ids[1, :5] = 0
    mask[1, :5] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _logits(model: Any, inputs: Any, **options: Any) -> Any:
    """Logits (tokens, V) at the tokens that are not padding."""
    import torch

    with torch.no_grad():
        logits = model(**inputs, **options).logits
    return logits[inputs["attention_mask"][:, -logits.shape[1] :].bool()].float()


def _at_once(use_cache: bool, model: Any, inputs: Any) -> dict[str, Any]:
    return {"logits": _logits(model, inputs, use_cache=use_cache), "text": []}


def _in_pieces(model: Any, inputs: Any) -> dict[str, Any]:
    """A second piece of the prompt on a filled cache, then a token."""
    import torch

    named = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    cache, pieces, start = None, [], 0
    for end in (_FIRST, _PROMPT - 1, _PROMPT):
        piece = {
            "input_ids": inputs["input_ids"][:, start:end],
            "attention_mask": inputs["attention_mask"][:, :end],
        }
        given = {} if cache is None else {named: cache}
        with torch.no_grad():
            done = model(**piece, **given, use_cache=True)
        cache = getattr(done, named)
        if cache is None:
            raise ValueError("it hands out no cache")
        pieces.append(done.logits)
        start = end
    logits = torch.cat(pieces, dim=1)
    return {"logits": logits[inputs["attention_mask"].bool()].float(), "text": []}


def _written(model: Any, inputs: Any) -> dict[str, Any]:
    import torch

    done = model.generate(
        **inputs,
        max_new_tokens=_NEW,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        pad_token_id=0,
    )
    return {"logits": torch.stack(done.logits).float(), "text": done.sequences.tolist()}


_CASES: dict[str, Callable[[Any, Any], dict[str, Any]]] = {
    "without a cache": functools.partial(_at_once, False),
    "with a cache": functools.partial(_at_once, True),
    "a prompt in pieces": _in_pieces,
    "generate": _written,
}


def _reason(refusal: Exception) -> str:
    """What is refused, without the remedy."""
    found = re.search(r"does not support (.*?)\. (?=[A-Z])", str(refusal) + " Z")
    return found[1] if found else _said(refusal)


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main(seed: int, names: list[str]) -> None:
    """Register, compare, print."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "critical"}
    warnings.filterwarnings("ignore")
    import torch
    import transformers

    from vashista_theory import attention, models

    torch.set_num_threads(1)
    bare = attention.SummarySpec(box=False, ball=False, sketch_bits=None)
    models.register(policy=attention.Policy.dense(), spec=bare, page_size=4)
    rows = compare(names, seed)
    versions = {"transformers": transformers.__version__, "torch": str(torch.__version__)}
    print(json.dumps({"versions": versions, "rows": rows}))


if __name__ == "__main__":
    assert CONTEXT > _PROMPT + _NEW
    main(int(sys.argv[1]), sys.argv[2:])
