"""Who holds what: padding is not stored, torch keeps nothing, policies follow their order."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import vashista_theory as vt  # noqa: E402
from tests.models import tiny  # noqa: E402
from vashista_theory.attention import Policy, SummarySpec  # noqa: E402
from vashista_theory.attention.bounds.sketch import rounding_for  # noqa: E402
from vashista_theory.models._switch import cache_argument  # noqa: E402
from vashista_theory.models.bridge import as_argument, precision, to_jax, to_torch  # noqa: E402
from vashista_theory.models.paged_layer import PagedLayer  # noqa: E402

FEW = Policy(pages=3, sink=1, recent=1, summary="box")


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    vt.models.register(policy=Policy.dense(), page_size=4)
    yield
    vt.models.unregister()


def test_padding_is_never_read() -> None:
    (model,) = tiny.models("llama", "vashista")
    inputs = tiny.prompts(2, 30, padding=(11, 0))
    expected = tiny.continued(model, inputs)[1]
    inputs["input_ids"][0, :11] = 7
    torch.testing.assert_close(tiny.continued(model, inputs)[1], expected, atol=0, rtol=0)


def test_keys_live_in_jax_alone_and_without_padding() -> None:
    (model,) = tiny.models("llama", "vashista")
    inputs = tiny.prompts(2, 30, padding=(11, 0))
    cache = vt.models.PagedCache(model.config)
    with torch.no_grad():
        model(**inputs, **{cache_argument(model): cache})
    for layer in cache.layers:
        assert layer.keys is None
        assert layer.values is None
        np.testing.assert_array_equal(layer.pages.lengths, [19, 30])
        assert layer.pages.keys.dtype == np.float32


@pytest.mark.parametrize("pieces", [(300,), (300, 20), (40, 260)], ids=str)
def test_sketches_are_rounded_for_the_last_queries(
    pieces: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the prompt; of its pieces, of the last that has as many as count."""
    spec = SummarySpec(sketch_bits=2)
    vt.models.register(policy=Policy.sampled(16), page_size=4, spec=spec)
    (model,) = tiny.models("llama", "vashista")
    asked: list[torch.Tensor] = []
    store = PagedLayer.store

    def recorded(layer: PagedLayer, key: Any, value: Any, mask: Any, query: Any) -> None:
        asked.append(query)
        store(layer, key, value, mask, query)

    monkeypatch.setattr(PagedLayer, "store", recorded)
    padding = 11 if len(pieces) > 1 else 211
    inputs = tiny.prompts(2, sum(pieces), padding=(padding, 0))
    cache = vt.models.PagedCache(model.config)
    end = 0
    for piece in pieces:
        begin, end = end, end + piece
        given = {"input_ids": inputs["input_ids"][:, begin:end]}
        mask = inputs["attention_mask"][:, :end]
        with torch.no_grad():
            model(**given, attention_mask=mask, **{cache_argument(model): cache})
    counts = int(np.argmax(pieces))  # the piece whose queries count
    shown = max(0, padding - sum(pieces[:counts]))
    for layer, queries in zip(cache.layers, asked[2 * counts : 2 * counts + 2], strict=True):
        by_head = torch.cat([queries[0, :, shown:][:, -256:], queries[1, :, -256:]], dim=1)
        grouped = by_head.reshape(2, -1, by_head.shape[-1])  # three query heads share a kv head
        order, passed = rounding_for(jnp.asarray(grouped.numpy()))
        np.testing.assert_array_equal(layer.pages.rounding.order, order)
        # Sums of 800 products of float32, in another order, through an inverse.
        np.testing.assert_allclose(layer.pages.rounding.passed, passed, atol=1e-3)
        assert np.abs(passed).max() > 0.05


def test_tokens_cross_without_a_copy() -> None:
    # As a projection leaves them, all heads of a token side by side; on a boundary of 64 bytes.
    tensor = torch.zeros(2, 5, 3, 16).transpose(1, 2)
    array = to_jax(tensor)
    assert array.shape == (2, 5, 3, 16)
    assert array.unsafe_buffer_pointer() == tensor.data_ptr()


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_what_a_step_hands_over_is_what_the_bridge_makes(dtype: str) -> None:
    tensor = torch.randn(2, 3, 1, 16, dtype=getattr(torch, dtype))
    argument = as_argument(tensor)
    assert isinstance(argument, np.ndarray)
    with precision(tensor.dtype):
        one, other = jax.jit(lambda numbers: numbers)(argument), to_jax(tensor)
    assert one.dtype == other.dtype == dtype
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    assert argument.ctypes.data == tensor.data_ptr()
    back = to_torch(one)
    back += 1
    torch.testing.assert_close(back, tensor.transpose(1, 2) + 1, atol=0, rtol=0)
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other), "an array never changes")


@pytest.mark.parametrize("broken", ["q_proj", "k_proj", "v_proj"])
def test_a_step_that_fails_names_layer_and_token_and_leaves_no_trace(broken: str) -> None:
    (model,) = tiny.models("llama", "vashista", num_hidden_layers=3)
    inputs, step = tiny.prompts(2, 30, padding=(11, 0)), torch.tensor([[5], [6]])
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, 1, dtype=torch.int64)], dim=1)
    cache = vt.models.PagedCache(model.config)
    named = {cache_argument(model): cache}
    weight = getattr(model.model.layers[1].self_attn, broken).weight

    def decode() -> torch.Tensor:
        return model(input_ids=step, attention_mask=mask, **named).logits

    with torch.no_grad():
        model(**inputs, **named)
        expected = decode()
        cache.crop(30)
        before = weight[0, 0].clone()
        weight[0, 0] = torch.nan
        with (
            vt.models.decoding() as log,
            pytest.raises(ValueError, match="layer 1 failed at token 30"),
        ):
            decode()
        assert not log.by_layer
        weight[0, 0] = before
        for layer in cache.layers:
            assert layer.seen == 30
            np.testing.assert_array_equal(layer.pages.lengths, [19, 30])
        torch.testing.assert_close(decode(), expected, atol=0, rtol=0)


def test_few_pages_are_few_and_the_log_says_so() -> None:
    (model,) = tiny.models("llama", "vashista")
    inputs = tiny.prompts(2, 60, padding=(20, 0))
    with vt.models.decoding(FEW) as log:
        sparse = tiny.continued(model, inputs, 6)[1]
    dense = tiny.continued(model, inputs, 6)[1]
    assert log.pages_read().shape == (5, 2, 2, 6)
    np.testing.assert_array_equal(log.pages_read(), 3)
    # 40 and 60 tokens, and one more each step, in pages of 4.
    held = np.array([[11, 16]] * 4 + [[12, 17]])
    np.testing.assert_allclose(log.share_read(), 3 / held[:, None, :, None] * np.ones((1, 2, 1, 6)))
    torch.testing.assert_close(sparse[0], dense[0], atol=0, rtol=0)  # the prompt is read densely
    assert not torch.allclose(sparse[1], dense[1], atol=1e-2)


def test_a_certified_policy_certifies() -> None:
    (model,) = tiny.models("llama", "vashista")
    with vt.models.decoding(Policy.certified(0.2, dense_below=0)) as log:
        tiny.continued(model, tiny.prompts(1, 100), 4)
    assert log.steps == 3
    assert float(log.dropped_mass_bound().max()) <= 0.2
    assert all(bool(info.certified.all()) for infos in log.by_layer.values() for info in infos)


def test_drawn_tokens_repeat_and_follow_the_seed() -> None:
    (model,) = tiny.models("llama", "vashista")
    inputs = tiny.prompts(2, 100, padding=(0, 0))
    policy = Policy.sampled(40, dense_below=0)
    with vt.models.decoding(policy) as log:
        first = tiny.continued(model, inputs, 6)[1]
    with vt.models.decoding(policy):
        torch.testing.assert_close(tiny.continued(model, inputs, 6)[1], first, atol=0, rtol=0)
    assert log.tokens_read().shape == (5, 2, 2, 6)
    assert log.tokens_read().max() < 80
    assert np.all(log.error_estimate() > 0)
    with vt.models.decoding(Policy.sampled(40, dense_below=0, seed=1)):
        other = tiny.continued(model, inputs, 6)[1]
    assert not torch.allclose(other[1], first[1])


def test_order_of_policies() -> None:
    (model,) = tiny.models("llama", "vashista")
    inputs = tiny.prompts(1, 60)

    def pages(**options: object) -> int:
        with vt.models.decoding() as log:
            tiny.continued(model, inputs, 3, **options)
        return int(log.pages_read().max())

    assert pages() == 16
    vt.models.register(policy=Policy(pages=5), page_size=4)
    assert pages() == 5
    with vt.models.decoding(Policy(pages=4)):
        assert pages() == 4, "an inner block without a policy keeps the outer one"
        own = vt.models.PagedCache(model.config, policy=FEW)
        assert pages(**{cache_argument(model): own}) == 3
    assert pages() == 5


def test_one_prompt_read_by_several_policies() -> None:
    (model,) = tiny.models("llama", "vashista")
    inputs = tiny.prompts(1, 60)
    cache = vt.models.PagedCache(model.config, room=80)
    step = {"input_ids": torch.tensor([[5]]), cache_argument(model): cache}
    with torch.no_grad():
        model(**inputs, **{cache_argument(model): cache})
        found = []
        for policy in (Policy.dense(), FEW, Policy.dense()):
            with vt.models.decoding(policy):
                found.append(model(**step).logits)
            cache.crop(-1)
    torch.testing.assert_close(found[0], found[2], atol=0, rtol=0)
    assert not torch.allclose(found[0], found[1], atol=1e-2)


def test_summaries_that_are_not_kept_are_named() -> None:
    (model,) = tiny.models("llama", "vashista")
    vt.models.register(policy=FEW, spec=SummarySpec(box=False, sketch_bits=None), page_size=4)
    with pytest.raises(ValueError, match=r"'box', which this cache does not keep"):
        tiny.continued(model, tiny.prompts(1, 40), 3)


def test_half_precision_models() -> None:
    sdpa, ours = (m.to(torch.bfloat16) for m in tiny.models("llama", "sdpa", "vashista"))
    inputs = tiny.prompts(2, 30, padding=(4, 0))
    with torch.no_grad():
        expected, found = (tiny.continued(m, inputs, 3)[1] for m in (sdpa, ours))
    # Logits reach 10 and bfloat16 keeps 8 bits: a step there is 0.06, and there are two layers.
    torch.testing.assert_close(found.float(), expected.float(), atol=0.4, rtol=0)
    cache = vt.models.PagedCache(ours.config)
    with torch.no_grad():
        ours(**inputs, **{cache_argument(ours): cache})
    assert cache.pages[0].dtype == jax.numpy.bfloat16


def test_other_models_keep_their_cache() -> None:
    from transformers import DynamicCache

    (sdpa,) = tiny.models("llama", "sdpa")
    layer = DynamicCache(config=sdpa.config).layers[0]
    assert type(layer).__name__ == "DynamicLayer"


def test_unregistering_undoes_everything() -> None:
    from transformers import AttentionInterface, DynamicCache

    vt.models.unregister()
    vt.models.unregister()
    assert "vashista" not in AttentionInterface().valid_keys()
    assert not hasattr(DynamicCache.__init__, "__wrapped__")
