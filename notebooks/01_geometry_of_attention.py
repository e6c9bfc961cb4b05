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
# # 1. Geometry of attention
#
# A query $q$ meets the convex hull of its keys $k_1, \dots, k_n$. Exact attention is the projection
# of the query on that hull: $p^* = \arg\min_{p \in \mathrm{conv}\{k_i\}} \tfrac12\|p - q\|^2$.
# In the plane all of it can be seen. At the end of this page you can drag the query.

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

keys = np.array(
    [[-1.0, -0.9], [0.4, -1.1], [1.1, -0.3], [0.9, 0.8], [-0.2, 1.2], [-1.2, 0.4], [0.1, 0.1]]
)

# %% [markdown]
# Where the query stands decides what $p^*$ lies on: an edge, a vertex, or, inside the hull, on
# nothing at all. The keys on the supporting line at $p^*$ are the *exposed face* $F$ (orange).
# The empty band behind that line is $\Delta/\|q - p^*\|$ wide: $\Delta$ is the *support gap*.

# %%
queries = {"edge": [1.9, 0.5], "vertex": [1.5, 1.6], "inside": [0.3, -0.4]}
views = {name: vt.explore.look(keys, query) for name, query in queries.items()}
vt.explore.draw(*views.values())

# %% [markdown]
# The *multiplier* $\mu_i = \langle q - p^*, p^* - k_i\rangle \ge 0$ says how far key $i$ lies
# behind the supporting line, times $\|q - p^*\|$. It is zero on the face, and the gap is the least
# of the others. Both follow from the definition in two lines:

# %%
view = views["edge"]
multipliers = (view.point - keys) @ (view.query - view.point)
assert np.allclose(multipliers, view.multipliers, atol=1e-13)  # 64 roundings of numbers near 1
print("multipliers", multipliers.round(3))
print("face", np.flatnonzero(view.face), "  gap", round(multipliers[~view.face].min(), 6))

# %% [markdown]
# *Entropic attention* gives every key some weight: it adds $\varepsilon \sum_i \alpha_i \log
# \alpha_i$ to the squared distance. The discs below have the area of the weights. As the
# temperature $\varepsilon$ falls they withdraw to the face, and the entropic point (cross) moves
# to $p^*$ (orange dot).

# %%
temperatures = (2.0, 0.5, 0.1)
cooled = [vt.explore.look(keys, queries["edge"], epsilon=epsilon) for epsilon in temperatures]
vt.explore.draw(*cooled, titles=tuple(f"temperature ε = {epsilon:g}" for epsilon in temperatures))

# %%
for view in cooled:
    print(f"ε = {view.epsilon:<4g} {view.readings['leakage']}")

# %% [markdown]
# The theorem bounds the weight off the face by a number that falls like $e^{-\Delta/\varepsilon}$.
# So the gap is worth a map: here it is for every query around this hull.

# %%
side = np.linspace(-2.6, 2.6, 41 if QUICK else 161)
grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
# A query so near the hull or so near a corner's border that rounding decides gets no gap.
projections = vt.project_many(np.broadcast_to(keys, (len(grid), *keys.shape)), grid, throw=False)
gap = np.asarray(projections.gap).reshape(side.size, side.size)

# %%
figure, axes = plt.subplots(figsize=(COLUMN, COLUMN))
ends = (side[0], side[-1], side[0], side[-1])
shown = axes.imshow(gap, extent=ends, origin="lower", cmap="cividis", vmin=0)
figure.colorbar(shown, label="support gap Δ", shrink=0.8)
axes.fill(*keys[views["edge"].outline].T, facecolor="white", edgecolor=ORANGE)
axes.plot(*keys.T, "o", color=BLUE, ms=3)
axes.set_title("Dark queries have a small gap, white none")
plt.show()

# %% [markdown]
# In front of an edge the gap grows with the distance. In front of a corner it vanishes towards the
# two borders of the corner's cone: there the next edge is about to join the face, and attention
# has to choose between one key and two. Walk a circle to see it jump:

# %%
angle = np.linspace(-np.pi, np.pi, 181 if QUICK else 721)
circle = 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
around = vt.project_many(np.broadcast_to(keys, (len(angle), *keys.shape)), circle, throw=False)
on_edge = np.asarray(around.face).sum(axis=1) == 2

# %%
figure, axes = plt.subplots(figsize=(1.6 * COLUMN, 2))
walked = np.degrees(angle)
for where, colour, label in ((on_edge, ORANGE, "an edge"), (~on_edge, BLUE, "a vertex")):
    axes.plot(walked, np.where(where, around.gap, np.nan), color=colour, label=f"face: {label}")
axes.set(
    xlabel="direction of the query, degrees",
    ylabel="support gap Δ",
    xlim=(-180, 180),
    ylim=(0, 1.3),
)
axes.set_title("Around the hull at distance 2: the gap falls to 0 where a corner's cone ends")
axes.legend(frameon=False, ncols=2, loc="upper center")
plt.show()

# %% [markdown]
# **Drag the query** (green), or a key, with the mouse or the arrow keys; the slider is the
# temperature. Every number is computed by the package, the browser only draws.

# %%
widget = vt.explore.drag(keys, queries["edge"])
widget

# %% [markdown]
# The widget also works from Python: set `widget.query` and the picture follows; `widget.view` has
# the numbers of what is shown.

# %%
widget.query = queries["vertex"]
widget.view.readings
