"""Mixed types, float64, compiled models, arguments that are not known: right, or refused."""

import copy
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

import vashista_theory as vt  # noqa: E402
from tests.models import tiny  # noqa: E402
from vashista_theory.attention import Policy, SummarySpec  # noqa: E402
from vashista_theory.models._switch import cache_argument  # noqa: E402
from vashista_theory.models.interface import attention  # noqa: E402

TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    spec = SummarySpec(box=False, ball=False, sketch_bits=None)
    vt.models.register(policy=Policy.dense(), page_size=4, spec=spec)
    yield
    vt.models.unregister()


class Plain(torch.nn.Module):
    """An attention module of nobody's."""

    num_key_value_groups = 2


def softmax_attention(query: Any, key: Any, value: Any, scale: float) -> np.ndarray:
    """Causal attention (B, T, H, D) of T last queries, in extended precision."""
    query, key, value = (a.double().numpy().astype(np.longdouble) for a in (query, key, value))
    groups = query.shape[1] // key.shape[1]
    key, value = (np.repeat(a, groups, axis=1) for a in (key, value))
    scores = np.einsum("bhtd,bhsd->bhts", query, key) * scale
    ages = np.arange(scores.shape[3])[None] - np.arange(scores.shape[2])[:, None]
    scores[..., ages > scores.shape[3] - scores.shape[2]] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("bhts,bhsd->bthd", weights, value)


@settings(max_examples=12)
@given(
    kinds=st.tuples(*[st.sampled_from(TYPES)] * 3),
    pieces=st.sampled_from([(5,), (5, 1), (4, 3, 1)]),
    wide=st.booleans(),
)
def test_queries_keys_and_values_of_any_types(
    kinds: tuple[Any, Any, Any], pieces: tuple[int, ...], wide: bool
) -> None:
    # A model that normalises its queries in float32, and one under autocast, mix them.
    (model,) = tiny.models("llama", "vashista", num_hidden_layers=1)
    source = torch.Generator().manual_seed(len(pieces))
    tokens = sum(pieces)
    shapes = ((1, 4, tokens, 8), (1, 2, tokens, 8), (1, 2, tokens, 8))
    arrays = [
        torch.randn(shape, generator=source, dtype=torch.float64).to(kind)
        for shape, kind in zip(shapes, kinds, strict=True)
    ]
    cache = vt.models.PagedCache(model.config)
    found, start = [], 0

    def layer(*_: Any, **__: Any) -> Any:
        query, key, value = (a[:, :, start : start + count].contiguous() for a in arrays)
        key, value = cache.update(key, value, 0)
        found.append(attention(Plain().eval(), query, key, value, None)[0])
        return torch.zeros(1, count, 48), None

    model.model.layers[0].self_attn.forward = layer
    named = {cache_argument(model): cache}
    with jax.enable_x64(wide), torch.no_grad():
        for count in pieces:
            model(input_ids=torch.ones(1, count, dtype=torch.int64), **named)
            start += count
    expected = softmax_attention(*arrays, scale=8**-0.5)
    for output in found:
        assert output.dtype == kinds[2]
    widest = torch.promote_types(torch.promote_types(kinds[0], kinds[1]), kinds[2])
    # Outputs are means of values up to 4: some roundings in the type computed in, and one to the
    # type handed back.
    tolerance = 16 * torch.finfo(widest).eps + 4 * torch.finfo(kinds[2]).eps
    np.testing.assert_allclose(
        torch.cat(found, dim=1).double().numpy(), expected.astype(float), atol=tolerance, rtol=0
    )


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_autocast(architecture: str) -> None:
    sdpa, ours = tiny.models(architecture, "sdpa", "vashista")
    inputs = tiny.prompts(2, 20, padding=(4, 0))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = (tiny.continued(model, inputs, 4)[1].float() for model in (ours, sdpa))
    # Logits reach 10 and bfloat16 keeps 8 bits: a step there is 0.06, and there are two layers.
    torch.testing.assert_close(found, expected, atol=0.4, rtol=0)


def test_a_cache_of_another_type() -> None:
    (ours,) = tiny.models("llama", "vashista")
    inputs = {"input_ids": torch.tensor([[3]])}
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            done = ours(**tiny.prompts(1, 20))
        narrow = {cache_argument(ours): getattr(done, cache_argument(ours))}
        with pytest.raises(vt.models.UnsupportedModelError, match=r"bfloat16.*float32"):
            ours(**inputs, **narrow)
        done = ours(**tiny.prompts(1, 20))
        wide = {cache_argument(ours): getattr(done, cache_argument(ours))}
        with torch.autocast("cpu", dtype=torch.bfloat16):  # float32 holds bfloat16 exactly
            assert ours(**inputs, **wide).logits.isfinite().all()


@pytest.mark.parametrize("wide", [False, True])
def test_float64_is_computed_in_float64(wide: bool) -> None:
    # Whatever JAX's own setting is. Beside sdpa: eager's softmax is in float32.
    sdpa, ours = (model.double() for model in tiny.models("llama", "sdpa", "vashista"))
    inputs = tiny.prompts(2, 20, padding=(4, 0))
    logits: list[list[Any]] = [[], []]
    with jax.enable_x64(wide), torch.no_grad():
        for model, said in zip((ours, sdpa), logits, strict=True):
            named: dict[str, Any] = {"use_cache": True}
            for start, end in ((0, 8), (8, 19), (19, 20)):  # a prompt, a piece of one, a token
                piece = {"input_ids": inputs["input_ids"][:, start:end]}
                done = model(**piece, attention_mask=inputs["attention_mask"][:, :end], **named)
                named = {cache_argument(model): getattr(done, cache_argument(model))}
                said.append(done.logits[inputs["attention_mask"][:, start:end].bool()])
    assert logits[0][0].dtype == torch.float64
    # Logits reach 10, through two layers of float64 rounding. Rotary angles are float32 in both.
    torch.testing.assert_close(*logits, atol=1e-12, rtol=0)


def test_compiled() -> None:
    names = ("eager", "sdpa", "vashista")
    eager, sdpa, ours = tiny.models("llama", *names, num_hidden_layers=1)
    inputs = tiny.prompts(2, 20, padding=(4, 0))
    torch._dynamo.reset()
    compiled = torch.compile(ours, backend="eager")
    with torch.no_grad():
        done, expected = compiled(**inputs), eager(**inputs)
        seen = inputs["attention_mask"].bool()
        # Logits reach 10; float32 rounding in another order.
        torch.testing.assert_close(done.logits[seen], expected.logits[seen], atol=2e-4, rtol=0)
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
        step = {"input_ids": torch.tensor([[3], [5]]), "attention_mask": mask}
        name = cache_argument(ours)
        found = compiled(**step, **{name: getattr(done, name)}).logits
        again = eager(**step, **{name: getattr(expected, name)}).logits
        torch.testing.assert_close(found, again, atol=2e-4, rtol=0)
        torch._dynamo.reset()  # or what was compiled above would serve
        with pytest.raises(vt.models.UnsupportedModelError, match="fullgraph"):
            torch.compile(ours, backend="eager", fullgraph=True)(**inputs)
        # Other models compile into one graph as they did.
        whole = torch.compile(sdpa, backend="eager", fullgraph=True)
        torch.testing.assert_close(whole(**inputs).logits, sdpa(**inputs).logits)
    torch._dynamo.reset()


def arrays() -> tuple[Any, Any, Any]:
    source = torch.Generator().manual_seed(0)
    shapes = ((1, 4, 3, 8), (1, 2, 3, 8), (1, 2, 3, 8))
    query, key, value = (torch.randn(shape, generator=source) for shape in shapes)
    return query, key, value


KNOWN = ["sliding_window", "softcap", "s_aux", "sinks", "position_bias", "alibi", "head_mask",
         "block_indices", "indices", "cu_seq_lens_q", "seq_idx"]  # fmt: skip


@settings(max_examples=40)
@given(
    name=st.sampled_from(KNOWN) | st.from_regex(r"[a-z]{1,4}_[a-z]{1,4}[0-9]", fullmatch=True),
    asked=st.sampled_from([0, 1.5, True, False, "yes", torch.zeros(2)]),
)
def test_arguments_that_are_not_known_to_be_harmless(name: str, asked: Any) -> None:
    module = Plain().eval()
    with pytest.raises(vt.models.UnsupportedModelError, match=name):
        attention(module, *arrays(), None, **{name: asked})
    attention(module, *arrays(), None, **{name: None})


def test_harmless_arguments() -> None:
    said = {"position_ids": torch.arange(3)[None], "use_cache": True, "output_attentions": False}
    attention(Plain().eval(), *arrays(), None, **said)


def test_what_is_not_causal_without_a_mask() -> None:
    module = Plain().eval()
    query, key, value = arrays()
    with pytest.raises(vt.models.UnsupportedModelError, match="not causal"):
        attention(module, query, key, value, None, is_causal=False)
    module.is_causal = False
    with pytest.raises(vt.models.UnsupportedModelError, match="not causal"):
        attention(module, query, key, value, None)
    expected = softmax_attention(query, key, value, 8**-0.5)
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool).tril()
    for options in ({"attention_mask": None, "is_causal": True}, {"attention_mask": mask}):
        found = attention(module, query, key, value, **options)[0]
        # float32 means of values up to 4.
        np.testing.assert_allclose(found.numpy(), expected.astype(float), atol=4e-6, rtol=0)


TWISTS = {
    "another scale": lambda scores, _: scores / 2,
    "a bias": lambda scores, _: scores + torch.arange(scores.shape[-1]) / 4,
    "a soft cap": lambda scores, _: 5 * torch.tanh(scores / 5),
    "a sink": lambda scores, _: torch.nn.functional.pad(scores, (0, 1)),
    "more than it is given": lambda scores, module: scores * module.missing,
    "nothing": lambda scores, _: scores,
}


@pytest.mark.parametrize("twist", TWISTS)
def test_what_only_the_models_own_function_does(
    twist: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As GPT-2 of transformers 4.56, whose eager function scales by layer and whose call says
    # nothing of it.
    def eager(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        key, value = (a.repeat_interleave(2, dim=1) for a in (key, value))
        scores = query @ key.transpose(2, 3) * options.get("scaling", 8**-0.5) + mask
        weights = TWISTS[twist](scores, module).softmax(dim=-1)[..., : key.shape[2]]
        return (weights @ value).transpose(1, 2), weights

    file = types.ModuleType("a_models_file")
    file.eager_attention_forward = eager  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, file.__name__, file)
    module = type("OwnAttention", (Plain,), {"__module__": file.__name__})().eval()
    for scaling in (None, 0.25):
        state = torch.random.get_rng_state()
        if twist == "nothing":
            attention(module, *arrays(), None, scaling=scaling)
        else:
            with pytest.raises(vt.models.UnsupportedModelError, match="own attention function"):
                attention(module, *arrays(), None, scaling=scaling)
        assert torch.equal(torch.random.get_rng_state(), state), "drawn apart from the user's"


def test_a_scale_by_layer() -> None:
    # The same in a model: where transformers passes the scale on, it is exact; else refused.
    config = transformers.GPT2Config(
        vocab_size=61, n_embd=48, n_layer=3, n_head=6, n_positions=64,
        scale_attn_by_inverse_layer_idx=True, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    made = []
    for name in ("eager", "vashista"):
        torch.manual_seed(0)
        auto: Any = transformers.AutoModelForCausalLM
        made.append(auto.from_config(copy.deepcopy(config), attn_implementation=name).eval())
    for parameter in made[0].parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    made[1].load_state_dict(made[0].state_dict())
    inputs = {"input_ids": tiny.prompts(1, 12)["input_ids"]}
    with torch.no_grad():
        expected = made[0](**inputs).logits
        passed_on = "scaling" in inspect.signature(attention_of(made[1])).parameters
        if not passed_on:
            with pytest.raises(vt.models.UnsupportedModelError, match="own attention function"):
                made[1](**inputs)
            return
        # Logits reach 20; three layers of float32 rounding in another order.
        torch.testing.assert_close(made[1](**inputs).logits, expected, atol=4e-4, rtol=0)


def attention_of(model: Any) -> Any:
    """The eager function of the file that a model is from."""
    return sys.modules[type(model).__module__].eager_attention_forward
