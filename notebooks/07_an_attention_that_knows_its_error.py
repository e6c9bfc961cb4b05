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
# # 7. An attention that knows its error
#
# Leaving tokens out loses what they hold, however well they are chosen. *Drawing* them does not:
# read the sure ones, draw the others in proportion to a guess of what they add, weight what was
# drawn by 1/probability, and on average nothing is missing (T8). The error falls with the number of
# tokens, not with their share of the context, and the sample itself tells how large it is.

# %%
# %matplotlib inline
import os

import jax
import matplotlib.pyplot as plt
import numpy as np
from ipywidgets import SelectionSlider, interact

import vashista_theory as vt
from vashista_theory.plots import BLUE, COLUMN, GREEN, ORANGE, STYLE

plt.rcParams.update(STYLE)
np.set_printoptions(precision=3, suppress=True)
QUICK = os.environ.get("VASHISTA_QUICK") == "1"
DRAWS = 20 if QUICK else 50

heads, layer = vt.heads.load_heads(), 2
keys, values = (a[layer][None].astype(np.float32) for a in (heads.keys, heads.values))
query = heads.queries[layer, :, -1].astype(np.float32)  # (heads, 64): the last token's
spec = vt.attention.SummarySpec(sketch_bits=2)  # the guess: every key by two bits a number
cache = vt.attention.PagedKV.from_tokens(keys, values, spec=spec)
tokens, group = keys.shape[2], len(query) // keys.shape[1]
print("layer", heads.layers[layer], "of", heads.provenance["model"], "with", tokens, "tokens")

# %% [markdown]
# ## One read
#
# 128 of 1,024 tokens, for each of the kv heads. Three query heads share a kv head, and so a draw.
# The truth is known here, because everything is read once for comparison.

# %%
policy = vt.attention.Policy.sampled(128, dense_below=0)
exact, _ = vt.attention.vashista_attention(query[None], cache, vt.attention.Policy.dense())
output, info = vt.attention.vashista_attention(query[None], cache, policy, key=jax.random.key(0))
error = np.linalg.norm(output - exact, axis=-1)[0]
size = np.linalg.norm(exact, axis=-1)[0]
print("tokens read       ", np.asarray(info.tokens_read[0])[::group], "by kv head")
print("error, true       ", error / size)
print("error, its own say", np.asarray(info.error_estimate[0]) / size)

# %% [markdown]
# ## Many reads
#
# The estimate is a standard deviation: an error is about as large, seldom twice. `key` decides the
# draw; a batch of sequences that name the same pages draws for each of them.


# %%
def copies(number: int) -> vt.attention.PagedKV:
    """So many sequences that name the same pages."""
    table = np.broadcast_to(np.arange(cache.pages_per_sequence), (number, cache.pages_per_sequence))
    lengths = np.full(number, tokens)
    return vt.attention.PagedKV.from_pages(cache.keys, cache.values, table, lengths, spec=spec)


def truth(scale: float) -> np.ndarray:
    """Dense outputs, (heads, 64)."""
    dense = vt.attention.Policy.dense()
    return np.asarray(vt.attention.vashista_attention(query[None], cache, dense, scale=scale)[0][0])


def draws(asked: int, epsilon: float = 1.0, number: int = DRAWS):
    """Relative errors of draws and their estimates, (draws, heads); ε in units of the model's."""
    scale, queries = heads.scale / epsilon, np.broadcast_to(query, (number, *query.shape))
    sampled = vt.attention.Policy.sampled(asked, dense_below=0)
    output, info = vt.attention.vashista_attention(
        queries, copies(number), sampled, scale=scale, key=jax.random.key(1)
    )
    exact = truth(scale)
    size = np.linalg.norm(exact, axis=-1)
    return np.linalg.norm(output - exact, axis=-1) / size, np.asarray(info.error_estimate) / size


def shares(epsilon: float = 1.0) -> np.ndarray:
    """The softmax itself, (heads, tokens)."""
    scores = np.einsum("hd,htd->ht", query, keys[0].repeat(group, axis=0)) * heads.scale / epsilon
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def chosen(held: np.ndarray, asked: int, size: int) -> np.ndarray:
    """The heaviest pieces of `size` tokens, for each kv head: what an oracle reads."""
    pieces = held.reshape(-1, group, tokens // size, size).sum(axis=(1, 3))
    kept = np.zeros_like(pieces, dtype=bool)
    np.put_along_axis(kept, np.argsort(-pieces, axis=1)[:, : asked // size], values=True, axis=1)
    return held * kept.repeat(size, axis=1).repeat(group, axis=0)


def best(asked: int, size: int, epsilon: float = 1.0) -> np.ndarray:
    """Relative error of so many tokens chosen by an oracle, in pieces of `size`, by head."""
    held = shares(epsilon)
    kept = chosen(held, asked, size)
    kept /= kept.sum(axis=1, keepdims=True)
    read, whole = ((w[:, None] @ values[0].repeat(group, axis=0))[:, 0] for w in (kept, held))
    return np.linalg.norm(read - whole, axis=-1) / np.linalg.norm(whole, axis=-1)


# %%
numbers = (64, 128) if QUICK else (64, 128, 256, 512)
found = {asked: draws(asked) for asked in numbers}
ratio = np.concatenate([(error / told).ravel() for error, told in found.values()])
middle, high = np.quantile(ratio, [0.5, 0.95])
print(f"error over estimate: median {middle:.2f}, 95 % below {high:.2f}")
assert 0.7 < middle < 1.2

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(2 * COLUMN, 2.5))
typical = [np.median(error) for error, _ in found.values()]
left.loglog(numbers, typical, "o-", color=ORANGE, ms=3, label="drawn, weighted")
left.loglog(
    numbers, [np.median(told) for _, told in found.values()],
    "--", color="black", lw=1, label="what the draw says of itself",
)  # fmt: skip
for name, piece, colour in (("best tokens", 1, GREEN), ("best pages", 16, BLUE)):
    lost = [np.median(best(asked, piece)) for asked in numbers]
    left.loglog(numbers, lost, "s-", color=colour, ms=3, label=f"{name}, by an oracle")
left.set(xlabel="tokens read of 1,024", ylabel="relative error, median")
left.set_xticks(numbers, [str(n) for n in numbers])
left.minorticks_off()
left.set_title("Drawn tokens beside the best ones")
left.legend(frameon=False, fontsize=7)
right.hist(ratio, bins=np.linspace(0, 3, 40), color=ORANGE)
right.axvline(1, color="black", ls="--", lw=0.8)
right.set(xlabel="error / its own estimate", ylabel="reads")
right.set_title("The draw knows how far it is off")
plt.show()

# %% [markdown]
# The draw knows its guesses alone, the oracles know every mass: no decoder can have theirs. Where
# attention is sharp (set `layer = 3`) few tokens hold everything, and at small m the best ones win;
# in the first layer (`layer = 0`), which looks at everything, no choice comes near the draw.
#
# ## The two knobs
#
# The temperature ε and the number of tokens m. The error is at most R·t·√(ρ/m): t is the share of
# the mass outside the sure tokens, R how far a value lies from the output, ρ how well the guess
# ranks. Sharper attention (ε below 1) puts the mass on the face, t falls like exp(−Δ/ε), and the
# gap of the theorem multiplies with the sample. Flatter attention (ε above 1) is where no choice of
# tokens is both small and safe, and the draw still is. Move both:


# %%
def look(asked: int, epsilon: float) -> None:
    """Errors of the query heads at this m and ε: drawn, as estimated, and by oracles."""
    error, told = draws(asked, epsilon, number=20)
    show(
        f"{asked} of {tokens:,} tokens, ε = {epsilon:g} of the model's",
        {"best pages": best(asked, 16, epsilon), "best tokens": best(asked, 1, epsilon)}
        | {"drawn": np.median(error, axis=0), "own estimate": np.median(told, axis=0)},
    )


def show(title: str, rows: dict[str, np.ndarray]) -> None:
    """A mark for each head and way of reading."""
    _, axes = plt.subplots(figsize=(1.5 * COLUMN, 2.5))
    for (name, numbers), mark, colour in zip(
        rows.items(), "sso_", (BLUE, GREEN, ORANGE, "black"), strict=True
    ):
        axes.semilogy(numbers, mark, color=colour, ms=10 if mark == "_" else 4, label=name)
    axes.set(xlabel="query head", ylabel="relative error", ylim=(1e-5, 3), title=title)
    axes.legend(frameon=False, ncols=4, fontsize=7, loc="lower center")
    plt.show()


interact(
    look,
    asked=SelectionSlider(options=[64, 128, 256, 512], value=128, description="m"),
    epsilon=SelectionSlider(options=[0.25, 0.5, 1.0, 2.0, 4.0], value=1.0, description="ε"),
)

# %%
for epsilon in (0.25, 0.5, 1.0, 2.0, 4.0):
    error, told = draws(128, epsilon, number=20)
    print(
        f"ε = {epsilon:<4g} drawn {np.median(error):.1e}  its own say {np.median(told):.1e}  "
        f"best pages {np.median(best(128, 16, epsilon)):.1e}  "
        f"best tokens {np.median(best(128, 1, epsilon)):.1e}"
    )

# %% [markdown]
# ## A criterion
#
# With a `tolerance`, a read whose own estimate is too large reads twice as many tokens, up to eight
# times, and then everything: cost follows difficulty. With a `confidence` the error also gets a
# bound that holds with that probability; it is wide for small samples and coarse guesses, and
# useful from four bits on.

# %%
for tolerance in (0.05,) if QUICK else (0.2, 0.05, 0.02):
    careful = vt.attention.Policy.sampled(64, tolerance=tolerance, dense_below=0)
    output, told = vt.attention.vashista_attention(query[None], cache, careful)
    error = (np.linalg.norm(output - exact, axis=-1) / np.linalg.norm(exact, axis=-1))[0]
    read = np.asarray(told.tokens_read[0])[::group]
    print(
        f"at most {tolerance:>4.0%} by its own say: tokens {read}, true error to {error.max():.3f}"
    )

# %%
fine = vt.attention.SummarySpec(sketch_bits=8)
finer = vt.attention.PagedKV.from_tokens(keys, values, spec=fine)
proved = vt.attention.Policy.sampled(512, confidence=1 - 1e-6, dense_below=0)
output, told = vt.attention.vashista_attention(query[None], finer, proved)
error = np.linalg.norm(output - exact, axis=-1)[0]
bound = np.asarray(told.error_bound[0])
assert (error <= bound).all()
print("error, true              ", error / size)
print("bound, but once in 10^6  ", bound / size)
