"""A cache that holds tokens is read as its model would read it, row by row, or not at all."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra import numpy as hnp  # noqa: E402

import vashista_theory as vt  # noqa: E402
from tests.models import tiny  # noqa: E402
from vashista_theory.attention import Policy, SummarySpec  # noqa: E402
from vashista_theory.models._switch import cache_argument, using_attention  # noqa: E402

PAST, TOKENS = 6, 4
# Logits reach 10; each is a sum of 48 products after two layers of float32 rounding, in another
# order in each implementation.
TOLERANCE = 2e-4


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    spec = SummarySpec(box=False, ball=False, sketch_bits=None)
    vt.models.register(policy=Policy.dense(), page_size=4, spec=spec)
    yield
    vt.models.unregister()


def additive(visible: Any) -> Any:
    """What eager attention adds to the scores."""
    hidden = torch.finfo(torch.float32).min
    return torch.zeros(visible.shape).masked_fill(~visible, hidden)


def continued(model: Any, ids: Any, mask: Any) -> Any:
    """Logits of the last tokens on a cache of the first ones, under a mask (1, 1, T, S)."""
    with torch.no_grad():
        first = model(input_ids=ids[:, :PAST], use_cache=True)
        named = {cache_argument(model): getattr(first, cache_argument(model))}
        places = torch.arange(PAST, PAST + TOKENS)[None]
        rest = {"input_ids": ids[:, PAST:], "position_ids": places}
        return model(**rest, attention_mask=mask, **named).logits


@settings(max_examples=20)
@given(
    recent=hnp.arrays(bool, (TOKENS, TOKENS)),
    hidden=st.none() | st.tuples(st.integers(0, TOKENS - 1), st.integers(0, PAST - 1)),
)
def test_every_row_of_a_mask(recent: np.ndarray, hidden: tuple[int, int] | None) -> None:
    # Any pattern among the new tokens (trees of guesses, packed texts) is honoured; a row that
    # hides what is in the pages cannot be, and is refused.
    eager, ours = tiny.models("llama", "eager", "vashista")
    ids = tiny.prompts(1, PAST + TOKENS)["input_ids"]
    visible = torch.ones(1, 1, TOKENS, PAST + TOKENS, dtype=torch.bool)
    visible[0, 0, :, PAST:] = torch.tensor(recent)
    if hidden is not None:
        visible[0, 0, hidden[0], hidden[1]] = False
        with pytest.raises(vt.models.UnsupportedModelError, match="hides tokens"):
            continued(ours, ids, visible)
        return
    found, expected = continued(ours, ids, visible), continued(eager, ids, additive(visible))
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("columns", [PAST + TOKENS - 1, PAST, TOKENS])
def test_a_mask_that_is_too_short(columns: int) -> None:
    (ours,) = tiny.models("llama", "vashista")
    ids = tiny.prompts(1, PAST + TOKENS)["input_ids"]
    with pytest.raises(vt.models.UnsupportedModelError, match="for 4 queries on 10 keys"):
        continued(ours, ids, torch.ones(1, 1, TOKENS, columns, dtype=torch.bool))


def test_a_mask_with_columns_to_spare() -> None:
    eager, ours = tiny.models("llama", "eager", "vashista")
    ids = tiny.prompts(1, PAST + TOKENS)["input_ids"]
    visible = torch.ones(1, 1, TOKENS, PAST + TOKENS, dtype=torch.bool).tril(PAST)
    longer = torch.nn.functional.pad(visible, (0, 3))
    found, expected = continued(ours, ids, longer), continued(eager, ids, additive(visible))
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


def another_model(_: Any, name: str) -> Any:
    (other,) = tiny.models("llama", name)
    return other


def set_afterwards(ours: Any, name: str) -> Any:
    ours.set_attn_implementation(name)
    return ours


def by_attribute(ours: Any, name: str) -> Any:
    ours.config._attn_implementation = name
    return ours


@pytest.mark.parametrize("name", ["sdpa", "eager"])
@pytest.mark.parametrize("other", [another_model, set_afterwards, by_attribute])
@pytest.mark.parametrize("tokens", [1, 3])
def test_no_other_implementation_reads_it(
    other: Callable[[Any, str], Any], name: str, tokens: int
) -> None:
    (ours,) = tiny.models("llama", "vashista")
    inputs = {"input_ids": tiny.prompts(1, tokens)["input_ids"]}
    with torch.no_grad():
        done = ours(**tiny.prompts(1, PAST))
        named = {cache_argument(ours): getattr(done, cache_argument(ours))}
        again = copy.deepcopy(named)
        with using_attention(ours, "vashista"):
            expected = ours(**inputs, **again).logits
        reader = other(ours, name)
        with pytest.raises(vt.models.UnsupportedModelError, match="another attention"):
            reader(**inputs, **named)
        ours.set_attn_implementation("vashista")
        # Nothing was added to it: the model that filled it goes on.
        torch.testing.assert_close(ours(**inputs, **named).logits, expected, atol=0, rtol=0)


class Stop(Exception):  # noqa: N818 - no error of the model's
    """What interrupts a call."""


@settings(max_examples=10)
@given(
    layer=st.integers(0, 2),
    place=st.sampled_from(["input_layernorm", "self_attn.o_proj", "mlp"]),
    tokens=st.sampled_from([1, 5]),
    later=st.sampled_from([1, 5]),
)
def test_an_interrupted_call_is_noticed(layer: int, place: str, tokens: int, later: int) -> None:
    eager, ours = tiny.models("llama", "eager", "vashista", num_hidden_layers=3)
    ids = tiny.prompts(1, PAST + later)["input_ids"]
    cache = vt.models.PagedCache(ours.config)
    named = {cache_argument(ours): cache}

    def stop(*_: Any) -> None:
        raise Stop

    with torch.no_grad():
        ours(input_ids=ids[:, :PAST], **named)
        part = ours.model.layers[layer].get_submodule(place)
        hook = part.register_forward_pre_hook(stop)
        with pytest.raises(Stop):
            ours(input_ids=ids[:, :tokens], **named)
        hook.remove()
        # Before the first layer has stored anything, or after the last: all hold the same.
        if len({one.seen for one in cache.layers}) > 1:
            with pytest.raises(vt.models.UnsupportedModelError, match=r"interrupted.*crop` to 6"):
                ours(input_ids=ids[:, PAST:], **named)
        cache.crop(PAST)  # what the message says
        found = ours(input_ids=ids[:, PAST:], **named).logits
        expected = eager(input_ids=ids).logits[:, PAST:]
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
