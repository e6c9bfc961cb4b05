"""Options of the wrong kind are refused by name, before anything is computed."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

import vashista_theory as vt
from vashista_theory.attention import Policy, SummarySpec, vashista_attention
from vashista_theory.evaluation import EvaluationConfig
from vashista_theory.sweep import SweepConfig

pytestmark = pytest.mark.usefixtures("as_users_run_it")

KEYS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
QUERY = np.array([0.4, -1.0])


def projected(**options: Any) -> Any:
    with jax.enable_x64(True):
        return vt.project(KEYS, QUERY, **options)


def published(theta: Any) -> Any:
    with jax.enable_x64(True):
        return vt.face_stability(vt.project(KEYS, QUERY)).log_published_bound(0.1, theta)


def capped(softcap: Any) -> Any:
    cache = vt.attention.PagedKV.create(batch=1, kv_heads=1, head_size=2, pages=2)
    return vashista_attention(
        np.zeros((1, 1, 2), np.float32), cache, Policy.dense(), softcap=softcap
    )


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: projected(max_steps="5"), "`max_steps` must be an integer .*'5'"),
        (lambda: projected(max_steps=2.7), "`max_steps` must be an integer"),
        (lambda: projected(max_steps=True), "`max_steps` must be an integer"),
        (lambda: projected(tolerance="1e-3"), "`tolerance` must be a positive number.*'1e-3'"),
        (lambda: projected(tolerance=np.array([1e-3])), "`tolerance` must be a positive number"),
        (lambda: vt.project_blocks(KEYS, QUERY, max_passes="3"), "`max_passes` must be an integer"),
        (lambda: vt.project_blocks(KEYS, QUERY, workers=1.5), "`workers` must be an integer"),
        (lambda: published(2), "`theta` must lie strictly between 0 and 1, got 2"),
        (lambda: published("half"), "`theta` must lie strictly between 0 and 1, got 'half'"),
        (lambda: vt.plots.leakage_of(KEYS, QUERY, scale=-0.1), "scale.*positive"),
        (lambda: vt.plots.leakage_of(KEYS, QUERY, scale="0.1"), "scale"),
        (lambda: capped(-1.0), "softcap is -1.0; .*None for logits without a cap"),
        (lambda: Policy(summary=np.array(["box"])), "summary is array"),  # type: ignore[arg-type]
        (lambda: SummarySpec(sketch_bits=4.0), "sketch_bits is 4.0"),  # type: ignore[arg-type]
        (lambda: SweepConfig(epsilon_max="10"), "epsilon_max is '10'"),  # type: ignore[arg-type]
        (lambda: EvaluationConfig(tolerances=("0.05",)), "tolerances has '0.05'"),  # type: ignore[arg-type]
        (lambda: EvaluationConfig(format="xml"), "format: 'xml' is unknown"),  # type: ignore[arg-type]
        (lambda: EvaluationConfig(progress="x"), "progress: 'x' is unknown"),  # type: ignore[arg-type]
    ],
)
def test_wrong_options_are_refused_by_name(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()


def test_whole_numbers_of_other_libraries_are_taken() -> None:
    assert int(projected(max_steps=np.int64(9), tolerance=np.float32(1e-9)).steps) > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"spec": "box"}, "spec is 'box'; a vashista_theory.attention.SummarySpec"),
        ({"page_size": 0}, "page_size is 0; an integer of at least 1"),
        ({"page_size": "4"}, "page_size is '4'"),
    ],
)
@pytest.mark.torch
def test_what_no_cache_can_be_built_from_is_refused(options: dict[str, Any], said: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers import LlamaConfig

    with pytest.raises(ValueError, match=said):
        vt.models.register(**options)
    with pytest.raises(ValueError, match=said):
        vt.models.PagedCache(LlamaConfig(num_hidden_layers=1), **options)
