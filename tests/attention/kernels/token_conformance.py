"""What holds for every back end of the stages that read and score single tokens."""

from dataclasses import replace

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.attention.kernels import problems
from tests.attention.kernels.conformance import (
    LARGEST_VALUE,
    SMALL,
    Conformance,
    attend_shapes,
    score_shapes,
    tolerance,
)
from vashista_theory.attention.kernels import reference, spec, token_spec


class AttendsTokens(Conformance):
    def test_attend_tokens_refuses_what_it_says_and_nothing_else(self):
        self.check_refused("attend_tokens")

    def check_attend_tokens(self, call: token_spec.AttendTokensCall) -> None:
        found, exact = self.run("attend_tokens", call), reference.attend_tokens(call)
        single = call.shape.pool_dtype == call.shape.query_dtype == "float32"
        precision = tolerance("float32" if single else call.shape.pool_dtype)
        atol = precision * LARGEST_VALUE
        np.testing.assert_allclose(found.output, exact.output, rtol=0, atol=atol)
        np.testing.assert_allclose(found.log_mass, exact.log_mass, rtol=2e-6, atol=2e-5)
        np.testing.assert_allclose(found.top, exact.top, rtol=2e-6, atol=2e-5)
        # About the exact output, so that what is left is the rounding of the spread, in float32.
        top = np.asarray(found.top, np.float64)
        read = ~np.isneginf(exact.top)
        unit = np.exp(np.where(read, top, 0.0) - np.where(read, exact.log_mass, 0.0))
        variance = found.spread.about(jnp.asarray(exact.output, jnp.float32))
        deviation = unit * np.sqrt(np.asarray(variance, np.float64))
        np.testing.assert_allclose(
            deviation, np.sqrt(exact.variance), rtol=2e-4, atol=2e-6 * LARGEST_VALUE
        )

    @pytest.mark.parametrize("name", SMALL)
    def test_attend_tokens_agrees_with_the_reference(self, name):
        small = SMALL[name]
        shape = small.attend_tokens()
        if not self.refused("attend_tokens", shape):
            tokens = problems.list_tokens(small)
            self.check_attend_tokens(problems.attend_tokens_call(shape, tokens))

    def test_attend_tokens_at_random_shapes(self):
        @hypothesis.settings(max_examples=self.examples)
        @hypothesis.given(shape=attend_tokens_shapes(), data=st.data())
        def check(shape, data):
            hypothesis.assume(not self.refused("attend_tokens", shape))
            room = min(shape.listed, shape.pool_pages * shape.page_size)
            rows = st.lists(st.integers(0, room), min_size=shape.kv_heads, max_size=shape.kv_heads)
            tokens = data.draw(st.lists(rows, min_size=shape.batch, max_size=shape.batch))
            seed = data.draw(st.integers(0, 99))
            self.check_attend_tokens(problems.attend_tokens_call(shape, tokens, seed))

        check()

    def test_attend_tokens_twice_is_equal_bit_for_bit(self):
        small = SMALL["published_8kv"]
        tokens = problems.list_tokens(small)
        call = problems.attend_tokens_call(small.attend_tokens(), tokens)
        self.check_repeats("attend_tokens", call)

    def test_attend_tokens_worked_by_hand(self):
        # Logits 1 and −1 by q = (8, 0, …) and keys ±e_1, D = 64; the second token was drawn with
        # π = 1/2, so its logit becomes −1 + log 2. Masses e and 2/e: shares 0.786986 and 0.213014;
        # values 1 and −1 give 0.573972, log-mass log 3.454041 = 1.239545. Only the second is in
        # doubt: V̂/Ẑ² = 0.213014² · 1/2 · 64 · (1.573972)² = 3.597163, in units of its own: the
        # spread has no scatter, mean −1, mass (2/e²)²/2 = 0.036631 beside the top 1.
        keys = np.zeros((1, 3, 16, 64), np.float32)
        values = np.zeros_like(keys)
        keys[0, 2, 5, 0], keys[0, 1, 3, 0] = 1.0, -1.0
        values[0, 2, 5], values[0, 1, 3] = 1.0, -1.0
        query = np.zeros((1, 1, 64), np.float32)
        query[0, 0, 0] = 8.0
        places = np.array([[[2 * 16 + 5, 16 + 3, -7]]], np.int32)
        weights = np.array([[[0.0, np.log(2.0), 0.0]]], np.float32)
        tokens = np.array([[2]], np.int32)
        call = token_spec.attend_tokens_call(query, keys, values, places, tokens, weights, None)
        found = self.run("attend_tokens", call)
        np.testing.assert_allclose(found.output, 0.573972, atol=2e-6)
        np.testing.assert_allclose(found.log_mass, 1.239545, atol=2e-6)
        np.testing.assert_allclose(found.top, 1.0, atol=1e-6)
        np.testing.assert_allclose(found.spread.mass, 0.036631, atol=1e-6)
        np.testing.assert_allclose(found.spread.mean, -1.0, atol=1e-6)
        np.testing.assert_allclose(found.spread.scatter, 0.0, atol=1e-6)
        variance = found.spread.about(found.output) * np.exp(2 * (found.top - found.log_mass))
        np.testing.assert_allclose(variance, 3.597163, rtol=1e-5)

    @pytest.mark.parametrize(
        "argument", ["query", "keys", "values", "places", "tokens", "log_weights", "scale"]
    )
    def test_attend_tokens_consumes_every_argument(self, argument):
        shape = SMALL["published_8kv"].attend_tokens()
        tokens = np.full((shape.batch, shape.kv_heads), 40)
        call = problems.attend_tokens_call(shape, tokens, traps=False)
        changed = {
            "places": lambda a: (a + 1) % (shape.pool_pages * shape.page_size),
            "tokens": lambda a: a - 16,
        }.get(argument, lambda a: a * jnp.asarray(0.5, a.dtype))(getattr(call, argument))
        other = call._replace(**{argument: changed})
        self.check_attend_tokens(other)
        one, two = self.run("attend_tokens", call), self.run("attend_tokens", other)
        assert not np.array_equal(one.output, two.output)
        assert not np.array_equal(one.spread.scatter, two.spread.scatter)


class ScoresTokens(Conformance):
    def test_score_tokens_refuses_what_it_says_and_nothing_else(self):
        self.check_refused("score_tokens")

    def check_score_tokens(self, call: spec.ScoreCall) -> None:
        found, exact = self.run("score_tokens", call), reference.score_tokens(call)
        assert found.dtype == jnp.float32
        assert found.shape == exact.shape
        # Sums of d products, some of which cancel; an offset and a heavy channel are among them.
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=2e-5)

    @pytest.mark.parametrize("name", SMALL)
    def test_score_tokens_agrees_with_the_reference(self, name):
        small = SMALL[name]
        if not self.refused("score_tokens", small.score_tokens()):
            self.check_score_tokens(problems.score_problem(small.score_tokens(), small.lengths)[0])

    @pytest.mark.parametrize(
        ("bits", "packed"), [(1, True), (2, True), (4, True), (4, False), (6, True), (8, True)]
    )
    def test_score_tokens_by_bits(self, bits, packed):
        small = replace(SMALL["smollm2_135m"], bits=bits)
        shape = replace(small.score_tokens(), packed=packed)
        if not self.refused("score_tokens", shape):
            self.check_score_tokens(problems.score_problem(shape, small.lengths)[0])

    def test_score_tokens_at_random_shapes(self):
        @hypothesis.settings(max_examples=self.examples)
        @hypothesis.given(shape=score_shapes(), bits=st.sampled_from([1, 2, 4, 8]), data=st.data())
        def check(shape, bits, data):
            shape = replace(shape, kind="sketch", bits=bits, by_token=True)
            hypothesis.assume(not self.refused("score_tokens", shape))
            most = shape.pages * shape.page_size
            lengths = st.lists(st.integers(0, most), min_size=shape.batch, max_size=shape.batch)
            seed = data.draw(st.integers(0, 99))
            self.check_score_tokens(problems.score_problem(shape, data.draw(lengths), seed)[0])

        check()

    def test_score_tokens_consumes_every_argument(self):
        small = SMALL["published_8kv"]
        call, _ = problems.score_problem(small.score_tokens(), small.lengths)
        before = np.asarray(self.run("score_tokens", call))
        table = jnp.where(call.page_table[:, ::-1] < 2**20, call.page_table[:, ::-1], 0)
        changes = {
            "query": -call.query,
            "scale": call.scale * jnp.float32(0.5),
            "lengths": call.lengths - 32,
            "page_table": table,
        }
        for name in ("box", "codes"):
            rolled = {name: jnp.roll(getattr(call.parts, name), 1, axis=1)}
            changes[f"parts {name}"] = call.parts._replace(**rolled)
        for name, value in changes.items():
            other = call._replace(**{name.split()[0]: value})
            self.check_score_tokens(other)
            assert not np.array_equal(before, self.run("score_tokens", other)), name


@st.composite
def attend_tokens_shapes(draw):
    shape = draw(attend_shapes())
    static = {name: getattr(shape, name) for name in shape.__dataclass_fields__}
    listed = draw(st.sampled_from([1, 5, 16, 48, 100]))
    return token_spec.AttendTokensShape(**static | {"listed": listed})
