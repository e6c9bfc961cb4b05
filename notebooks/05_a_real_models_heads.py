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
# # 5. A real model's heads
#
# Does a language model's attention run where the theorem says something? The package carries a
# sample: queries, keys and values of seven layers of a 135M model on 1,024 tokens of text. Each
# query head at the last position is one instance of the projection problem, with 1,024 keys in 64
# dimensions, and the model's own temperature is $\varepsilon = \sqrt{64} = 8$.

# %%
# %matplotlib inline
import os

import jax
import matplotlib.pyplot as plt
import numpy as np

import vashista_theory as vt
from vashista_theory.plots import BLUE, COLUMN, ORANGE, STYLE

jax.config.update("jax_enable_x64", True)
plt.rcParams.update(STYLE)
QUICK = os.environ.get("VASHISTA_QUICK") == "1"

heads = vt.heads.load_heads()
layers, per_layer = heads.queries.shape[:2]
print(heads.provenance["model"])
print(heads.provenance["text"])
print(f"{layers} layers with {per_layer} query heads; layers", heads.layers)

# %% [markdown]
# Three numbers for each head: $\Delta/\varepsilon$, the mass that entropic attention really has
# off the face, and what is proved of it.

# %%
model = 1 / heads.scale
epsilon = model / np.logspace(0, 3, 13)  # the model's temperature, and down to a thousandth


def measure(layer, head):
    """Gap, face, leakage and its bound along the temperatures, of one head's last query."""
    query, keys, _ = heads.attend(layer, head, -1)
    projection = vt.project(keys, query, throw=False)
    bound = vt.face_stability(projection).log_leakage_bound(epsilon)
    leaked = vt.relax(projection, epsilon, throw=False).log_off_face_mass
    return float(projection.gap), int(projection.face.sum()), np.exp(leaked), np.exp(bound)


every = 3 if QUICK else 1
chosen = [(layer, head) for layer in range(layers) for head in range(0, per_layer, every)]
gap, face, leaked, bound = map(np.array, zip(*(measure(*one) for one in chosen), strict=True))
number = heads.layers[[layer for layer, _ in chosen]]

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(2 * COLUMN, 2.5))
left.semilogy(number, gap / model, "o", color=BLUE, ms=4, alpha=0.7)
left.axhline(1, color="black", ls="--", lw=0.8)
left.set(xlabel="layer", ylabel="Δ/ε at the model's ε", title="The gap is small beside ε")
right.plot(number, bound[:, 0], "_", color=ORANGE, ms=9, label="proved, at most")
right.plot(number, leaked[:, 0], "o", color=BLUE, ms=4, alpha=0.7, label="measured")
right.set(xlabel="layer", ylabel="mass off the face", ylim=(0, 1.25))
right.set_title("At that temperature the bound says nearly nothing")
right.legend(frameon=False, ncols=2, loc="upper center")
plt.show()

# %%
print(f"Δ/ε: median {np.median(gap) / model:.3f}, largest {gap.max() / model:.2f}")
print(f"keys on the face: median {np.median(face):.0f} of 1,024, most {face.max()}")
print(f"mass off the face: median {np.median(leaked[:, 0]):.2f}")
print(f"bound below 1 in {(bound[:, 0] < 1 - 1e-9).sum()} of {len(chosen)} heads")
assert (leaked <= bound * (1 + 1e-9)).all()

# %% [markdown]
# So the face is tiny, in the later layers most of the mass is on it, and still the theorem proves
# next to nothing: it is a statement about small temperatures. How much colder would attention have
# to be?

# %%
figure, axes = plt.subplots(figsize=(1.3 * COLUMN, 2.4))
for curves, colour, name in ((leaked, BLUE, "measured"), (bound, ORANGE, "proved")):
    low, middle, high = np.quantile(curves, (0.1, 0.5, 0.9), axis=0)
    axes.fill_between(model / epsilon, low, high, color=colour, alpha=0.2, lw=0)
    axes.semilogx(model / epsilon, middle, color=colour, label=name)
axes.set(xlabel="times colder than the model", ylabel="mass off the face", ylim=(0, 1.3))
axes.set_title("Colder, attention enters the regime (median, 10 to 90 % of heads)")
axes.legend(frameon=False, ncols=2, loc="upper center")
plt.show()

# %% [markdown]
# **Softmax itself.** The model uses softmax of the scores, not the projection (it is the far-query
# limit, T6). How many tokens hold 90 % of its mass, and how much of it does the first token hold?

# %%


def softmax(layer, head):
    """Attention weights of the last query, as the model computes them."""
    query, keys, _ = heads.attend(layer, head, -1)
    weights = np.exp(heads.scale * (keys @ query - np.max(keys @ query)))
    return weights / weights.sum()


weights = np.array([softmax(*one) for one in chosen])
heaviest = np.cumsum(-np.sort(-weights, axis=1), axis=1)
tokens = 1 + np.argmax(heaviest >= 0.9, axis=1)

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(2 * COLUMN, 2.4))
left.semilogy(number, tokens, "o", color=BLUE, ms=4, alpha=0.7)
left.set(xlabel="layer", ylabel="tokens", ylim=(0.8, 1024), title="Tokens for 90 % of the mass")
right.plot(number, weights[:, 0], "o", color=ORANGE, ms=4, alpha=0.7)
right.set(xlabel="layer", ylabel="weight", ylim=(0, 1), title="Weight of the very first token")
plt.show()

# %% [markdown]
# Support is far from constant: some heads look at a handful of tokens, mostly the first one (an
# attention sink), others at hundreds. A sparse read is safe for the former and needs a certificate
# for the latter. Does the gap tell them apart? Rank correlation with what an oracle's 256 best
# tokens leave out:

# %%


def ranks(numbers):
    return np.argsort(np.argsort(numbers))


left_out = 1 - heaviest[:, 255]
correlation = np.corrcoef(ranks(gap), ranks(left_out))[0, 1]
print(f"rank correlation of Δ/ε and mass left out, {len(chosen)} heads: {correlation:.2f}")
print("with more text and more diagnostics: python -m experiments head_survey")

# %% [markdown]
# One head on one page, with everything that the package knows of it:

# %%
query, keys, _ = heads.attend(*chosen[int(np.argmax(gap))], -1)
print(vt.diagnose(keys, query, scale=heads.scale))
