"""What the tests of bad input share: a small problem, and what a readable error is."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vashista_theory.attention import PagedKV, Policy, SummarySpec

BATCH, HEADS, PAGE, D, TOKENS = 2, 2, 4, 8, 20
RNG = np.random.default_rng(0)
KEYS = RNG.normal(size=(BATCH, HEADS, TOKENS, D))
QUERY = RNG.normal(size=(BATCH, 4, D))
BLOCK = KEYS[:, :, :6]
POOL = RNG.normal(size=(HEADS, 6, PAGE, D))
TABLE, LENGTHS = np.array([[0, 1, 2], [3, 4, 5]]), np.array([12, 5])
DENSE = Policy.dense()
NAN = float("nan")
BARE = SummarySpec(box=False, ball=False, sketch_bits=None)  # quicker to compile


@functools.cache
def filled_cache() -> PagedKV:
    return PagedKV.from_tokens(KEYS, KEYS, page_size=PAGE)


def new_cache(**sizes) -> PagedKV:
    given = {
        "batch": BATCH, "kv_heads": HEADS, "head_size": D, "pages": 8, "pages_per_sequence": 5,
        "page_size": PAGE, "dtype": jnp.float64, "spec": BARE, **sizes,
    }  # fmt: skip
    return PagedKV.create(**given)


def with_one(array, place, value):
    array = np.array(array)
    array[place] = value
    return array


def refused(call, *texts):
    """The call raises a ValueError of ours with every text in it: the value and the remedy."""
    with pytest.raises(ValueError, match=re.escape(texts[0])) as caught:
        call()
    message = str(caught.value)
    for text in texts[1:]:
        assert text in message, message
    assert "vashista_theory" in str(caught.traceback[-1].path), "raised elsewhere, inside JAX?"
    assert not isinstance(caught.value, TypeError | jax.errors.JAXTypeError)
