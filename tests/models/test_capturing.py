"""Captured heads give the attention weights that the model itself reports."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import vashista_theory as vt  # noqa: E402
from tests.models import tiny  # noqa: E402

IDS = np.random.default_rng(3).integers(1, tiny.VOCABULARY, 40)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_weights_equal_the_models_own(architecture: str) -> None:
    (model,) = tiny.models(architecture, "eager")
    heads = vt.models.capture(model, IDS, dtype="float32", positions=3)
    with torch.no_grad():
        done = model(torch.as_tensor(IDS)[None], output_attentions=True)
    assert model.config._attn_implementation == "eager", "what was set is set again"
    for layer in range(2):
        for head in range(6):
            for index, position in enumerate(range(37, 40)):
                query, keys, _ = heads.attend(layer, head, index)
                scores = keys @ query * heads.scale
                weights = np.exp(scores - scores.max())
                expected = done.attentions[layer][0, head, position, : position + 1].numpy()
                # float32 scores of tens of nats: their rounding, times the weight.
                np.testing.assert_allclose(weights / weights.sum(), expected, atol=2e-5)


def test_the_file_is_what_the_sweep_reads(tmp_path: Path) -> None:
    (model,) = tiny.models("llama", "sdpa")
    path = tmp_path / "heads.npz"
    made = vt.models.capture(
        model, IDS, layers=[1], positions=[5, 39], path=path, provenance={"text": "noise"}
    )
    read = vt.heads.load_heads(path)
    for name in ("queries", "keys", "values", "layers", "positions"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
    assert read.queries.shape == (1, 6, 2, 8)
    assert read.keys.shape == (1, 2, 40, 8)
    assert read.keys.dtype == np.float16
    assert read.scale == pytest.approx(8**-0.5)
    assert read.provenance["text"] == "noise"
    assert read.provenance["tokens"] == 40
    assert [p.name for p in tmp_path.iterdir()] == ["heads.npz"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": [2]}, r"layers are \[2\]; this model has 0 to 1"),
        ({"layers": [0, 0]}, "each once"),
        ({"positions": 41}, "positions is 41; there are 40 tokens"),
        ({"positions": [40]}, r"positions are \[40\]"),
        ({"dtype": "int8"}, "'int8'"),
    ],
)
def test_what_does_not_exist_is_named(options: dict, words: str) -> None:
    (model,) = tiny.models("llama", "sdpa")
    with pytest.raises(ValueError, match=words):
        vt.models.capture(model, IDS, **options)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (np.zeros((2, 5), int), r"shape \(2, 5\)"),
        (np.zeros(0, int), r"shape \(1, 0\)"),
        (np.zeros(5), "float"),
        (np.array([tiny.VOCABULARY]), "0 to 60"),
        (np.ones(tiny.CONTEXT + 1, int), "at most 512"),
    ],
    ids=["batch", "empty", "fractions", "vocabulary", "context"],
)
def test_bad_tokens(tokens: np.ndarray, words: str) -> None:
    (model,) = tiny.models("llama", "sdpa")
    with pytest.raises(ValueError, match=words):
        vt.models.capture(model, tokens)


@pytest.mark.parametrize("part", ["", "model.layers.1.mlp"])
def test_a_model_in_training_mode_is_refused(part: str) -> None:
    (model,) = tiny.models("llama", "sdpa")
    model.get_submodule(part).train()
    with pytest.raises(ValueError, match=r"in training mode .*`model\.eval\(\)` first") as refused:
        vt.models.capture(model, IDS)
    assert (part or "the model") in str(refused.value)
    vt.models.capture(model.eval(), IDS)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    (model,) = tiny.models("llama", "sdpa")
    with pytest.raises(OSError, match="choose another file"):
        vt.models.capture(model, IDS, path=tmp_path / "missing" / "heads.npz")
