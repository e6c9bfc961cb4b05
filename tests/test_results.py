"""An outcome prints its name, however it was made; the advice is one attribute away."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vashista_theory as vt

NAMES = list(vt.Result._name_to_item)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_printed_and_the_advice_stays(name: str) -> None:
    member = getattr(vt.Result, name)
    chosen = vt.Result.where(jnp.asarray(False), vt.Result.tie, member)
    returned = jax.jit(lambda: vt.Result.where(jnp.asarray(True), member, vt.Result.tie))()
    for result in (member, chosen, returned, jax.tree.map(jnp.asarray, member)):
        assert (str(result), repr(result), result.name) == (name, f"Result.{name}", name)
        assert f"{result}" == name
        assert result.advice == vt.Result[result]
        assert isinstance(result, vt.Result)
    assert bool(member.advice) == (name != "successful")
    assert jax.tree.structure(chosen) == jax.tree.structure(member)


def test_an_array_of_outcomes_prints_the_names() -> None:
    two = jax.vmap(lambda ok: vt.Result.where(ok, vt.Result.successful, vt.Result.tie))(
        np.array([True, False])
    )
    assert str(two) == "['successful' 'tie']"


def test_a_traced_outcome_says_so() -> None:
    said: list[str] = []

    @jax.jit
    def trace(ok: jax.Array) -> jax.Array:
        said.append(str(vt.Result.where(ok, vt.Result.successful, vt.Result.tie)))
        return ok

    trace(jnp.asarray(True))
    assert said == ["traced"]
