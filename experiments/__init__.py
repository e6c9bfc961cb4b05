"""One file or folder a claim: each measures and writes its result. `python -m experiments --list`.

An experiment is a file, or a folder with `measure.py` and `report.py`, that has

- a docstring whose first line is the claim that is put to the test,
- a frozen dataclass `Config` with a field `quick` (a run of seconds, for tests),
- `measure(config) -> Measured`: rows of numbers, no prose,
- `report(found) -> Outcome`: columns, single values, findings, failures, from those rows alone. It
  is called whenever a result is read, so a better sentence needs no new measurement.

It may have `READS`, the experiments whose results it reads; `inputs()`, what else its result
depends on; and `BY_HAND`, why `update` leaves it to people. `Config.reduced()` is what `--quick`
measures. A field `store` of `Config` is the folder of work that can be resumed; another code or
configuration gets a folder of its own inside. Where the machine lacks what it needs (a GPU, a
compiler), `measure` raises `NotMeasured`: one line, exit code 0, and a stored result stays.
`Outcome.failures` make the exit code 1.
"""
