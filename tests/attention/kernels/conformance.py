"""What holds for every back end, by stage: each subclasses what it can do."""

from dataclasses import replace
from typing import ClassVar

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.attention.kernels import problems
from vashista_theory.attention.kernels import api, reference, spec
from vashista_theory.attention.kernels.arg_specs import ARG_SPECS

LARGEST_VALUE = 5.0
SMALL = {found.name: found.small() for found in ARG_SPECS}


def tolerance(dtype: str) -> float:
    """Relative to the largest value: sums are in float32, weights may be rounded to the pool's."""
    return 2e-5 if dtype == "float32" else 4 * float(jnp.finfo(dtype).eps)


class Conformance:
    """One back end held against the float64 reference.

    Attributes:
        implementation: Its name.
        cannot: Names of arg_specs that it refuses, by stage; it has to refuse exactly these.
        examples: Random shapes tried of each stage; fewer where an interpreter is slow.
    """

    implementation: ClassVar[str]
    cannot: ClassVar[dict[str, set[str]]] = {}
    examples: ClassVar[int] = 6

    def run(self, stage: spec.Stage, call):
        """One stage as the back end does it; an interpreter is put in here."""
        return api.load(self.implementation).stages[stage].run(call, None)

    def refused(self, stage: spec.Stage, shape: spec.Shape) -> bool:
        return api.load(self.implementation).stages[stage].why_not(shape) is not None

    def check_refused(self, stage: spec.Stage) -> None:
        refused = {n for n, small in SMALL.items() if self.refused(stage, getattr(small, stage)())}
        assert refused == self.cannot.get(stage, set())

    def check_repeats(self, stage: spec.Stage, call) -> None:
        pair = (jax.tree.leaves(self.run(stage, call)) for _ in range(2))
        for first, second in zip(*pair, strict=True):
            np.testing.assert_array_equal(first, second)


class Attends(Conformance):
    def test_attend_refuses_what_it_says_and_nothing_else(self):
        self.check_refused("attend")

    def check_attend(self, call: spec.AttendCall) -> None:
        found, exact = self.run("attend", call), reference.attend(call)
        assert found.output.dtype == found.log_mass.dtype == jnp.float32
        precision = tolerance(
            "float32"
            if call.shape.pool_dtype == call.shape.query_dtype == "float32"
            else call.shape.pool_dtype
        )
        np.testing.assert_allclose(
            found.output, exact.first, rtol=0, atol=precision * LARGEST_VALUE
        )
        np.testing.assert_allclose(found.log_mass, exact.second, rtol=2e-6, atol=2e-5)
        np.testing.assert_allclose(found.top, exact.third, rtol=2e-6, atol=2e-5)

    @pytest.mark.parametrize("name", SMALL)
    def test_attend_agrees_with_the_reference(self, name):
        small = SMALL[name]
        shape = small.attend()
        if not self.refused("attend", shape):
            self.check_attend(problems.attend_call(shape, problems.list_tokens(small)))

    def test_attend_at_random_shapes(self):
        @hypothesis.settings(max_examples=self.examples)
        @hypothesis.given(shape=attend_shapes(), data=st.data())
        def check(shape, data):
            hypothesis.assume(not self.refused("attend", shape))
            room = shape.listed * shape.page_size
            rows = st.lists(st.integers(0, room), min_size=shape.kv_heads, max_size=shape.kv_heads)
            tokens = data.draw(st.lists(rows, min_size=shape.batch, max_size=shape.batch))
            self.check_attend(problems.attend_call(shape, tokens, data.draw(st.integers(0, 99))))

        check()

    def test_attend_twice_is_equal_bit_for_bit(self):
        small = SMALL["published_8kv"]
        tokens = problems.list_tokens(small)
        self.check_repeats("attend", problems.attend_call(small.attend(), tokens))

    def test_attend_worked_by_hand(self):
        # One key e_1 with q = (8, 0, …), D = 64: logit 8/√64 = 1. A second key at −e_1: logit −1.
        # Weights e/(e + 1/e) = 0.880797 and 0.119203; values 1 and −1 give 0.761594 = tanh 1,
        # log-mass log(e + 1/e) = log 3.086161 = 1.126928.
        keys = np.zeros((1, 3, 16, 64), np.float32)
        values = np.zeros_like(keys)
        keys[0, 2, 0, 0], keys[0, 2, 1, 0] = 1.0, -1.0
        values[0, 2, 0], values[0, 2, 1] = 1.0, -1.0
        query = np.zeros((1, 1, 64), np.float32)
        query[0, 0, 0] = 8.0
        pages, tokens = np.array([[[2, -7]]], np.int32), np.array([[2]], np.int32)
        call = spec.attend_call(query, keys, values, pages, tokens, None)
        found = self.run("attend", call)
        np.testing.assert_allclose(found.output, 0.761594, atol=1e-6)
        np.testing.assert_allclose(found.log_mass, 1.126928, atol=1e-6)
        np.testing.assert_allclose(found.top, 1.0, atol=1e-6)

    @pytest.mark.parametrize("argument", ["query", "keys", "values", "pages", "tokens", "scale"])
    def test_attend_consumes_every_argument(self, argument):
        shape = SMALL["published_8kv"].attend()
        tokens = np.full((shape.batch, shape.kv_heads), 40)
        call = problems.attend_call(shape, tokens, traps=False)
        given = getattr(call, argument)
        changed = {
            "pages": lambda a: (a + 1) % shape.pool_pages,
            "tokens": lambda a: a - 16,
        }.get(argument, lambda a: a * jnp.asarray(0.5, a.dtype))(given)
        other = call._replace(**{argument: changed})
        self.check_attend(other)
        one, two = self.run("attend", call), self.run("attend", other)
        assert not np.array_equal(one.output, two.output)


class Scores(Conformance):
    def test_score_refuses_what_it_says_and_nothing_else(self):
        self.check_refused("score")

    def check_score(self, call: spec.ScoreCall, keys) -> None:
        found, exact = self.run("score", call), reference.score(call)
        mass = problems.exact_log_mass(call, keys)
        full = np.isfinite(mass)
        for one in filter(lambda one: one is not None, found):
            assert one.dtype == jnp.float32
            np.testing.assert_array_equal(np.isneginf(one), ~full)
        upper, estimate = (np.asarray(one, np.float64)[full] for one in found[:2])
        assert np.all(upper >= mass[full]), "not a bound"
        # log Σ e^(x + t·error) is convex in t, and at 0 and 1 it is the estimate and the bound. As
        # many roundings as the reports of the mechanism allow for.
        least = mass[full] + 64 * np.finfo(np.float32).eps * (1 + np.abs(estimate) + np.abs(upper))
        assert np.all(2 * estimate - upper <= least), "the estimate is not in the middle"
        if found.best is not None:
            best = np.asarray(found.best, np.float64)[full]
            assert np.all(best >= exact.third[full] - 1e-12)
            # The same slack as above, beside a number that is smaller by log S.
            np.testing.assert_allclose(best, exact.third[full], rtol=1e-3, atol=3e-3)
        # What lies above the reference is slack for rounding, a small part of a logit.
        assert np.all(upper >= exact.first[full] - 1e-12)
        np.testing.assert_allclose(upper, exact.first[full], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(estimate, exact.second[full], rtol=1e-5, atol=2e-5)

    @pytest.mark.parametrize("name", SMALL)
    def test_score_agrees_and_bounds(self, name):
        small = SMALL[name]
        for kind in {small.kind, "box"}:
            one = small if kind == small.kind else replace(small, kind=kind, bits=None)
            if not self.refused("score", one.score()):
                self.check_score(*problems.score_problem(one.score(), one.lengths))

    @pytest.mark.parametrize("kind", spec.KINDS)
    def test_the_bound_has_room_for_its_own_rounding(self, kind):
        bits = 8 if kind == "sketch" else None
        small = replace(SMALL["published_8kv"], kind=kind, bits=bits, dtype="float32")
        shape = small.score()
        if self.refused("score", shape):
            return
        call, keys = problems.score_problem(shape, small.lengths, tight=True)
        mass, upper = problems.exact_log_mass(call, keys), self.run("score", call).upper
        assert np.all(np.asarray(upper, np.float64) >= mass)

    @pytest.mark.parametrize(
        ("bits", "packed"),
        [(1, True), (2, True), (4, True), (4, False), (6, True), (6, False), (8, True)],
    )
    def test_score_by_sketches(self, bits, packed):
        small = replace(SMALL["smollm2_135m"], kind="sketch", bits=bits)
        shape = replace(small.score(), packed=packed)
        if self.refused("score", shape):
            return
        self.check_score(*problems.score_problem(shape, small.lengths))

    def test_score_at_random_shapes(self):
        @hypothesis.settings(max_examples=self.examples)
        @hypothesis.given(shape=score_shapes(), data=st.data())
        def check(shape, data):
            hypothesis.assume(not self.refused("score", shape))
            most = shape.pages * shape.page_size
            lengths = st.lists(st.integers(0, most), min_size=shape.batch, max_size=shape.batch)
            seed = data.draw(st.integers(0, 99))
            self.check_score(*problems.score_problem(shape, data.draw(lengths), seed))

        check()

    @pytest.mark.parametrize("kind", spec.KINDS)
    def test_score_consumes_every_argument(self, kind):
        bits = 4 if kind == "sketch" else None
        small = replace(SMALL["published_8kv"], kind=kind, bits=bits)
        if self.refused("score", small.score()):
            return
        call, keys = problems.score_problem(small.score(), small.lengths)
        before = self.run("score", call)
        half = jnp.asarray(0.5, jnp.float32)
        shorter = {"lengths": call.lengths - 32, "page_table": call.page_table[:, ::-1]}
        shorter["page_table"] = jnp.where(shorter["page_table"] < 2**20, shorter["page_table"], 0)
        changes = {"query": -call.query, "scale": call.scale * half, **shorter}
        for name, value in changes.items():
            other = call._replace(**{name: value})
            self.check_score(other, keys)
            assert not np.array_equal(before.upper, self.run("score", other).upper), name
        parts = {"box": ["box"], "ball": ["mean", "radius"], "sketch": ["box", "codes", "residual"]}
        for name in parts[kind]:
            rolled = {name: jnp.roll(getattr(call.parts, name), 1, axis=1)}
            after = self.run("score", call._replace(parts=call.parts._replace(**rolled)))
            # A residual counts where it is the lesser of two bounds, which a few bits need.
            assert name == "residual" or not np.array_equal(before.upper, after.upper), name

    def test_score_twice_is_equal_bit_for_bit(self):
        small = SMALL["published_8kv"]
        call, _ = problems.score_problem(small.score(), small.lengths)
        self.check_repeats("score", call)


class Selects(Conformance):
    def check_select(self, priority, count: int) -> None:
        call = spec.select_call(jnp.asarray(priority, jnp.float32), count)
        found, exact = self.run("select", call), reference.select(call)
        assert found.pages.dtype == found.number.dtype == jnp.int32
        np.testing.assert_array_equal(found.number, exact.second)
        np.testing.assert_array_equal(found.pages, exact.first)

    def test_select_at_random(self):
        # Few different numbers, so that there are ties; every special one among them.
        numbers = st.sampled_from([-np.inf, np.inf, np.nan, 0.0, -0.0, 1.0, -1.0, 1e-40, -3e38])

        @hypothesis.settings(max_examples=2 * self.examples)
        @hypothesis.given(data=st.data())
        def check(data):
            rows, pages = data.draw(st.sampled_from([(1, 1), (1, 7), (2, 40), (3, 128)]))
            count = data.draw(st.integers(1, pages))
            row = st.lists(numbers, min_size=pages, max_size=pages)
            drawn = data.draw(st.lists(row, min_size=rows, max_size=rows))
            self.check_select(np.asarray(drawn)[:, None, :], count)

        check()

    @pytest.mark.parametrize("name", SMALL)
    def test_select_over_arg_specs(self, name):
        shape = SMALL[name].select()
        rng = np.random.default_rng(0)
        size = (shape.batch, shape.kv_heads, shape.pages)
        self.check_select(rng.standard_normal(size), shape.count)


@st.composite
def attend_shapes(draw):
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    listed = draw(st.integers(1, 6))
    return spec.AttendShape(
        batch=draw(st.sampled_from([1, 2])),
        heads=kv_heads * draw(st.sampled_from([1, 3, 4, 8])),
        kv_heads=kv_heads,
        head_size=draw(st.sampled_from([64, 128, 256])),
        page_size=draw(st.sampled_from([16, 32, 64])),
        pool_pages=listed + draw(st.integers(0, 3)),
        listed=listed,
        query_dtype=draw(st.sampled_from(spec.DTYPES)),
        pool_dtype=draw(st.sampled_from(spec.DTYPES)),
    )


@st.composite
def score_shapes(draw):
    kv_heads = draw(st.sampled_from([1, 2]))
    kind = draw(st.sampled_from(spec.KINDS))
    pages = draw(st.integers(1, 5))
    return spec.ScoreShape(
        kind=kind,
        bits=draw(st.sampled_from([2, 4, 8])) if kind == "sketch" else None,
        packed=True,
        batch=draw(st.sampled_from([1, 2])),
        heads=kv_heads * draw(st.sampled_from([1, 3, 8])),
        kv_heads=kv_heads,
        head_size=draw(st.sampled_from([64, 128, 256])),
        page_size=draw(st.sampled_from([16, 32])),
        pool_pages=pages + draw(st.integers(0, 2)),
        pages=pages,
        query_dtype=draw(st.sampled_from(["bfloat16", "float32"])),
        stored=draw(st.sampled_from(["bfloat16", "float32"])),
    )
