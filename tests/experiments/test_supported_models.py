"""What is asked for is looked at before minutes of comparing."""

import pytest

from experiments import supported_models

pytest.importorskip("torch")
pytest.importorskip("transformers")


def test_an_interpreter_that_is_not_there_is_refused_before_anything_is_compared() -> None:
    with pytest.raises(ValueError, match="oldest is 'nowhere/bin/python'"):
        supported_models.measure(supported_models.Config(oldest="nowhere/bin/python"))
