"""What is said of continuing a prompt several ways, from rows made by hand."""

from experiments import generation
from experiments.framework.outcome import Measured
from vashista_theory.models.commands import Generate


def test_everything_that_the_command_compares_is_reported_under_its_name() -> None:
    names = ["own", *Generate().policies()]
    keys = ("times_dense", "same_tokens", "tokens_per_second", "pages_read")
    rows = [{"read_by": name} | dict.fromkeys(keys, i / 2) for i, name in enumerate(names)]
    values = {"prompt_tokens": 9, "new_tokens": 4}
    found = generation.report(Measured({"generation": rows, "text": []}, values))
    assert [found.values[f"times_dense_{name}"] for name in generation.COMPARED] == [
        row["times_dense"] for row in rows
    ]
    # In the order of the command, each under a word of its name.
    words = zip(generation.COMPARED[2:], names[2:], strict=True)
    spelt = {"boxes": "2 levels"}
    assert all(spelt.get(short, short) in name for short, name in words)
