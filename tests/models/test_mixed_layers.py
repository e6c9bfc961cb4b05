"""Models of several kinds of layers: those of full attention page, the others are transformers'."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import vashista_theory as vt  # noqa: E402
from tests.models import mixed, tiny  # noqa: E402
from tests.models.test_generation_is_dense import TOLERANCE, check_alike  # noqa: E402
from tests.thinned import diagonal  # noqa: E402
from vashista_theory.attention import Policy, SummarySpec  # noqa: E402
from vashista_theory.models._switch import cache_argument  # noqa: E402

BARE = SummarySpec(box=False, ball=False, sketch_bits=None)
# One of windows, one of chunks, one of convolutions and one of states.
KINDS = [
    name for name in ("Qwen2", "Llama4Text", "Lfm2Moe", "GraniteMoeHybrid") if name in mixed.known()
]


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    vt.models.register(policy=Policy.dense(), spec=BARE, page_size=4)
    yield
    vt.models.unregister()


@pytest.mark.parametrize(("family", "batch"), diagonal(mixed.known(), ("one", "padded"), 2))
def test_same_logits_and_text_as_eager(family: str, batch: str) -> None:
    padding = (9, 0, 21) if batch == "padded" else ()
    eager, ours = mixed.models(family, "eager", "vashista")
    inputs = tiny.prompts(max(1, len(padding)), 37, padding)
    check_alike(tiny.continued(ours, inputs), tiny.continued(eager, inputs))
    with torch.no_grad():
        found, expected = (m(**inputs, use_cache=False).logits for m in (ours, eager))
    seen = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[seen], expected[seen], atol=TOLERANCE, rtol=0)


def test_at_least_eight_families() -> None:
    assert len(mixed.known()) >= 8


@pytest.mark.parametrize("family", KINDS)
def test_only_full_attention_is_paged(family: str) -> None:
    (ours,) = mixed.models(family, "vashista")
    cache = vt.models.PagedCache(ours.config)
    own = transformers.DynamicCache(config=mixed.models(family, "eager")[0].config)
    with torch.no_grad():
        ours(**tiny.prompts(1, 20), **{cache_argument(ours): cache})
    kinds = ours.config.layer_types
    for kind, pages, layer, theirs in zip(
        kinds, cache.pages, cache.layers, own.layers, strict=True
    ):
        assert (pages is not None) == (kind == "full_attention")
        if pages is None:
            assert isinstance(layer, type(theirs))
        else:
            assert int(pages.lengths[0]) == 20
            assert layer.keys is None


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize(
    "options",
    [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}, {"prefill_chunk_size": 8}],
    ids=str,
)
def test_other_ways_to_generate(family: str, options: dict[str, Any]) -> None:
    eager, ours = mixed.models(family, "eager", "vashista")
    inputs = tiny.prompts(3, 37, padding=(9, 0, 21))
    expected = tiny.continued(eager, inputs, 8, **options)
    check_alike(tiny.continued(ours, inputs, 8, **options), expected)


@pytest.mark.parametrize("family", KINDS)
def test_a_few_pages_are_read_of_full_layers_alone(family: str) -> None:
    vt.models.register(policy=Policy.dense(), page_size=4)
    try:
        (ours,) = mixed.models(family, "vashista")
        policy = Policy(pages=3, sink=1, recent=1, summary="box")
        with vt.models.decoding(policy) as log:
            tiny.continued(ours, tiny.prompts(1, 60), 4)
        assert list(log.by_layer) == [1]
        assert log.pages_read().shape == (3, 1, 1, 6)
        assert int(log.pages_read().max()) == 3
    finally:
        vt.models.register(policy=Policy.dense(), spec=BARE, page_size=4)


def continue_by(model: Any, cache: Any, ids: Any, mask: Any, **options: Any) -> Any:
    seen = cache.get_seq_length()
    given = {"input_ids": ids[:, seen:], "attention_mask": mask, cache_argument(model): cache}
    with torch.no_grad():
        return model(**given, **options).logits


@pytest.mark.parametrize("family", KINDS)
def test_copies_and_other_orders_of_a_cache(family: str) -> None:
    eager, ours = mixed.models(family, "eager", "vashista")
    inputs = tiny.prompts(3, 30, padding=(9, 0, 4))
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    logits = []
    for model in (eager, ours):
        cache = transformers.DynamicCache(config=model.config)
        continue_by(model, cache, ids[:, :24], mask[:, :24])
        copied = copy.deepcopy(cache)
        order = torch.tensor([2, 0, 0])
        cache.reorder_cache(order)
        found = [
            continue_by(model, cache, ids[order], mask[order]),
            continue_by(model, copied, ids, mask),
        ]
        logits.append(
            [a[b[:, 24:].bool()] for a, b in zip(found, (mask[order], mask), strict=True)]
        )
    for found, expected in zip(logits[1], logits[0], strict=True):
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("tokens", [5, 20])
def test_cutting_back(tokens: int) -> None:
    # A window still holds all of 5 tokens; of 20 it does not, and transformers cannot go back.
    eager, ours = mixed.models(
        "Qwen2",
        "eager",
        "vashista",
        layer_types=["full_attention", "sliding_attention", "full_attention"],
    )
    inputs = tiny.prompts(1, tokens + 3)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    cache = vt.models.PagedCache(ours.config)
    continue_by(ours, cache, ids[:, :tokens], mask[:, :tokens])
    if tokens >= mixed.WINDOW:
        with pytest.raises(vt.models.UnsupportedModelError, match="layer 1 remembers a window"):
            cache.crop(-2)
        assert [layer.seen for layer in cache.layers] == [tokens] * 3, "nothing was cut"
    else:
        cache.crop(-2)
    found = continue_by(ours, cache, ids, mask)
    with torch.no_grad():
        expected = eager(**inputs).logits[:, -found.shape[1] :]
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.skipif(not hasattr(transformers.DynamicCache, "activate_past_recording"), reason="old")
def test_cutting_back_a_window_that_records() -> None:
    eager, ours = mixed.models("Qwen2", "eager", "vashista")
    inputs = tiny.prompts(1, 30)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    cache = vt.models.PagedCache(ours.config)
    cache.activate_past_recording()
    continue_by(ours, cache, ids[:, :24], mask[:, :24])
    cache.crop(-3)
    found = continue_by(ours, cache, ids, mask)
    with torch.no_grad():
        expected = eager(**inputs).logits[:, 21:]
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


def interrupted(family: str) -> Any:
    """A cache of a family whose last call failed midway, and was not read again."""
    (ours,) = mixed.models(family, "vashista")
    inputs = tiny.prompts(2, 20, padding=(5, 0))
    cache = vt.models.PagedCache(ours.config)
    step = {"input_ids": torch.tensor([[3], [3]]), cache_argument(ours): cache}
    right = torch.cat([inputs["attention_mask"], torch.ones(2, 1, dtype=torch.int64)], dim=1)
    wrong = right.clone()
    wrong[1, 3] = 0
    with torch.no_grad():
        ours(**inputs, **{cache_argument(ours): cache})
        with pytest.raises(vt.models.UnsupportedModelError, match="hides tokens"):
            ours(attention_mask=wrong, **step)
        with pytest.raises(vt.models.UnsupportedModelError, match="interrupted"):
            ours(attention_mask=right, **step)
    return cache


@pytest.mark.skipif("GraniteMoeHybrid" not in KINDS, reason="no cache layer for states")
def test_a_state_after_an_interrupted_call_is_not_trusted() -> None:
    cache = interrupted("GraniteMoeHybrid")
    with pytest.raises(vt.models.UnsupportedModelError, match="layer 0 remembers a state"):
        cache.layers[1].crop(-1)


def test_a_window_after_an_interrupted_call_is_not_trusted() -> None:
    interrupted("Qwen2")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layer_types": ["sliding_attention"] * 3}, "without a layer of full attention"),
        ({"layer_types": ["hybrid", "full_attention", "hybrid"]}, "layers of type hybrid"),
    ],
)
def test_what_stays_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(vt.models.UnsupportedModelError, match=words):
        mixed.models("Qwen2", "vashista", **options)


def test_what_reads_the_whole_context_in_every_layer_says_so() -> None:
    (eager,) = mixed.models("Qwen2", "eager")
    with pytest.raises(vt.models.UnsupportedModelError, match="layers of type sliding_attention"):
        vt.models.capture(eager, torch.arange(1, 20))


@pytest.mark.parametrize("family", ["GptOss", "Gemma2"])
def test_pieces_of_a_prompt_beside_sinks_and_under_caps(family: str) -> None:
    if family not in mixed.known():
        pytest.skip(f"this release has no {family}")
    eager, ours = mixed.models(family, "eager", "vashista")
    inputs = tiny.prompts(3, 37, padding=(9, 0, 21))
    expected = tiny.continued(eager, inputs, 4)
    check_alike(tiny.continued(ours, inputs, 4, prefill_chunk_size=8), expected)


@pytest.mark.parametrize(
    "options", [{"num_key_value_heads": 1}, {"head_dim": 256}], ids=["one kv head", "256 wide"]
)
def test_other_heads(options: dict[str, int]) -> None:
    eager, ours = mixed.models("Qwen3", "eager", "vashista", **options)
    inputs = tiny.prompts(3, 37, padding=(9, 0, 21))
    check_alike(tiny.continued(ours, inputs, 4), tiny.continued(eager, inputs, 4))
