"""What reads of equally many tokens do to predictions: drawn, chosen, half and half."""

from typing import Any

from matplotlib.figure import Figure

from figures import _style as style
from vashista_theory.plots import BLUE, COLUMN, GREEN, GREY, ORANGE, PURPLE

RESULT = "sampled_text"
_LOOKS = {
    "oracle-pages": ("pages of most mass", ORANGE, "--"),
    "double-sparsity": ("DoubleSparsity", GREY, "-."),
    "half-uniform": ("half of most mass, half uniform", PURPLE, "-"),
    "oracle-tokens": ("tokens of most mass", GREEN, "--"),
    "sketched-tokens": ("best tokens by the sketch", GREEN, ":"),
    "sampled": ("drawn, 2 bits", BLUE, "-"),
}


def draw(outcome: Any) -> Figure:
    """KL against the tokens read, a panel for each length of the context."""
    rows = outcome.tables["divergence"].rows
    contexts = sorted({row["context"] for row in rows})
    if not contexts:
        raise style.NothingToDrawError("no text was read")
    figure = Figure(figsize=(2 * COLUMN, 2.9), layout="constrained")
    axes = figure.subplots(1, len(contexts), sharey=True, squeeze=False)[0]
    for axis, context in zip(axes, contexts, strict=True):
        here = [row for row in rows if row["context"] == context]
        for read, (_, colour, look) in _LOOKS.items():
            line = {row["tokens"]: row["kl"] for row in here if row["read"] == read}
            axis.plot(list(line), list(line.values()), look, marker="o", ms=2.5, color=colour,
                      lw=1.6 if read == "sampled" else 1.0)  # fmt: skip
        tokens = sorted({row["tokens"] for row in here})
        axis.set(xscale="log", yscale="log", xlabel="tokens read by a kv head")
        axis.set_xticks(tokens, [str(n) for n in tokens])
        axis.minorticks_off()
        axis.set_title(f"{context:,} tokens of context")
    axes[0].set_ylabel("KL(dense ‖ read), nats a token")
    for label, colour, look in _LOOKS.values():
        axes[0].plot([], [], look, color=colour, label=label)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False,
                  handlelength=2.4, columnspacing=1.2)  # fmt: skip
    return figure
