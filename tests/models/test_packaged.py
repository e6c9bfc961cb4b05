"""The packaged model itself; with its weights at hand or a network, and minutes: marked slow."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import vashista_theory as vt  # noqa: E402
from tests.models import tiny  # noqa: E402
from vashista_theory.attention import Policy  # noqa: E402
from vashista_theory.models._switch import using_attention  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
PROMPTS = ["The capital of France is", "Once upon a time there was a small", "2 + 2 ="]


@pytest.fixture(scope="module")
def loaded() -> Iterator[Any]:
    vt.models.register(policy=Policy.dense())
    try:
        yield vt.models.load("smollm2-135m", attn_implementation="vashista")
    except vt.models.FetchError as error:
        pytest.skip(str(error))
    finally:
        vt.models.unregister()


@pytest.mark.parametrize("batch", [1, 3])
def test_dense_is_transformers_own_attention(loaded: Any, batch: int) -> None:
    loaded.tokenizer.padding_side = "left"
    inputs = loaded.tokenizer(PROMPTS[:batch], return_tensors="pt", padding=True)
    found = {}
    for name in ("vashista", "eager", "sdpa"):
        with using_attention(loaded.model, name):
            found[name] = tiny.continued(loaded.model, inputs, 24)
    for name in ("eager", "sdpa"):
        assert torch.equal(found["vashista"][0], found[name][0])
        # Logits reach 38 and pass 30 layers of float32; eager and sdpa are 4e-5 apart.
        torch.testing.assert_close(found["vashista"][1], found[name][1], atol=4e-4, rtol=0)


def test_the_sample_inside_the_package_can_be_made_again(loaded: Any) -> None:
    sample = vt.heads.load_heads()
    layer = loaded.model.model.layers[0]
    with torch.inference_mode():
        # Values of the first layer depend on the token alone: they tell which tokens they were.
        vocabulary = loaded.model.model.embed_tokens.weight
        values = layer.self_attn.v_proj(layer.input_layernorm(vocabulary))
        recorded = torch.tensor(sample.values[0].astype(np.float32)).transpose(0, 1).flatten(1)
        distance, tokens = torch.cdist(recorded, values).min(dim=1)
    assert float(distance.max()) < 1e-2, "other tokens are 0.3 away"
    text = loaded.tokenizer.decode(tokens)
    assert text.startswith(": and he builded a city, and called the name of the city")
    made = vt.models.capture(loaded.model, tokens, layers=sample.layers.tolist(), positions=8)
    np.testing.assert_array_equal(made.positions, sample.positions)
    for name in ("queries", "keys", "values"):
        ours, theirs = (getattr(h, name).astype(np.float64) for h in (made, sample))
        # float16 keeps 11 bits; float32 rounding moves a few per cent of them across a boundary.
        np.testing.assert_allclose(ours, theirs, atol=2e-3, rtol=2**-10)
        assert np.mean(ours == theirs) > 0.95
