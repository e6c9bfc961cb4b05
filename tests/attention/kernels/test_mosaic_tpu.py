"""The TPU back end in an interpreter, on a CPU."""

from typing import ClassVar

import pytest
from jax.experimental.pallas import tpu as pltpu

from tests.attention.kernels.conformance import Attends, Scores
from vashista_theory.attention.kernels import mosaic_tpu

RUN = {"attend": mosaic_tpu.attend, "score": mosaic_tpu.score}
MODES = {
    "plain": True,
    # A copy arrives when it is waited for, and memory is NaN until then.
    "late": pltpu.InterpretParams(),
    # A copy arrives at once, over what may still be read.
    "early": pltpu.InterpretParams(dma_execution_mode="eager"),
    "races": pltpu.InterpretParams(detect_races=True, num_cores_or_threads=2),
}


class TestMosaicTpu(Attends, Scores):
    implementation = "mosaic_tpu"
    cannot: ClassVar = {
        "attend": {"llama3_8b_float16"},
        "score": {
            *("llama3_8b", "llama3_8b_float16", "qwen2_7b", "smollm2_135m", "ragged"),
        },
    }
    examples = 6

    def run(self, stage, call):
        return RUN[stage](call, None, interpret=True)
