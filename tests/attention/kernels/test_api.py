"""The front: checks, the order of back ends, what is refused and in which words."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.kernels import capability_table, problems
from tests.attention.kernels.conformance import SMALL
from vashista_theory.attention import kernels
from vashista_theory.attention.kernels import api, arg_specs, spec
from vashista_theory.attention.kernels.tpu import tiles as config

CALL = problems.attend_call(SMALL["published_8kv"].attend(), [[40, 16], [3, 0]], traps=False)
ATTEND = dict(zip(CALL._fields[1:], CALL[1:], strict=True))
SMALL_SKETCH = replace(SMALL["published_8kv"], kind="sketch", bits=4)
SCORED, _ = problems.score_problem(SMALL_SKETCH.score(), SMALL_SKETCH.lengths)
SCORE = {
    "query": SCORED.query,
    "summaries": SCORED.parts,
    "page_table": SCORED.page_table,
    "lengths": SCORED.lengths,
    "kind": "sketch",
    "page_size": 16,
    "bits": 4,
}
PRIORITY = jnp.asarray([[[1.0, -jnp.inf, 3.0, 3.0]]], jnp.float32)


def attend(**changes):
    given = {**ATTEND, **changes}
    arrays = [given.pop(name) for name in ("query", "keys", "values", "pages", "tokens")]
    return kernels.attend_pages(*arrays, **given)


def score(**changes):
    given = {**SCORE, **changes}
    arrays = [given.pop(name) for name in ("query", "summaries", "page_table", "lengths")]
    return kernels.score_pages(*arrays, **given)


def refused(kind, call, *texts):
    with pytest.raises(kind, match=re.escape(texts[0])) as caught:
        call()
    for text in texts:
        assert text in str(caught.value)


def test_any_device_gets_an_answer_and_none_of_it_is_forced():
    for forced in (None, "xla"):
        found = attend(implementation=forced)
        assert found.output.shape == CALL.query.shape
        assert np.isneginf(found.log_mass[1, 4:]).all()
    # A kernel's own code is not even traced where its device is not.
    text = jax.jit(lambda query: attend(query=query)).lower(CALL.query).as_text()
    assert "tpu_custom_call" not in text
    assert "mosaic" not in text


def test_all_stages_give_the_same_inside_jit():
    found = jax.jit(lambda query, scale: score(query=query, scale=scale))(
        SCORED.query, jnp.float32(0.3)
    )
    np.testing.assert_allclose(found.upper, score(scale=0.3).upper, rtol=1e-5)
    chosen = jax.jit(lambda p: kernels.select_pages(p, 3))(PRIORITY)
    np.testing.assert_array_equal(chosen.pages, [[[0, 2, 3]]])
    np.testing.assert_array_equal(kernels.select_pages(PRIORITY, 1).pages, [[[2]]])


@pytest.mark.parametrize("traced", [0.0, -1.0, np.inf])
def test_a_traced_scale_that_is_not_positive_shows(traced):
    found = jax.jit(lambda scale: attend(scale=scale))(jnp.float32(traced))
    assert np.isnan(found.output[0]).all()


def test_what_nobody_can_do_is_a_value_error_with_its_remedy():
    wide = jnp.zeros((2, 8, 64), jnp.bfloat16)
    odd = jnp.zeros((2, 7, 128), jnp.bfloat16)
    float64, int64 = np.zeros((2, 8, 128)), np.zeros((2, 2), np.int64)
    for changes, *texts in [
        ({"query": wide}, "keys has shape (2, 18, 16, 128)", "D is 128 here and 64 in query"),
        ({"query": odd}, "7 heads", "multiple of Hkv"),
        ({"query": float64}, "query has type float64", ".astype('float32')"),
        ({"query": [1.0]}, "query is list", "jnp.asarray"),
        ({"values": CALL.values.astype(jnp.float32)}, "values has type float32", "bfloat16"),
        ({"pages": CALL.pages[:1]}, "pages has shape (1, 2, 5)", "B is 1 here and 2 in query"),
        ({"pages": CALL.pages[..., :0]}, "K must be at least 1"),
        ({"tokens": int64}, "tokens has type int64", ".astype('int32')"),
        ({"tokens": CALL.tokens[0]}, "tokens has shape (2,)", "(B, Hkv)"),
        ({"scale": -1.0}, "scale is -1.0", "positive"),
        ({"scale": [1.0, 2.0]}, "scale is [1.0, 2.0]"),
        ({"implementation": "cuda"}, "implementation is 'cuda'", "'xla'"),
        ({"config": config.TpuAttendConfig(2)}, "no implementation is named"),
        ({"config": 3, "implementation": "xla"}, "config is 3", "it has no tiles"),
    ]:
        refused(ValueError, lambda changes=changes: attend(**changes), *texts)
    for changes, *texts in [
        ({"kind": "mean"}, "kind is 'mean'", "'box'"),
        ({"bits": 3}, "bits is 3"),
        ({"kind": "box"}, "bits=4", "Leave them out"),
        ({"kind": "box", "bits": None, "packed": False}, "packed=False"),
        ({"kind": "ball", "bits": None}, "summaries.mean", "SummarySpec"),
        ({"page_size": 32}, "S is 16 here and 32 in page_size"),
        ({"page_size": 0}, "page_size is 0"),
        ({"bits": 8}, "c is 64 here and 128 in bits=8"),
        ({"lengths": SCORED.lengths[:1]}, "lengths has shape (1,)"),
    ]:
        refused(ValueError, lambda changes=changes: score(**changes), *texts)
    for count, text in [(0, "count is 0"), (5, "count is 5"), (True, "count is True")]:
        refused(ValueError, lambda count=count: kernels.select_pages(PRIORITY, count), text)


def test_arguments_of_token_stages_that_nobody_can_take_are_named():
    shape = SMALL["published_8kv"].attend_tokens()
    call = problems.attend_tokens_call(shape, [[40, 16], [3, 0]], traps=False)
    given = dict(zip(call._fields[1:], call[1:], strict=True))
    for changes, *texts in [
        ({"places": call.places[..., :5]}, "log_weights has shape", "C is 80 here and 5 in places"),
        ({"log_weights": call.log_weights.astype(jnp.int32)}, "log_weights has type int32"),
        ({"tokens": call.tokens[0]}, "tokens has shape (2,)", "(B, Hkv)"),
        ({"query": call.query[:, :3]}, "3 heads", "multiple of Hkv"),
    ]:
        refused(
            ValueError, lambda changes=changes: kernels.attend_tokens(**(given | changes)), *texts
        )
    scored = [SCORED.query, SCORED.parts, SCORED.page_table, SCORED.lengths]
    whole = kernels.score_tokens(*scored, page_size=16, bits=4)
    assert whole.shape == (*SCORED.query.shape[:2], SCORED.shape.pages, 16)
    for changes, text in [({"bits": 3}, "bits is 3"), ({"page_size": 32}, "S is 16 here and 32")]:
        asked = {"page_size": 16, "bits": 4} | changes
        refused(ValueError, lambda asked=asked: kernels.score_tokens(*scored, **asked), text)


def test_what_one_back_end_cannot_do_names_it_and_the_reason():
    refused(
        NotImplementedError,
        lambda: kernels.select_pages(
            jnp.zeros((1, 1, 2**17), jnp.float32), 2, implementation="mosaic_tpu"
        ),
        "'mosaic_tpu' cannot select this: rows of 131072 entries take",
        "None for the best that can",
    )
    refused(
        NotImplementedError,
        lambda: attend(
            query=CALL.query.astype(jnp.float16),
            implementation="mosaic_tpu",
        ),
        "float16",
    )


def test_a_back_end_that_cannot_falls_back_to_the_next(monkeypatch):
    asked = []

    def stage(name, why_not):
        def run(*_):
            asked.append(name)
            raise NotImplementedError

        return spec.StageKernel(run, lambda _: why_not)

    def pretend(name):
        if name == "xla":
            return real("xla")
        if name == "third":
            raise NotImplementedError("not installed")
        why_not = "too small" if name == "first" else None
        return spec.Implementation(name, ("cpu",), dict.fromkeys(spec.STAGES, stage(name, why_not)))

    real = api.load
    monkeypatch.setattr(api, "IMPLEMENTATIONS", ("first", "second", "third", "xla"))
    monkeypatch.setattr(api, "load", pretend)
    expected = attend(implementation="xla")
    np.testing.assert_array_equal(attend().output, expected.output)
    assert asked == ["second"]
    np.testing.assert_array_equal(score().upper, score(implementation="xla").upper)
    np.testing.assert_array_equal(kernels.select_pages(PRIORITY, 2).pages, [[[2, 3]]])
    assert asked == ["second"] * 3


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(api._MODULES, "no_such_module", "no_such_module")
    monkeypatch.setattr(api, "IMPLEMENTATIONS", tuple(api._MODULES))
    refused(
        NotImplementedError,
        lambda: api.load("no_such_module"),
        "'no_such_module' cannot be loaded",
        "implementation=None",
    )


@pytest.mark.parametrize(
    ("tiles", "text"),
    [
        (lambda: config.TpuAttendConfig(0), "pages_per_block is 0"),
        (lambda: config.TpuAttendConfig(64), "pages_per_block is 64; at most 32"),
        (lambda: config.TpuScoreConfig(100), "pages_per_block is 100; a positive multiple of 128"),
        (lambda: config.TpuScoreConfig(128, 0), "heads_at_once is 0"),
    ],
)
def test_bad_tiles_are_refused_by_name(tiles, text):
    refused(ValueError, tiles, text)


def test_tiles_that_do_not_fit_the_memory_are_refused_with_some_that_do():
    wide = replace(arg_specs.ARG_SPECS[0], head_size=256, page_size=64, dtype="float32")
    refused(
        ValueError,
        lambda: config.TpuAttendConfig(32).check(wide.attend()),
        "pages_per_block is 32",
        "Use pages_per_block=",
    )
    refused(
        ValueError,
        lambda: config.TpuScoreConfig(2**14).check(wide.score()),
        "pages_per_block is 16384",
        "Use pages_per_block=",
    )


@pytest.mark.parametrize("name", SMALL)
def test_tiles_chosen_by_the_shape_fit(name):
    full = next(found for found in arg_specs.ARG_SPECS if found.name == name)
    config.tpu_attend_config(full.attend()).check(full.attend())
    config.tpu_score_config(full.score()).check(full.score())


def test_the_table_of_capabilities_is_the_one_written():
    pytest.importorskip("numba", reason="without it one column of the table is another")
    written = capability_table.WRITTEN.read_text(encoding="utf-8")
    assert capability_table.capability_table() == written
