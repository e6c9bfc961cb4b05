"""Every suite, for a back end that can do all stages, also one after the other."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.attention.kernels import problems
from tests.attention.kernels.conformance import (
    LARGEST_VALUE,
    SMALL,
    Attends,
    Scores,
    Selects,
    tolerance,
)
from tests.attention.kernels.token_conformance import AttendsTokens, ScoresTokens
from vashista_theory.attention.kernels import reference, spec


class Together(Attends, Scores, Selects, AttendsTokens, ScoresTokens):
    def test_all_stages_inside_one_jit(self):
        small = SMALL["published_8kv"]
        scored, _ = problems.score_problem(small.score(), small.lengths)
        shape, tokens = small.attend(), problems.list_tokens(small)
        attended = problems.attend_call(shape, tokens, traps=False)

        @jax.jit
        def step(query, table, lengths):
            scores = self.run("score", scored._replace(query=query, page_table=table))
            rows = (shape.batch, shape.kv_heads, shape.group, -1)
            priority = jnp.max(scores.upper.reshape(rows), axis=2)
            best = self.run("select", spec.SelectCall(small.select(), priority))
            pages = jax.vmap(lambda row, of: row[of])(table, best.pages)
            tokens = jnp.minimum(best.number * shape.page_size, lengths[:, None])
            read = attended._replace(query=query, pages=pages, tokens=tokens)
            return self.run("attend", read), pages, tokens

        found, pages, tokens = step(scored.query, scored.page_table, scored.lengths)
        exact = reference.attend(attended._replace(query=scored.query, pages=pages, tokens=tokens))
        precision = tolerance(shape.pool_dtype) * LARGEST_VALUE
        np.testing.assert_allclose(found.output, exact.first, rtol=0, atol=precision)
