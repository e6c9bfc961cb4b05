"""What judging costs, which pages are chosen, and in which order: counted by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from vashista_theory.attention import PagedKV, Policy, SummarySpec, vashista_attention
from vashista_theory.attention.bounds.page_bounds import as_query
from vashista_theory.attention.step import two_levels, widening
from vashista_theory.attention.step.candidates import summary_bytes
from vashista_theory.attention.step.plain_backend import PlainBackend
from vashista_theory.attention.step.routing import Layout, select_pages
from vashista_theory.attention.step.softmax_sums import as_rows


@pytest.mark.parametrize(
    ("summary", "tolerance", "expected"),
    [
        ("mean", None, 16 + 2), ("box", None, 32), ("ball", None, 20),
        ("sketch", None, 32 + 16),  # no residuals: nothing is proved
        ("box", 0.1, 32 + 16 + 2 + 2), ("sketch", 0.1, 32 + 16 + 8 + 2),
    ],
)  # fmt: skip
def test_bytes_of_a_page_that_is_judged(summary, tolerance, expected):
    """Pages of 4 keys of 8 numbers: bfloat16, codes of half a byte, a residual for each key."""
    spec = SummarySpec(sketch_bits=4)
    cache = PagedKV.create(batch=1, kv_heads=1, head_size=8, pages=4, page_size=4, spec=spec)
    policy = Policy(pages=3, summary=summary, tolerance=tolerance)
    assert summary_bytes(cache, policy) == expected


@pytest.mark.parametrize(("sink", "recent"), [(1, 1), (0, 0), (16, 16), (17, 2), (3, 33)])
def test_superpages_that_are_opened_leave_room_for_those_asked_for(sink, recent):
    """However many pages there are, those that are always read take no place of the three."""
    policy = Policy(pages=40, summary="box", superpages=3, sink=sink, recent=recent)
    for count in range(1, 200):
        last = range(max(0, count - max(1, recent)), count)
        always = {page // 16 for page in (*range(min(sink, count)), *last)}
        assert two_levels._opened(policy) >= 3 + len(always)


def test_places_without_a_page_name_the_first_one():
    full, forced = jnp.asarray([[True, False, True]]), jnp.asarray([[False, False, False]])
    priority = jnp.asarray([[1.0, 5.0, 2.0]])
    index, chosen = select_pages(priority, Layout(full, forced), 3)
    np.testing.assert_array_equal(index, [[0, 2, 0]])
    np.testing.assert_array_equal(chosen, [[True, True, False]])


def test_order_falls_and_what_is_not_meant_comes_last():
    priority = jnp.asarray([[0.0, 3.0, 9.0, -jnp.inf, 1.5, 2.9, -40.0]])
    meant = jnp.asarray([[True, True, False, True, True, True, True]])
    order = widening._descending(priority, meant)
    np.testing.assert_array_equal(order, [[1, 5, 4, 0, 6, 3, 2]])


def test_tokens_behind_an_output_count_what_is_in_the_last_page():
    keys, values = np.random.default_rng(0).normal(size=(2, 1, 1, 23, 8))
    cache = PagedKV.from_tokens(keys, values, page_size=4)
    _, info = vashista_attention(np.ones((1, 1, 8)), cache, Policy(pages=3))
    assert int(info.pages_read[0, 0]) == 3
    assert int(info.tokens_read[0, 0]) == 4 + 4 + 3


def test_scores_of_tokens_are_of_the_page_that_the_table_names():
    """Pages in any order, the first of the pool among them, and one cache of two sequences."""
    rng = np.random.default_rng(1)
    keys, values = rng.normal(size=(2, 1, 4, 4, 8))
    table = np.array([[3, 0, 2, 1], [1, 2, 0, 3]])
    cache = PagedKV.from_pages(keys, values, table, [16, 16], spec=SummarySpec(sketch_bits=8))
    query = rng.normal(size=(2, 1, 8))
    rows, policy = (
        as_query(jnp.asarray(query), jnp.asarray(0.5)),
        Policy.sampled(12, confidence=0.9),
    )
    found = PlainBackend().token_scores(rows, cache, as_rows(cache), policy)
    exact = 0.5 * np.einsum("rd,rpsd->rps", query[:, 0], keys[0][table])
    assert np.all(np.abs(np.asarray(found.logits)[:, 0] - exact) <= np.asarray(found.errors)[:, 0])
