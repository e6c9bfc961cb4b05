"""Our reads beside kvpress's: judged by hand, bytes as the mechanism counts, presses by hooks."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("xarray")

import xarray as xr

from experiments.framework.outcome import Measured
from experiments.peers import measure, ours
from experiments.peers.answers import Asked, Read, divergence, judge
from experiments.peers.presses import SCORERS, Pressed
from experiments.peers.readers import CONTROL, Reader, readers
from experiments.peers.report import report
from experiments.peers.rows import measured
from tests.experiments.quick_runs import quick
from tests.thinned import diagonal
from vashista_theory.attention import PagedKV, Policy, vashista_attention
from vashista_theory.evaluation import policies

NONE = np.zeros(0, np.int64)


def test_divergence_by_hand() -> None:
    # KL((1/2, 1/2) ‖ (1/4, 3/4)) = log 2 − ½ log 3, and nothing in the second row.
    p, q = np.log([[0.5, 0.5], [0.2, 0.8]]), np.log([[0.25, 0.75], [0.2, 0.8]])
    assert divergence(p, q) == pytest.approx((np.log(2) - np.log(3) / 2) / 2)
    assert divergence(p + 7, q - 3) == pytest.approx(divergence(p, q))


def test_an_answer_is_exact_or_only_chosen() -> None:
    prompt = Asked(NONE, NONE, np.array([0, 1]), [np.array([1, 1])])
    rows = np.log([[0.4, 0.1, 0.5], [0.2, 0.7, 0.1]])
    wrong = np.log([[0.4, 0.1, 0.5], [0.2, 0.7, 0.1]])
    read = Read(rows, [wrong], 2.0, 2.0)
    # Token 2 is likelier than the right 0, but the right one is likelier than the wrong one's 1.
    assert judge(prompt, read, read) == (False, True, 0.0)
    better = read._replace(right=np.log([[0.5, 0.1, 0.4], [0.2, 0.7, 0.1]]))
    assert judge(prompt, better, better) == (True, True, 0.0)


@pytest.mark.parametrize(
    ("name", "length"), diagonal(["sampled", "budget", "dense"], [320, 325], 2)
)
def test_bytes_are_those_that_the_mechanism_reports(name: str, length: int) -> None:
    rng, d = np.random.default_rng(length), 16
    policy = policies.get(name)
    keys, values = rng.normal(size=(2, 1, 1, length, d)).astype(np.float32)
    cache = PagedKV.from_tokens(jnp.asarray(keys), jnp.asarray(values), spec=policy.spec)
    asked = {
        "sampled": Policy.sampled(96, dense_below=0),
        "budget": Policy(pages=6, summary="sketch"),
        "dense": Policy.dense(),
    }[name]
    query = jnp.asarray(rng.normal(size=(1, 1, d)), jnp.float32)
    _, info = vashista_attention(query, cache, asked)
    numbers = 2 * d * ours.NUMBER * float(info.tokens_read[0, 0])
    assert numbers + ours.judged_bytes(policy, length, d) == pytest.approx(
        float(info.bytes_read[0, 0])
    )
    if length % ours.PAGE == 0 and name != "dense":
        held = ours.held_beside(policy, length, d)
        assert held == cache.summary_bytes()["pages"]


def test_who_chooses_is_said_and_told_apart() -> None:
    rows = readers((256, 512), ("SnapKV", "KVzip"))
    assert len({row.label for row in rows}) == len(rows) == 2 + 2 * (3 + 2 + 1)
    said = {row.name: row.chooses for row in rows if row.tokens != 512}
    assert said["sampled"] == "at decode time, anew at each step"
    assert said["KVzip"] == "compresses the prompt, question not seen"
    assert Reader("SnapKV", 256, True).chooses == "compresses the prompt, question seen"


def made_up(exact: dict[str, list[int]], kl: dict[str, float], control: float = 0.0) -> Measured:
    """Answers of dense, drawn tokens and SnapKV to three prompts."""
    wanted = [Reader("dense"), Reader(CONTROL), Reader("sampled", 256), Reader("SnapKV", 256, True)]
    table = np.array([exact.get(one.name, exact["dense"]) for one in wanted]).T
    whole = np.broadcast_to([kl.get(one.name, 0.0) for one in wanted], table.shape).copy()
    whole[:, 1] = control
    numbers = {
        "kept": [2000.0, 2000, 2000, 256],
        "tokens": [2000.0, 2000, 260, 260],
        "bytes": [8000.0, 8000, 2000, 1000],
        "held": [8000.0, 8000, 8000, 1000],
    }
    dims = ("instance", "reader")
    found = xr.Dataset(
        {"exact": (dims, table), "chosen": (dims, np.abs(table)), "divergence": (dims, whole)}
        | {name: (dims, np.broadcast_to(row, table.shape)) for name, row in numbers.items()},
        coords={
            "context": ("instance", [2048] * len(table)),
            "name": ("reader", [one.name for one in wanted]),
            "budget": ("reader", [one.tokens for one in wanted]),
            "chooses": ("reader", [one.chooses for one in wanted]),
        },
    )
    versions = {"kvpress": "1.0", "transformers": "4.60", "transformers supported": ">=4,<5"}
    made = measured([found], versions)
    return dataclasses.replace(made, configuration={"model": "a model"})


def said(found: Measured) -> str:
    return " ".join(report(found).findings)


def test_a_press_that_wins_is_said_to() -> None:
    found = made_up(
        {"dense": [1] * 8, "sampled": [0] * 8, "SnapKV": [1] * 8}, {"sampled": 0.5, "SnapKV": 0.1}
    )
    text = said(found)
    assert "A press answers more than as many drawn tokens: SnapKV, question seen" in text
    assert "(+100%, +100% to +100%)" in text
    assert "Nearer to dense by KL than drawn tokens: SnapKV, question seen" in text
    assert "Dense at 2,048: 100% of 8 exactly." in text
    assert "holds 0.12 to 0.12 times" in text
    assert "0.5 to 0.5 times as many at a step" in text
    (row,) = [row for row in found.tables["answers"] if row["read"] == "SnapKV"]
    assert (row["exact"], row["difference"], row["failed"]) == (1, 0, 0)


def test_a_press_that_loses_is_said_to() -> None:
    found = made_up(
        {"dense": [1] * 8, "sampled": [1] * 8, "SnapKV": [0] * 8}, {"sampled": 0.1, "SnapKV": 0.5}
    )
    text = said(found)
    assert "In none of 1 comparisons does a press surely" in text
    assert "less than as many drawn tokens in 1 of 1 comparisons" in text
    assert "Nearer" not in text
    assert not report(found).failures


def test_prompts_that_could_not_be_read_are_counted_and_left_out() -> None:
    found = made_up({"dense": [1, 1, 0], "sampled": [1, 0, 0], "SnapKV": [-1, 1, 1]}, {})
    (row,) = [row for row in found.tables["answers"] if row["read"] == "SnapKV"]
    assert (row["prompts"], row["failed"], row["exact"], row["difference"]) == (2, 1, 1.0, 0.5)
    (beside,) = found.tables["beside"]
    assert (beside["difference"], beside["gained"], beside["lost"]) == (1.0, 2, 0)
    assert any("could not be read by SnapKV" in note for note in report(found).notes)
    nothing = made_up({"dense": [1, 1], "sampled": [1, 0], "SnapKV": [-1, -1]}, {})
    assert not nothing.tables["beside"]
    assert "SnapKV" not in said(nothing)


def test_another_prompt_than_dense_read_is_a_failure() -> None:
    found = made_up({"dense": [1], "sampled": [1], "SnapKV": [1]}, {}, control=0.1)
    assert "nothing pressed" in report(found).failures[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"tokens": (250,)},
        {"tokens": (64,)},
        {"contexts": (512,)},
        {"presses": ("Snap",)},
        {"prompts": 0},
        {"tasks": ("needle",)},
    ],
)
def test_what_cannot_be_asked_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|is unknown"):
        measure.Config(**wrong)


# ---------------------------------------------------------------- with kvpress


@pytest.fixture(scope="module")
def pressed() -> Pressed:
    pytest.importorskip("kvpress", reason="the extra `peers` is not installed")
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
    )  # fmt: skip
    return Pressed(LlamaForCausalLM._from_config(config, attn_implementation="sdpa"), None)


@pytest.fixture(scope="module")
def prompt() -> Asked:
    rng = np.random.default_rng(3)
    context, question, *answers = (rng.integers(0, 97, size) for size in (300, 12, 5, 3))
    return Asked(context, question, answers[0], [answers[1]])


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("seen", [True, False])
def test_a_shared_reading_is_what_the_hooks_give(
    pressed: Pressed, prompt: Asked, name: str, seen: bool
) -> None:
    whole = np.concatenate([prompt.context, prompt.question])
    layers, _ = pressed.prefill(whole)
    if not seen:
        layers, whole = [one.until(prompt.context.size) for one in layers], prompt.context
    shared, alone = pressed.press(name, layers, 96), pressed.by_hooks(name, whole, 96)
    assert (shared.kept, shared.length) == (alone.kept, alone.length) == (96, whole.size)
    for one, other in zip(shared.layers, alone.layers, strict=True):
        for ours_, theirs in zip(one, other, strict=True):
            # Best first, and scores may tie but for rounding: compared as sets of rows.
            order = [np.sort(part.numpy(), axis=2) for part in (ours_, theirs)]
            np.testing.assert_allclose(*order, rtol=1e-4, atol=1e-5)


def test_nothing_pressed_is_the_model_itself(pressed: Pressed, prompt: Asked) -> None:
    import torch

    layers, first = pressed.prefill(np.concatenate([prompt.context, prompt.question]))
    read = pressed.read(pressed.unpressed(layers), prompt, first=first)
    context = [one.until(prompt.context.size) for one in layers]
    later = pressed.read(pressed.unpressed(context), prompt)
    for number, answer in enumerate((prompt.answer, *prompt.wrong)):
        ids = np.concatenate([prompt.context, prompt.question, answer])
        with torch.inference_mode():
            logits = pressed._model(torch.from_numpy(ids)[None]).logits[0].numpy()
        expected = logits[-answer.size - 1 : -1]
        for one in (read, later):
            # float32, sums of other shapes.
            np.testing.assert_allclose([one.right, *one.wrong][number], expected, atol=1e-4)
    assert read.kept == later.kept == 312
    assert read.tokens == 312 + 2.5  # and 1 to 4 tokens of its own


@pytest.mark.slow
def test_a_quick_run(tmp_path: Path) -> None:
    pytest.importorskip("kvpress", reason="the extra `peers` is not installed")
    found = quick("peers", tmp_path, "--store", str(tmp_path / "store"))
    assert not found.failures
    rows = found.tables["answers"].rows
    assert {row["read"] for row in rows} >= {*SCORERS, "KVzip", "sampled", "dense"}
    pressed = [row for row in rows if "compresses" in row["chooses"]]
    for row in pressed:
        if "not seen" not in row["chooses"]:
            assert row["kept"] == 128
    again = quick("peers", tmp_path, "--store", str(tmp_path / "store"), "--force")
    assert again.tables["answers"].rows == rows
