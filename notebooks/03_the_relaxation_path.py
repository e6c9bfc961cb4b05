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
# # 3. The relaxation path
#
# As the temperature falls from $\infty$ to 0, entropic attention walks from the mean of the keys
# to the projection $p^*$. This page follows the walk: where it goes, how it arrives, how it is
# computed without losing digits, and where ordinary softmax attention stands beside it.

# %%
# %matplotlib inline
import os

import jax
import matplotlib.pyplot as plt
import numpy as np

import vashista_theory as vt
from vashista_theory.plots import BLUE, COLUMN, GREEN, GREY, ORANGE, STYLE

jax.config.update("jax_enable_x64", True)
plt.rcParams.update(STYLE)
QUICK = os.environ.get("VASHISTA_QUICK") == "1"

keys = np.array(
    [[-1.0, -0.9], [0.4, -1.1], [1.1, -0.3], [0.9, 0.8], [-0.2, 1.2], [-1.2, 0.4], [0.1, 0.1]]
)
query = np.array([1.9, 0.5])
projection = vt.project(keys, query)
stability = vt.face_stability(projection)
epsilon = np.logspace(3, -7, 61 if QUICK else 241)
path = vt.relax(projection, epsilon)  # one warm-started path, every temperature accurate
point = np.asarray(projection.point)

# %%
hull = keys[vt.explore.look(keys, query).outline]
tangent = np.stack([point, point - 0.5 * np.asarray(stability.tangent)])
figure, panels = plt.subplots(1, 2, figsize=(2 * COLUMN, 3.2))
for axes in panels:
    axes.fill(*hull.T, facecolor="#eeeeee", edgecolor=GREY)
    axes.plot(*keys.T, ".", color="black")
    axes.plot(*np.asarray(path.point).T, ".-", color=BLUE, ms=3, lw=1, label="entropic point")
    axes.plot(*tangent.T, "--", color=ORANGE, label="direction −w₀")
    axes.plot(*keys.mean(axis=0), "s", color=GREY, ms=4, label="mean of the keys")
    axes.plot(*point, "o", color=ORANGE, ms=5, label="p*")
    axes.plot(*query, "o", color=GREEN, label="query")
    axes.set_aspect("equal")
panels[0].set_title("From the mean of the keys to p*")
panels[0].legend(frameon=False, loc="upper right", bbox_to_anchor=(1.02, 1))
panels[0].set(xlim=(-1.4, 2.6), ylim=(-1.3, 2))
panels[1].set_title("Near p*: the path arrives along −w₀")
panels[1].set(xlim=point[0] + [-0.1, 0.06], ylim=point[1] + [-0.11, 0.03])
plt.show()

# %% [markdown]
# The path leaves $p^*$ along the face: $p^\varepsilon = p^* - \varepsilon w$ with $w \to w_0$. The
# tangent $w_0$ is read off the optimal weights alone, without following the path: on the face,
# $\log \alpha^*_j = \langle w_0, k_j - p^*\rangle - h$. The two keys of this edge are enough for
# solving it by hand.

# %%
first, second = (keys[row] for row in np.flatnonzero(projection.face))
share = np.linalg.norm(point - first) / np.linalg.norm(second - first)
along = np.log(share / (1 - share)) * (second - first) / np.sum((second - first) ** 2)
print("w₀ by the package", np.asarray(stability.tangent), "  by hand", along)
print("w at the last ε  ", np.asarray(path.tilt[-1]))
assert np.allclose(along, stability.tangent, rtol=1e-10)  # the logarithm amplifies rounding

# %% [markdown]
# The weights along the walk: equal at first, then the face alone. Off the face they fall as
# $e^{-\mu_i/\varepsilon}$, far below the smallest number of float64: they are kept as logarithms.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(2 * COLUMN, 2.4))
for row, line in enumerate(np.asarray(path.log_weights).T):
    colour = ORANGE if projection.face[row] else BLUE
    left.semilogx(epsilon, np.exp(line), color=colour, lw=1)
    right.loglog(epsilon, -line, color=colour, lw=1)
left.set(xlabel="temperature ε", ylabel="weight α", title="Weights: the face (orange) keeps all")
right.set(xlabel="temperature ε", ylabel="−log α, nats", title="−log α tends to μ/ε off the face")
left.set_xlim(1e-3, 1e2)
plt.show()

# %%
lost = float(path.log_off_face_mass[-1])
limit = float(stability.log_asymptote_constant) - float(projection.gap) / epsilon[-1]
print(f"at ε = {epsilon[-1]:g} the mass off the face is e^({lost:.6f}); T4 says e^({limit:.6f})")

# %% [markdown]
# No digits are lost because the solver works in the *shifted dual*: with $q - p^\varepsilon = r^* +
# \varepsilon w$, the weights are $\mathrm{softmax}(-\mu/\varepsilon + (K - p^*)w)$ and $w$
# minimises a strongly convex function of $d$ unknowns, however many keys there are. Its gradient
# bounds the distance to the true point. Newton's method needs a few steps at each temperature.

# %%
print("Newton steps: at most", int(path.steps.max()), " in the mean", float(path.steps.mean()))
print(f"proved distance to the true points: at most {float(path.residual.max()):.1e}")
scores = keys @ (query - np.asarray(path.point)[20]) / epsilon[20]
again = np.exp(scores - scores.max())
again /= again.sum()
print("fixed point α ∝ exp⟨q − p, k⟩/ε met to", np.abs(again - np.exp(path.log_weights[20])).max())

# %% [markdown]
# **Softmax is the far-query limit (T6).** Ordinary attention, $\mathrm{softmax}(Kq/\varepsilon)$,
# feels no pull back from $p^\varepsilon$. Scale the pull by $\gamma$: the projection problem for
# the query $q/\gamma$ at temperature $\varepsilon/\gamma$ has $\gamma = 1$ as the projection and
# tends to softmax as $\gamma \to 0$. The distance (total variation) is at most
# $\tanh(\gamma\,\mathrm{osc}_i\langle p, k_i\rangle/(4\varepsilon))$.

# %%
temperature = 0.5
softmax = np.exp(keys @ query / temperature)
softmax /= softmax.sum()
couplings = np.logspace(0, -4, 9)


def coupled(gamma):
    """Weights and point of entropic attention with coupling γ."""
    solved = vt.relax(vt.project(keys, query / gamma), np.full(1, temperature / gamma))
    return np.exp(solved.log_weights[0]), np.asarray(solved.point[0])


# %%
distance, bound = [], []
for gamma in couplings:
    weights, place = coupled(gamma)
    distance.append(np.abs(weights - softmax).sum() / 2)
    bound.append(np.tanh(gamma * np.ptp(keys @ place) / (4 * temperature)))
assert (np.array(distance) <= np.array(bound) + 1e-12).all()

# %%
figure, axes = plt.subplots(figsize=(COLUMN, 2.2))
axes.loglog(couplings, bound, color=ORANGE, label="bound T6")
axes.loglog(couplings, distance, "o", color="black", ms=3, label="measured")
axes.set(xlabel="coupling γ", ylabel="total variation", title="Distance from softmax falls with γ")
axes.legend(frameon=False)
plt.show()
