"""What decoding over pages cannot do is refused in one sentence that names it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import vashista_theory as vt  # noqa: E402
from tests.models import tiny  # noqa: E402
from vashista_theory.attention import Policy, SummarySpec  # noqa: E402
from vashista_theory.models._switch import cache_argument  # noqa: E402

BARE = SummarySpec(box=False, ball=False, sketch_bits=None)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    # The least that a cache can keep: quicker to compile.
    vt.models.register(policy=Policy.dense(), spec=BARE)
    yield
    vt.models.unregister()


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(vt.models.UnsupportedModelError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def small(config: type, **options: Any) -> Any:
    torch.manual_seed(0)
    made = config(**(tiny.SIZES | options))
    return transformers.AutoModelForCausalLM.from_config(
        made, attn_implementation="vashista"
    ).eval()


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        ("MistralConfig", {"sliding_window": 16}, "sliding"),
        ("Qwen2Config", {"use_sliding_window": True, "max_window_layers": 0}, "sliding"),
        ("Gemma2Config", {"head_dim": 8, "layer_types": ["sliding_attention"] * 2}, "sliding"),
    ],
)
def test_configurations(config: str, options: dict[str, Any], words: str) -> None:
    assert words in refusal(lambda: small(getattr(transformers, config), **options))


@pytest.mark.parametrize("implementation", ["static", "offloaded"])
def test_other_caches(implementation: str) -> None:
    (model,) = tiny.models("llama", "vashista")
    text = refusal(
        lambda: tiny.continued(model, tiny.prompts(1, 20), 3, cache_implementation=implementation)
    )
    assert "cache" in text


def test_a_cache_made_without_the_config() -> None:
    (model,) = tiny.models("llama", "vashista")
    own = {cache_argument(model): transformers.DynamicCache()}
    text = refusal(lambda: tiny.continued(model, tiny.prompts(1, 20), 3, **own))
    assert "PagedCache(model.config)" in text


def test_training_and_gradients() -> None:
    (model,) = tiny.models("llama", "vashista")
    assert "model.eval()" in refusal(lambda: model.train()(**tiny.prompts(1, 20)))
    model.eval()
    cache = vt.models.PagedCache(model.config)
    model(**tiny.prompts(1, 20), **{cache_argument(model): cache})
    step = {"input_ids": torch.tensor([[3]]), cache_argument(model): cache}
    assert "torch.no_grad()" in refusal(lambda: model(**step))


def test_attention_weights() -> None:
    (model,) = tiny.models("llama", "vashista")
    with pytest.raises(ValueError, match=r"output_attentions|attentions"):
        model(**tiny.prompts(1, 20), output_attentions=True)


def test_a_context_beyond_the_models() -> None:
    (model,) = tiny.models("llama", "vashista", max_position_embeddings=32)
    text = refusal(lambda: tiny.continued(model, tiny.prompts(1, 30), 5))
    assert "33 tokens" in text
    assert "at most 32" in text


def test_masks_that_contradict_the_cache() -> None:
    (model,) = tiny.models("llama", "vashista")
    inputs = tiny.prompts(2, 20, padding=(5, 0))
    cache = vt.models.PagedCache(model.config)
    named = {cache_argument(model): cache}
    step = torch.tensor([[3], [3]])
    with torch.no_grad():
        model(**inputs, **named)
        assert "without its mask" in refusal(lambda: model(input_ids=step, **named))
        other = torch.ones(2, 21, dtype=torch.int64)
        other[1, 3] = 0
        text = refusal(lambda: model(input_ids=step, attention_mask=other, **named))
        assert "hides tokens" in text
        other = torch.cat([inputs["attention_mask"], torch.ones(2, 1, dtype=torch.int64)], dim=1)
        model(input_ids=step, attention_mask=other, **named)  # and the right one still works


def test_another_batch() -> None:
    (model,) = tiny.models("llama", "vashista")
    named = {cache_argument(model): vt.models.PagedCache(model.config)}
    with torch.no_grad():
        model(**tiny.prompts(2, 20), **named)
        with pytest.raises(ValueError, match="holds 2 sequences"):
            model(input_ids=torch.tensor([[3]]), **named)


def test_numbers_that_are_not_finite() -> None:
    (model,) = tiny.models("llama", "vashista")
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight[0, 0] = torch.nan
        with pytest.raises(ValueError, match="layer 0 failed"):
            tiny.continued(model, tiny.prompts(1, 20), 3)


@pytest.mark.parametrize("policy", [0.05, "dense", Policy])
def test_what_is_no_policy(policy: Any) -> None:
    (model,) = tiny.models("llama", "vashista")
    for call in (
        lambda: vt.models.register(policy=policy),
        lambda: vt.models.PagedCache(model.config, policy=policy),
        lambda: vt.models.decoding(policy).__enter__(),
    ):
        with pytest.raises(Exception, match=r"Policy"):
            call()
