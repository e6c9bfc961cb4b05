"""A whole model over a block of tokens is the same model fed one token at a time."""

import functools
import sys
from typing import Any

import jax
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import AttentionInterface

from tests.evaluation import tiny
from tests.thinned import spread
from vashista_theory.attention import PagedKV, Policy, SummarySpec, vashista_attention
from vashista_theory.evaluation import certificates, policies
from vashista_theory.evaluation.language_model import LanguageModel
from vashista_theory.evaluation.perplexity import predictions
from vashista_theory.evaluation.retrieval import Reader
from vashista_theory.evaluation.tasks import Prompt
from vashista_theory.models import UnsupportedModelError

TOKENS, STEPS, PAGES = 140, 21, 4
RNG = np.random.default_rng(0)
TEXT = RNG.integers(0, tiny.VOCABULARY, TOKENS)
OURS = {
    "dense": Policy.dense(),
    "published": Policy.published(PAGES),
    "budget": Policy(pages=PAGES, summary="sketch"),
    "certified-0.05": Policy.certified(0.05, dense_below=0),
}


class OneByOne:
    """Attention of single tokens by `vashista_attention`, each on a cache filled from scratch."""

    def __init__(self, policy: Policy, spec: Any) -> None:
        self.policy, self.spec, self.sparse = policy, spec, False
        self.past: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.expected: dict[int, np.ndarray] = {}

    def __call__(self, module: Any, query: Any, key: Any, value: Any, mask: Any, **_: Any) -> Any:
        del mask
        layer = module.layer_idx
        new = key[0].numpy(), value[0].numpy()
        old = self.past.get(layer)
        both = (
            new
            if old is None
            else tuple(np.concatenate(p, axis=1) for p in zip(old, new, strict=True))
        )
        self.past[layer] = both
        if not self.sparse:
            self.expected[layer] = query.numpy()
            repeated = (t.repeat_interleave(3, dim=1) for t in (key, value))
            output = torch.nn.functional.scaled_dot_product_attention(
                query, *repeated, is_causal=True
            )
            return output.transpose(1, 2), None
        # Only its own past is in it; equal shapes spare compilations.
        room = ((0, 0), (0, TOKENS - both[0].shape[1]), (0, 0))
        held = [np.pad(array, room)[None] for array in both]
        length, given = np.int32(both[0].shape[1]), (self.spec, self.policy)
        output = _step(query[:, :, 0].numpy(), *held, length, self.expected[layer], *given)
        return torch.from_numpy(np.array(output))[:, None], None


@functools.partial(jax.jit, static_argnums=(5, 6))
def _step(
    query: Any,
    keys: Any,
    values: Any,
    length: Any,
    expected: Any,
    spec: SummarySpec,
    policy: Policy,
) -> Any:
    cache = PagedKV.from_tokens(keys, values, lengths=length[None], spec=spec, queries=expected)
    return vashista_attention(query, cache, policy)[0]


def one_by_one(policy: Policy, spec: Any, start: int) -> np.ndarray:
    """Logits of the last tokens of the text, decoded one at a time after a dense prefill."""
    attention = OneByOne(policy, spec)
    AttentionInterface.register("one_by_one", attention)
    model = tiny.model()
    model.config._attn_implementation = "one_by_one"
    rows: list[np.ndarray] = []
    with torch.inference_mode():
        for begin, end in [(0, start), *((i, i + 1) for i in range(start, TOKENS))]:
            attention.sparse = begin > 0
            given = torch.from_numpy(TEXT[None, begin:end])
            places = torch.arange(begin, end)[None]
            found = model(input_ids=given, position_ids=places, use_cache=False)
            rows.append(found.logits[0].numpy())
    return np.concatenate(rows[1:])


def subject() -> LanguageModel:
    return LanguageModel(tiny.model(), tiny.Tokenizer(), name="tiny")


@pytest.mark.parametrize("name", spread(OURS, 2))
def test_a_block_is_decoding_one_token_at_a_time(name: str) -> None:
    policy, start = policies.get(name), TOKENS - STEPS
    model = subject()
    prefix = model.prefill(TEXT[:start], room=STEPS)
    logits, report, after = model.decode(prefix, TEXT[start:], policy, PAGES)
    expected = one_by_one(OURS[name], policy.spec, start)
    # float32 through two layers; logits are of order 10.
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-3)
    assert np.abs(logits).max() > 5
    assert report.tokens_read.shape == (2, 2, STEPS, 3)
    np.testing.assert_array_equal(report.lengths, np.arange(start, TOKENS) + 1)
    # The prefix that was gone on with continues the same text.
    first, _, middle = model.decode(prefix, TEXT[start : start + 9], policy, PAGES)
    second, _, _ = model.decode(middle, TEXT[start + 9 :], policy, PAGES)
    np.testing.assert_allclose(np.concatenate([first, second]), logits, rtol=0, atol=2e-3)
    assert after.length == TOKENS


def test_dense_is_transformers_own_attention() -> None:
    start = TOKENS - STEPS
    with torch.inference_mode():
        expected = tiny.model()(input_ids=torch.from_numpy(TEXT)[None]).logits[0, start:].numpy()
    model = subject()
    prefix = model.prefill(TEXT[:start], room=STEPS)
    logits, report, _ = model.decode(prefix, TEXT[start:], policies.get("dense"), PAGES)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-3)
    assert report.dropped.max() < 1e-5
    assert report.error.max() < 1e-5


def test_sparse_reading_is_seen_in_the_logits() -> None:
    model, start = subject(), TOKENS - STEPS
    prefix = model.prefill(TEXT[:start], room=STEPS)
    dense, *_ = model.decode(prefix, TEXT[start:], policies.get("dense"), PAGES)
    window, *_ = model.decode(prefix, TEXT[start:], policies.get("sink-recent"), PAGES)
    assert np.abs(window - dense).max() > 0.1


def test_predictions_by_hand() -> None:
    model = subject()
    rows = [(policies.get(name), PAGES) for name in ("dense", "boxes")]
    dense, boxes = predictions(model, TEXT, 16, rows)
    with torch.inference_mode():
        full = tiny.model()(input_ids=torch.from_numpy(TEXT)[None]).logits[0].double()
    log = torch.log_softmax(full, dim=-1).numpy()
    expected = -log[np.arange(TOKENS - 17, TOKENS - 1), TEXT[-16:]]
    np.testing.assert_allclose(dense.surprise, expected, rtol=0, atol=2e-3)
    assert dense.agrees.all()
    assert np.abs(dense.divergence).max() < 1e-5
    assert boxes.divergence.mean() > 1e-4
    np.testing.assert_array_equal(boxes.pages_read, PAGES)


def test_exact_match_is_greedy_decoding() -> None:
    model = subject()
    context = "the quick brown fox jumps over the lazy dog " * 3
    question = "and then "
    given = torch.tensor([tiny.Tokenizer().encode(context + question, add_special_tokens=False)])
    made = tiny.model()
    with torch.inference_mode():
        for _ in range(4):
            best = made(input_ids=given).logits[0, -1].argmax()
            given = torch.cat([given, best[None, None]], dim=1)
    # Characters whose token numbers are those that greedy decoding gives.
    greedy = "".join(chr(97 + (int(token) - 97) % tiny.VOCABULARY) for token in given[0, -4:])
    prompt = Prompt(context, question, greedy, ("zzzz", "qqqq"), 0.0)
    score = Reader(model, prompt).score(policies.get("dense"), PAGES)
    assert score.exact
    assert score.token_accuracy == 1.0
    wrong = Prompt(context, question, greedy[:3] + chr(ord(greedy[3]) + 1), ("zzzz",), 0.0)
    score = Reader(model, wrong).score(policies.get("dense"), PAGES)
    assert not score.exact
    assert score.token_accuracy == 0.75


def test_recorded_queries_are_certified_against_the_truth() -> None:
    recorded = subject().record(TEXT, 7)
    found = certificates.audit(recorded, 0.05)
    assert found.dropped.shape == (2, 6, 7)
    assert found.violations == 0
    assert found.certified.all()
    assert found.bound.max() <= 0.05
    keys, queries = recorded[1].keys, recorded[1].queries
    # The last query of the last head, whose mass is dropped by whole pages.
    scores = keys[1].astype(np.float64) @ queries[5, -1] * recorded[1].scale
    masses = np.exp(scores) / np.exp(scores).sum()
    assert found.dropped[1, 5, -1] < 0.05
    pages = np.add.reduceat(masses, np.arange(0, TOKENS, 16))
    subsets = (np.arange(2**9)[:, None] >> np.arange(9)) & 1
    # Some set of unread pages has the mass that is said to be dropped.
    assert np.min(np.abs(subsets @ pages - found.dropped[1, 5, -1])) < 1e-9


def test_a_model_whose_own_attention_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # What its eager function adds to the scores would be lost without a word.
    model = subject()
    file = sys.modules[type(model._model.model.layers[0].self_attn).__module__]
    own = file.eager_attention_forward

    def with_a_bias(
        module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any
    ) -> Any:
        places = torch.arange(mask.shape[-1], dtype=mask.dtype)
        return own(module, query, key, value, mask - places, **options)

    monkeypatch.setattr(file, "eager_attention_forward", with_a_bias)
    model = LanguageModel(tiny.model(), tiny.Tokenizer(), name="biased")
    with pytest.raises(UnsupportedModelError, match="own attention function is not softmax"):
        model.prefill(TEXT[:10], room=5)


def test_what_does_not_fit_is_refused() -> None:
    model = subject()
    with pytest.raises(ValueError, match=r"500 tokens and 20 more cannot be read by tiny.*512"):
        model.prefill(np.zeros(500, np.int64), room=20)
    prefix = model.prefill(TEXT[:10], room=5)
    with pytest.raises(ValueError, match=r"300 tokens after 10 do not fit"):
        model.decode(prefix, np.zeros(300, np.int64), policies.get("dense"), 1)
    other = tiny.model()
    other.config.sliding_window = 64
    with pytest.raises(UnsupportedModelError, match="sliding"):
        LanguageModel(other, tiny.Tokenizer(), name="windowed")
