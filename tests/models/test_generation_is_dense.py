"""Reading everything is transformers' own attention: eager and sdpa, token by token."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import vashista_theory as vt  # noqa: E402
from tests.models import tiny  # noqa: E402
from vashista_theory.attention import Policy, SummarySpec  # noqa: E402

BARE = SummarySpec(ball=False, sketch_bits=None)
EVERYTHING = {"dense": Policy.dense(), "all pages": Policy(pages=10_000, summary="box")}
# Logits reach 10; each is a sum of 48 products after two layers of float32 rounding, in another
# order in each implementation. Eager and sdpa differ by as much.
TOLERANCE = 2e-4


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    # The least that a cache can keep: quicker to compile.
    vt.models.register(policy=Policy.dense(), spec=BARE)
    yield
    vt.models.unregister()


def check_alike(found: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_same_logits_and_text_as_eager_and_sdpa(architecture: str) -> None:
    eager, sdpa, ours = tiny.models(architecture, "eager", "sdpa", "vashista")
    inputs = tiny.prompts(3, 37, padding=(9, 0, 21))
    found = tiny.continued(ours, inputs)
    check_alike(found, tiny.continued(eager, inputs))
    check_alike(found, tiny.continued(sdpa, inputs))


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.parametrize("batch", [1, 3])
def test_without_padding_whatever_reads_everything(name: str, batch: int) -> None:
    eager, ours = tiny.models("llama", "eager", "vashista")
    inputs = tiny.prompts(batch, 50)
    with vt.models.decoding(EVERYTHING[name]) as log:
        found = tiny.continued(ours, inputs)
    check_alike(found, tiny.continued(eager, inputs))
    assert log.steps == 19, "the prompt gives the first token"
    np.testing.assert_array_equal(log.share_read(), 1.0)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 2, "num_return_sequences": 2},
        {"prefill_chunk_size": 8},
        {"prompt_lookup_num_tokens": 3},
        {"use_cache": False},
    ],
    ids=str,
)
def test_other_ways_to_generate(options: dict[str, Any]) -> None:
    eager, ours = tiny.models("llama", "eager", "vashista")
    if "prompt_lookup_num_tokens" in options:
        inputs = tiny.prompts(1, 30)
        inputs["input_ids"][:, 15:] = inputs["input_ids"][:, :15]  # something to look up
    else:
        inputs = tiny.prompts(3, 37, padding=(9, 0, 21))
    found = tiny.continued(ours, inputs, **options)
    check_alike(found, tiny.continued(eager, inputs, **options))


def test_a_cache_that_outgrows_its_pages() -> None:
    # 64 pages of 2 tokens at first, and more than 128 tokens in the end.
    vt.models.register(policy=Policy.dense(), page_size=2, spec=BARE)
    eager, ours = tiny.models("llama", "eager", "vashista")
    inputs = tiny.prompts(2, 120, padding=(3, 0))
    check_alike(tiny.continued(ours, inputs), tiny.continued(eager, inputs))


def test_prompt_in_pieces_onto_padding_and_a_cut_back_cache() -> None:
    eager, ours = tiny.models("llama", "eager", "vashista")
    inputs = tiny.prompts(2, 40, padding=(17, 0))
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        whole = eager(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        cache = vt.models.PagedCache(ours.config)
        for attempt in range(2):  # the second after cutting back to 16 tokens, all padding in row 0
            first = 0 if attempt == 0 else 16
            for start, end in ((0, 16), (16, 23), (23, 24), (24, 40)):
                if start < first:
                    continue
                piece = ours(
                    input_ids=ids[:, start:end],
                    attention_mask=mask[:, :end],
                    position_ids=positions[:, start:end],
                    **{cache_name(ours): cache},
                ).logits
                seen = mask[:, start:end].bool()
                torch.testing.assert_close(
                    piece[seen], whole[:, start:end][seen], atol=TOLERANCE, rtol=0
                )
            np.testing.assert_array_equal(cache.pages[0].lengths, [23, 40])
            cache.crop(16 - 40)
            np.testing.assert_array_equal(cache.pages[0].lengths, [0, 16])


def cache_name(model: Any) -> str:
    from vashista_theory.models._switch import cache_argument

    return cache_argument(model)
