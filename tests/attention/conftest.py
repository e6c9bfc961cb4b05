"""Fixtures of the tests of attention."""

import jaxtyping
import pytest


@pytest.fixture
def as_users_run_it():
    """Without the run-time type checks of the tests, which users do not have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
