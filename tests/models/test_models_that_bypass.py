"""Whatever does not bring its attention to the interface is refused, and leaves nothing behind."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

import vashista_theory as vt  # noqa: E402
from tests.models import tiny  # noqa: E402
from vashista_theory.attention import Policy, SummarySpec  # noqa: E402
from vashista_theory.models._switch import cache_argument  # noqa: E402

Auto: Any = transformers.AutoModelForCausalLM
OLD = {name: value for name, value in tiny.SIZES.items() if name != "num_key_value_heads"}
BYPASSING = {
    "bloom": transformers.BloomConfig(**OLD, n_layer=2, n_head=6),
    "mpt": transformers.MptConfig(**OLD, d_model=48, n_heads=6, n_layers=2),
    "big_bird": transformers.BigBirdConfig(**OLD, is_decoder=True, attention_type="original_full"),
    "gpt_neo": transformers.GPTNeoConfig(**OLD, attention_types=[[["global"], 2]], num_heads=6),
    "falcon": transformers.FalconConfig(**OLD, alibi=True),
    "xglm": transformers.XGLMConfig(**OLD, d_model=48, num_layers=2, attention_heads=6, ffn_dim=64),
}


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    spec = SummarySpec(box=False, ball=False, sketch_bits=None)
    vt.models.register(policy=Policy.dense(), page_size=4, spec=spec)
    yield
    vt.models.unregister()


def by_config(config: Any, _: Path) -> None:
    Auto.from_config(config, attn_implementation="vashista", dtype=torch.bfloat16)


def by_folder(config: Any, folder: Path) -> None:
    Auto.from_config(copy.deepcopy(config), attn_implementation="eager").save_pretrained(folder)
    Auto.from_pretrained(folder, attn_implementation="vashista", dtype=torch.bfloat16)


def by_setting(config: Any, _: Path) -> None:
    model = Auto.from_config(copy.deepcopy(config), attn_implementation="eager").eval()
    try:
        model.set_attn_implementation("vashista")
    finally:
        assert model.config._attn_implementation == "eager"
        assert model(**tiny.prompts(1, 5)).logits.isfinite().all()


def by_attribute(config: Any, _: Path) -> None:
    model = Auto.from_config(copy.deepcopy(config), attn_implementation="eager").eval()
    model.config._attn_implementation = "vashista"
    with torch.no_grad():
        model(**tiny.prompts(2, 16, padding=(0, 5)), use_cache=False)


def without_the_head(config: Any, _: Path) -> None:
    transformers.AutoModel.from_config(copy.deepcopy(config), attn_implementation="vashista")


ROUTES: list[Callable[[Any, Path], None]] = [
    by_config, by_folder, by_setting, by_attribute, without_the_head,
]  # fmt: skip


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("family", BYPASSING)
def test_every_route(family: str, route: Callable[[Any, Path], None], tmp_path: Path) -> None:
    config = copy.deepcopy(BYPASSING[family])
    before = config._attn_implementation, torch.get_default_dtype()
    with pytest.raises(vt.models.UnsupportedModelError, match="interface"):
        route(config, tmp_path)
    assert (config._attn_implementation, torch.get_default_dtype()) == before
    # The next models are what they would have been.
    own = Auto.from_config(config).eval()
    assert own.config._attn_implementation in ("eager", "sdpa")
    check_llama()


def check_llama() -> None:
    eager, ours = tiny.models("llama", "eager", "vashista")
    inputs = tiny.prompts(2, 16, padding=(0, 5))
    seen = inputs["attention_mask"].bool()
    for options in ({"use_cache": False}, {"use_cache": True}):
        with torch.no_grad():
            found, expected = (m(**inputs, **options).logits[seen] for m in (ours, eager))
        # Logits reach 10; two layers of float32 rounding in another order.
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


def own_attention(_: Any) -> Any:
    """Computes attention by itself."""

    def forward(hidden_states: Any, *_: Any, **__: Any) -> Any:
        return torch.zeros_like(hidden_states), None

    return forward


def beside_the_cache(attention: Any) -> Any:
    """Gives its keys to the cache, and computes attention by itself."""

    def forward(hidden_states: Any, **options: Any) -> Any:
        cache = options.get("past_key_values", options.get("cache"))
        keys = attention.k_proj(hidden_states).view(*hidden_states.shape[:2], 2, 8).transpose(1, 2)
        if cache is not None:
            cache.update(keys, keys, attention.layer_idx)
        return torch.zeros_like(hidden_states), None

    return forward


def without_the_cache(attention: Any) -> Any:
    """Uses the interface, but leaves the cache alone."""
    own = attention.forward

    def forward(**options: Any) -> Any:
        return own(**{k: v for k, v in options.items() if k not in ("past_key_values", "cache")})

    return forward


def later_keys(attention: Any) -> Any:
    """Changes keys after the cache."""
    own = attention.forward

    def forward(**options: Any) -> Any:
        cache = options.get("past_key_values", options.get("cache"))
        if cache is None:
            return torch.zeros_like(options["hidden_states"]), None
        update, cache.update = cache.update, lambda k, v, i, **o: (update(k, v, i, **o)[0] * 2, v)
        try:
            return own(**options)
        finally:
            del cache.update

    return forward


WAYS = {f.__name__: f for f in (own_attention, beside_the_cache, without_the_cache, later_keys)}


@settings(max_examples=12)
@given(
    ways=st.lists(st.sampled_from(["", *WAYS]), min_size=3, max_size=3).filter(any),
    tokens=st.sampled_from([1, 7]),
    filled=st.booleans(),
)
def test_layers_that_only_claim_to_use_it(ways: list[str], tokens: int, filled: bool) -> None:
    # Every mixture of layers, on an empty cache and on a filled one, before any logits leave.
    (model,) = tiny.models("llama", "vashista", num_hidden_layers=3)
    cache = vt.models.PagedCache(model.config)
    named = {cache_argument(model): cache}
    if filled:
        with torch.no_grad():
            model(**tiny.prompts(1, 7), **named)
    layers = [layer.self_attn for layer in model.model.layers]
    for layer, way in zip(layers, ways, strict=True):
        if way:
            layer.forward = WAYS[way](layer)
    inputs = {"input_ids": tiny.prompts(1, tokens)["input_ids"]}
    with torch.no_grad():
        with pytest.raises(vt.models.UnsupportedModelError, match=r"interface|cache"):
            model(**inputs, **named)
        if "without_the_cache" not in ways or len({*ways, "", "without_the_cache"}) > 2:
            with pytest.raises(vt.models.UnsupportedModelError, match="interface"):
                model(**inputs, use_cache=False)
    check_llama()


def test_a_part_that_reads_no_text_may_be_what_it_likes() -> None:
    # Its text decoder is an ordinary one; the audio tower computes attention in its own way.
    mapping = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    config = transformers.LlamaConfig(**tiny.SIZES)
    assert type(config) in mapping

    class Tower(transformers.LlamaPreTrainedModel):
        config_class = transformers.SiglipVisionConfig
        _supports_attention_backend = False

        def forward(self, pixels: Any) -> Any:
            return pixels

    tower = Tower._from_config(
        transformers.SiglipVisionConfig(num_hidden_layers=1), attn_implementation="vashista"
    )
    with pytest.raises(vt.models.UnsupportedModelError, match="Tower"):
        tower(torch.ones(1))


def test_other_models_are_called_as_before() -> None:
    sdpa, ours = tiny.models("llama", "sdpa", "vashista")
    calls: list[str] = []
    sdpa.register_forward_hook(lambda *_: calls.append("hook"))
    sdpa(**tiny.prompts(1, 5))
    assert calls == ["hook"]
    vt.models.unregister()
    try:
        assert "__call__" not in vars(transformers.PreTrainedModel)
        assert not hasattr(transformers.PreTrainedModel.set_attn_implementation, "__wrapped__")
        with pytest.raises((KeyError, ValueError)):
            ours(**tiny.prompts(1, 5))
    finally:
        registered_again()
    check_llama()


def registered_again() -> None:
    spec = SummarySpec(box=False, ball=False, sketch_bits=None)
    vt.models.register(policy=Policy.dense(), page_size=4, spec=spec)
