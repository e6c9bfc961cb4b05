# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6. Reproduce the paper
#
# Ask of any sentence "how do you know?", and the answer is a command. A claim is an *experiment*
# (`experiments/NAME.py`, or a folder), which computes a *result*
# (`experiments/results/NAME.json`, committed, with its configuration, versions, device and
# commit); a *figure* (`figures/NAME.py`) reads a result and draws. Nothing is typed by hand. This
# page walks the chain once.

# %%
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from IPython.display import Image, Markdown

import vashista_theory as vt

jax.config.update("jax_enable_x64", True)
QUICK = os.environ.get("VASHISTA_QUICK") == "1"
REPOSITORY = Path(vt.__file__).parents[1]
RESULTS = REPOSITORY / "experiments" / "results"
if not RESULTS.is_dir():
    raise FileNotFoundError("experiments are not in the wheel: clone, and `pip install -e .`")


def run(*words):
    """Run a command of the project at the root of the repository, and show what it says."""
    print("$ python", *words)
    done = subprocess.run(
        [sys.executable, *words], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout


# %% [markdown]
# ## Every claim has an experiment

# %%
print(run("-m", "experiments", "--list"))

# %% [markdown]
# ## Every claim of the abstract has a verdict
#
# A rule for each judges it from the committed results. "Not measured" is a verdict too.

# %%
sys.path.insert(0, str(REPOSITORY))
from experiments.framework import results

stored = {path.stem: results.read(path) for path in sorted(RESULTS.glob("*.json"))}
said = {name: results.outcome(name) for name in stored}


def table(header, rows):
    """A markdown table to show."""
    lines = [header, ("---",) * len(header), *rows]
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in cells))


# %%
judged = said["verdicts"].tables["verdicts"].rows if "verdicts" in said else []
shown = ("sentence", "statement", "experiment", "verdict")
table(shown, [[row[column] for column in shown] for row in judged])

# %% [markdown]
# ## Every experiment that was run has a result
#
# Its findings are sentences whose numbers the run computed. The first of each:

# %%
rows = []
for name, result in stored.items():
    made, findings = result["manifest"], said[name].findings
    first = (*findings, "no finding stored")[0]
    rows.append((f"`{name}`", first, made["started"][:10], made["commit"][:8]))
table(("experiment", "first finding", "computed", "commit"), rows)

# %% [markdown]
# Failures are part of the result, never hidden. What went wrong in the committed runs:

# %%
wrong = {name: outcome.failures for name, outcome in said.items()}
print("\n".join(f"{name}: {line}" for name, lines in wrong.items() for line in lines) or "nothing")

# %% [markdown]
# ## A result is computed again only if its code or inputs changed
#
# `python -m experiments NAME` recognises an unchanged input and only shows what is stored;
# `--force` computes again, and `--quick` takes small instances. Here the verdicts are judged once
# more, into a folder of its own; then again, and nothing is left to do.

# %%
scratch = Path(tempfile.mkdtemp(prefix="vashista"))
for _ in range(2):
    printed = run("-m", "experiments", "verdicts", "--quick", "--results", str(scratch))
    print(*printed.splitlines()[-3:], sep="\n")

# %% [markdown]
# A number quoted in the paper is a value in a result. Here is one of them, computed from its
# definition: the gap of the reference hull.

# %%
rng = np.random.default_rng(0)
keys, query = rng.normal(size=(1024, 64)), 1.5 * rng.normal(size=64)
here = float(vt.project(keys, query).gap)
quoted = said["theorem_constants"].values["reference_gap"]
print(f"gap here {here:.12f}, in the result {quoted:.12f}")
assert abs(here - quoted) < 1e-12  # rounding of μ, on another machine

# %% [markdown]
# ## Every figure reads a result
#
# `python -m figures NAME` writes PNG, PDF and a note with the result's checksum.

# %%
print(run("-m", "figures", "theorem" if QUICK else "all", "--output", str(scratch)))

# %% [markdown]
# The two laws:

# %%
Image(scratch / "theorem.png", width=720)

# %% [markdown]
# The note says which result, byte for byte:

# %%
note = json.loads((scratch / "theorem.json").read_text("utf-8"))
note

# %% [markdown]
# ## All of it
#
# | what | command, at the root of the repository |
# |---|---|
# | the theorem over every family | `python -m vashista_theory.sweep` |
# | every experiment, small | `python -m experiments all --quick` |
# | every experiment | `python -m experiments all` |
# | every figure | `python -m figures all` |
# | one experiment's options | `python -m experiments NAME --help` |
# | what is stale, every figure, every number and the PDF | `make paper` |
#
# GPU results come from a committed result that names its device; without one, text and figures say
# "not measured":

# %%
measured = "measured" if "decode_gpu" in stored else "not measured"
devices = sorted({result["manifest"]["device"] for result in stored.values()})
print("decode_gpu:", measured, "  devices of the committed results:", ", ".join(devices))
