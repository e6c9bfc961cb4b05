"""One file a claim: each computes and writes its result. `python -m experiments --list`.

An experiment is a module with three things: a docstring whose first line is the claim that is put
to the test, a frozen dataclass `Config` with a field `quick` (a run of seconds, for tests), and
`run(config) -> Outcome`. Modules whose name starts with an underscore are shared by experiments.

It may have a fourth, `inputs()`: what its result depends on beside its own source and
configuration. Where the machine lacks what it needs (a GPU, a compiler), `run` raises
`NotMeasured`: one line, exit code 0, and a stored result stays. `Outcome.failures` make the exit
code 1.
"""
