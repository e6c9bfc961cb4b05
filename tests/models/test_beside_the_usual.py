"""Threads, stretched positions, batches that lose their padding, types set for a whole process."""

import contextvars
import threading
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import vashista_theory as vt  # noqa: E402
from tests.models import mixed, tiny  # noqa: E402
from vashista_theory.attention import Policy, SummarySpec  # noqa: E402
from vashista_theory.models import refusals  # noqa: E402
from vashista_theory.models._switch import cache_argument  # noqa: E402
from vashista_theory.models.generation import compare  # noqa: E402

BARE = SummarySpec(box=False, ball=False, sketch_bits=None)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    vt.models.register(policy=Policy.dense(), page_size=4, spec=BARE)
    yield
    vt.models.unregister()


def in_a_thread(call: Any) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def test_a_block_is_handed_to_a_thread_by_its_context() -> None:
    (model,) = tiny.models("llama", "vashista")
    inputs = tiny.prompts(1, 12)
    with vt.models.decoding(Policy.dense()) as log:
        run = contextvars.copy_context().run
        in_a_thread(lambda: run(tiny.continued, model, inputs, 3))
    assert log.steps == 2  # the first token comes of the prompt


def test_two_models_in_one_block_have_a_log_each() -> None:
    models = [tiny.models("llama", "vashista")[0] for _ in range(2)]
    inputs = tiny.prompts(1, 12)
    with vt.models.decoding(Policy.dense()) as log:
        for steps, model in zip((3, 5), models, strict=True):
            tiny.continued(model, inputs, steps)
    assert [log.of(model).steps for model in models] == [2, 4]
    assert log.of(models[1]).tokens_read().shape[0] == 4
    with pytest.raises(ValueError, match=r"2 models decoded in this block: ask `log\.of\(model\)`"):
        log.tokens_read()
    with pytest.raises(ValueError, match="took no decode step"):
        log.of(tiny.models("llama", "vashista")[0])


def test_a_log_prints_what_it_holds() -> None:
    (model,) = tiny.models("llama", "vashista")
    with vt.models.decoding(Policy.dense()) as log:
        assert "without a decode step" in str(log)
        tiny.continued(model, tiny.prompts(2, 12), 1)
        with pytest.raises(ValueError, match=r"comes of the prompt.*at least 2 \(max_new_tokens=2"):
            log.tokens_read()
        tiny.continued(model, tiny.prompts(2, 12), 3)
    # 13 and 14 tokens are read in the two steps behind the prompt.
    said = str(log)
    assert said.startswith("DecodeLog of 2 steps in 2 layers, 2 sequences, 6 heads: 14 tokens read")
    assert "estimated error 0 in units of the values, dropped mass proved to be at most 0" in said
    vt.models.register(page_size=4, spec=SummarySpec(box=False, sketch_bits=None))
    with vt.models.decoding(Policy(pages=2, summary="mean", sink=0)) as few:
        tiny.continued(model, tiny.prompts(2, 12), 2)
        assert "estimated error" not in str(few)
        assert "dropped" not in str(few)
        tiny.continued(model, tiny.prompts(1, 12), 2)
    assert "of batches of several sizes" in str(few)
    with vt.models.decoding(Policy.dense()) as both:
        for one in (model, *tiny.models("llama", "vashista")):
            tiny.continued(one, tiny.prompts(1, 12), 2)
    assert "2 models in one block" in str(both)
    assert "1 step in 2 layers, 1 sequence" in str(both.of(model))


@pytest.mark.parametrize(
    ("scaling", "reach"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}, 2048),
        ({"rope_type": "yarn", "factor": 4.0}, 2048),
        ({"rope_type": "linear", "factor": 2.0}, 1024),
        # Llama 3.1 states what it reaches, which is more than what it was stretched from.
        (
            {
                "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 32,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            },
            512,
        ),
        ({"rope_type": "dynamic", "factor": 2.0}, None),
        (None, 512),
    ],
)  # fmt: skip
def test_positions_reach_as_far_as_they_were_stretched(
    scaling: dict[str, Any] | None, reach: int | None
) -> None:
    config = transformers.LlamaConfig(**tiny.SIZES, rope_scaling=scaling)
    assert refusals.longest_context(config) == reach
    refusals.check_context(reach or 10**6, config)
    if reach is not None:
        with pytest.raises(vt.models.UnsupportedModelError, match=f"{reach + 1} tokens"):
            refusals.check_context(reach + 1, config)


def test_the_full_layers_of_a_mixed_model_say_how_far_it_reaches() -> None:
    (model,) = mixed.models("Gemma3Text", "eager")
    assert refusals.longest_context(model.config) == tiny.CONTEXT


def test_comparing_takes_a_model_that_was_loaded_with_pages() -> None:
    (model,) = tiny.models("llama", "vashista")
    prompt = tiny.prompts(1, 40)["input_ids"][0].tolist()
    rows = compare(model, prompt, {"all": Policy.dense()}, new_tokens=5, rounds=1)
    assert rows[0].tokens == rows[1].tokens


@pytest.mark.parametrize("family", ["Qwen2", "Gemma2"])
def test_comparing_refuses_mixed_layers_before_it_reads(family: str) -> None:
    (model,) = mixed.models(family, "eager")
    told: list[str] = []
    with pytest.raises(vt.models.UnsupportedModelError, match="sliding_attention"):
        compare(model, [1, 2, 3], {}, new_tokens=5, progress=told.append)
    assert not told


def test_rows_without_padding_go_on_without_a_mask() -> None:
    (model,) = tiny.models("llama", "vashista")
    inputs = tiny.prompts(2, 20, padding=(0, 6))
    cache = vt.models.PagedCache(model.config)
    (alone,) = tiny.models("llama", "eager")
    with torch.no_grad():
        model(**inputs, **{cache_argument(model): cache})
        cache.batch_select_indices(torch.tensor([0]))
        following = torch.tensor([[5]])
        places = {"position_ids": torch.tensor([[20]])}
        mask = torch.ones(1, 21, dtype=torch.long)
        found = model(following, attention_mask=mask, **places, **{cache_argument(model): cache})
        whole = torch.cat([inputs["input_ids"][:1], following], dim=1)
        expected = alone(whole).logits[:, -1]
    torch.testing.assert_close(found.logits[:, -1], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_default_type_of_the_process_changes_nothing(dtype: torch.dtype) -> None:
    model, eager = tiny.models("llama", "vashista", "eager")
    inputs = tiny.prompts(1, 20)
    expected = tiny.continued(eager, inputs, 3)[0]
    torch.set_default_dtype(dtype)
    try:
        found = tiny.continued(model, inputs, 3)[0]
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)
