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
# # 4. Certified sparse attention, a query at a time
#
# A decoder keeps the keys and values of its context in pages. Reading all of them is exact;
# reading a few is fast, and usually nobody knows what was lost. Here every query gets a proof: of
# the softmax mass that was left unread, and of the error of the output.

# %%
# %matplotlib inline
import os

import matplotlib.pyplot as plt
import numpy as np

import vashista_theory as vt
from vashista_theory.plots import BLUE, COLUMN, GREEN, GREY, ORANGE, STYLE

plt.rcParams.update(STYLE)
np.set_printoptions(precision=3, suppress=True)
QUICK = os.environ.get("VASHISTA_QUICK") == "1"

heads, layer = vt.heads.load_heads(), 3
keys, values = (a[layer][None].astype(np.float32) for a in (heads.keys, heads.values))
queries = heads.queries[layer].astype(np.float32)  # (heads, recorded positions, 64)
cache = vt.attention.PagedKV.from_tokens(keys, values)
print("layer", heads.layers[layer], "of", heads.provenance["model"])
pages, tokens, shared = cache.pages_per_sequence, keys.shape[2], keys.shape[1]
print(f"{tokens} tokens in {pages} pages, for each of {shared} kv heads")

# %% [markdown]
# The policy says what must be true, not how much to read: *drop at most 5 % of the mass*. The
# cache keeps a small sketch of every key; from it each unread page gets an upper bound on its mass
# (T7), and pages are read, in order of that bound, until the rest is proved to be at most 5 %.
# (`dense_below=0` asks for the proof in this short context too.)

# %%
policy = vt.attention.Policy.certified(0.05, dense_below=0)
query = queries[:, -1][None]  # (1, heads, 64): the last token's
output, info = vt.attention.vashista_attention(query, cache, policy)
exact, everything = vt.attention.vashista_attention(query, cache, vt.attention.Policy.dense())

# %% [markdown]
# The truth is known here, because everything was read once for comparison. `log_mass` is the
# logarithm of the summed exponentials that were read, so two reads of one query give the dropped
# mass. It has to lie in the proved bracket, and the output within the proved error:

# %%
dropped = np.asarray(1 - np.exp(info.log_mass[0] - everything.log_mass[0]))
low, high = np.asarray(info.dropped_mass_lower[0]), np.asarray(info.dropped_mass_bound[0])
error = np.linalg.norm(np.asarray(output - exact)[0], axis=-1)
assert (low <= dropped + 1e-5).all()  # 1e-5: float32 sums of a thousand exponentials
assert (dropped <= high + 1e-5).all()
assert (error <= np.asarray(info.error_bound[0]) + 1e-5).all()
print("pages read         ", np.asarray(info.pages_read[0]), "of", pages)
print("dropped mass, true ", dropped)
print("dropped mass, bound", high)
print("output error, true ", error)
print("output error, bound", np.asarray(info.error_bound[0]))

# %% [markdown]
# How good is that? No reader can drop at most 5 % with fewer pages than an oracle who knows every
# page's mass and takes the heaviest first. The certificate pays for not knowing.

# %%
group = queries.shape[0] // keys.shape[1]  # query heads that share one kv head
scores = heads.scale * np.einsum("hd,htd->ht", query[0], keys[0].repeat(group, axis=0))
weights = np.exp(scores - scores.max(axis=1, keepdims=True))
shares = weights / weights.sum(axis=1, keepdims=True)
mass = shares.reshape(len(shares), pages, cache.page_size).sum(axis=2)
remaining = 1 - np.cumsum(-np.sort(-mass, axis=1), axis=1)
oracle = 1 + np.argmax(remaining <= 0.05, axis=1)

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(2 * COLUMN, 2.4))
count = np.arange(1, mass.shape[1] + 1)
left.semilogy(count, np.maximum(remaining, 1e-5).T, color=GREY, lw=0.8)
left.axhline(0.05, color="black", ls="--", lw=0.8)
left.set(xlabel="pages read, heaviest first", ylabel="mass left out", ylim=(1e-3, 1))
left.set_title("What an oracle would leave out, by head")
place = np.arange(len(mass))
right.bar(place - 0.2, oracle, 0.4, color=GREY, label="oracle, alone")
right.bar(place + 0.2, np.asarray(info.pages_read[0]), 0.4, color=ORANGE, label="certified")
right.axhline(pages, color="black", ls="--", lw=0.8)
right.set(xlabel="query head (three share a kv head)", ylabel="pages of 64", ylim=(0, 76))
right.set_title("Pages for at most 5 % dropped")
right.set_xticks(place)
right.legend(frameon=False, ncols=2, loc="upper center")
plt.show()

# %% [markdown]
# Three query heads share each kv head, and a page is read for all of them: the neediest decides.
#
# **A query at a time.** Decoding asks again at every token. Here are the recorded last positions
# in order, each with the context it had: `truncate` gives the cache as it was then.

# %%
bounds = []
for index, position in enumerate(heads.positions):
    then = cache.truncate(np.array([position + 1]))
    _, step = vt.attention.vashista_attention(queries[:, index][None], then, policy)
    read = np.asarray(step.pages_read[0])[::group]
    bounds.append(float(step.dropped_mass_bound.max()))
    print(f"token {position}: pages {read}, dropped at most {bounds[-1]:.4f}")
assert max(bounds) <= 0.05

# %% [markdown]
# **What a fixed budget does.** 16 of the 64 pages at each step cost the same whatever the query.
# `published` ranks pages by their mean key, which bounds nothing; the sketch ranks better and, with
# a tolerance, also says which answers it could prove.

# %%
budgets = {
    "page means": vt.attention.Policy.published(16),
    "sketches": vt.attention.Policy(pages=16, tolerance=0.05),
}
lost = {"certified": dropped}
for name, budget in budgets.items():
    _, told = vt.attention.vashista_attention(query, cache, budget)
    lost[name] = np.asarray(1 - np.exp(told.log_mass[0] - everything.log_mass[0]))
    print(f"{name:>10}: proved for {int(told.certified.sum())} of {query.shape[1]} heads")

# %%
figure, axes = plt.subplots(figsize=(1.3 * COLUMN, 2.4))
drawn = {"page means": (BLUE, -0.2), "sketches": (GREEN, 0), "certified": (ORANGE, 0.2)}
for name, (colour, aside) in drawn.items():
    axes.semilogy(place + aside, np.maximum(lost[name], 1e-3), "o", color=colour, ms=4, label=name)
axes.axhline(0.05, color="black", ls="--", lw=0.8)
axes.set(xlabel="query head", ylabel="mass left out", xticks=place, ylim=(8e-4, 2))
axes.set_title("A budget of 16 pages keeps no promise; the certificate does")
axes.legend(frameon=False, ncols=3, loc="upper center")
plt.show()

# %% [markdown]
# The knob is the tolerance. A smaller one costs pages, and on diffuse heads nearly all of them:

# %%
tolerances = (0.05, 0.2) if QUICK else (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
for tolerance in tolerances:
    asked = vt.attention.Policy.certified(tolerance, dense_below=0)
    _, told = vt.attention.vashista_attention(query, cache, asked)
    read = np.asarray(told.pages_read[0])[::group]
    print(f"at most {tolerance:>5.1%} dropped: pages by kv head", read)
