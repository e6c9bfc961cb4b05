"""A store belongs to the policies and weights that it was made with, not to their names alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vashista_theory.evaluation import DecodeBlock, EvaluationConfig, page_policy, plan, policies


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    before = dict(policies._REGISTRY)
    yield
    policies._REGISTRY.clear()
    policies._REGISTRY.update(before)


def identity(**changes: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"text": (), "tasks": ("copying",)}
    return plan.identity(EvaluationConfig(**(asked | changes)).resolved(), plan.RETRIEVAL)


def registered(body: str) -> dict[str, Any]:
    space: dict[str, Any] = {"page_policy": page_policy, "DecodeBlock": DecodeBlock}
    policies._REGISTRY.pop("mine", None)
    exec(f"@page_policy('mine')\ndef mine(block):\n    {body}\n", space)
    return identity(policy=("mine",))


def test_a_function_that_was_edited_is_another() -> None:
    first = registered("return block.logits()[..., 0]")
    assert first == registered("return block.logits()[..., 0]")
    assert first["own"].keys() == {"mine"}
    for other in ("return block.logits()[..., 1]", "return block.page_scores('box')"):
        assert registered(other)["own"] != first["own"]


def test_what_is_built_in_is_known_by_name() -> None:
    assert "own" not in identity(policy=())


def test_weights_that_were_replaced_are_others(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    weights = bytearray(b"\0" * 3_000_000)
    (folder / "model.safetensors").write_bytes(weights)
    first = identity(model=str(folder))
    assert first == identity(model=str(folder))
    weights[::1000] = b"\1" * 3000  # fine-tuned: every tensor is another
    (folder / "model.safetensors").write_bytes(weights)
    second = identity(model=str(folder))
    assert second["model"] != first["model"]
    (folder / "config.json").write_text('{"rope": 1}')
    assert identity(model=str(folder))["model"] != second["model"]
    assert identity(model="smollm2-135m")["model"] == "smollm2-135m"
