"""What policies do to a language model: divergence from dense, and right answers, by policy."""

from typing import Any

from matplotlib.figure import Figure

from experiments.shared.right_answers import right_answers
from experiments.shared.said import in_words
from figures import _style as style
from vashista_theory.plots import BLUE, COLUMN, GREEN, GREY, ORANGE, PURPLE

RESULT = "model_quality"
_COLOURS = (GREEN, BLUE, PURPLE, ORANGE)
_LEAST = 1e-6  # nats; what float32 makes of equal predictions
_CONTROL = "sink-recent"


def draw(outcome: Any) -> Figure:
    """KL on the left, retrieval on the right; policies in the order of their mean KL."""
    predicted = outcome.tables["perplexity"].rows if "perplexity" in outcome.tables else []
    answered = outcome.tables["retrieval"].rows if "retrieval" in outcome.tables else []
    if not predicted and not answered:
        raise style.NothingToDrawError("the result has neither texts nor tasks")
    found = _values(outcome.values, predicted, "divergence")
    right = {
        (*_label(policy), context): score.share
        for (policy, context), score in right_answers(answered).items()
    }
    names = _order({name for name, _, _ in (*found, *right)}, found)
    contexts = sorted({context for _, _, context in (*found, *right)})
    height = 1.0 + 0.135 * len(names)
    figure = Figure(figsize=(2 * COLUMN, height), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for name, axis, cells in (("divergence", axes[0], found), ("right", axes[1], right)):
        _dots(axis, cells, names, contexts, least=_LEAST if name == "divergence" else 0.0)
        if not cells:
            axis.text(0.5, 0.5, "not measured", size=8, ha="center", transform=axis.transAxes)
    axes[0].set_yticks(range(len(names)), [in_words(name) for name in names])
    axes[0].set_ylim(len(names) - 0.5, -0.6)
    axes[0].set(xscale="log", xlabel="KL(dense ‖ policy), nats a token")
    axes[0].set_title("How far predictions move from dense")
    axes[1].set(xlim=(-0.03, 1.03), xlabel="share of right answers, tasks that dense solves")
    axes[1].set_title("What retrieval is left")
    axes[1].tick_params(left=False)
    _key(figure, contexts, sorted({pages for _, pages, _ in (*found, *right) if pages}))
    return figure


Cells = dict[tuple[str, int, int], float]


def _values(values: Any, rows: Any, name: str) -> Cells:
    """By policy, pages (0 if it decides itself) and length: the mean that the result has."""
    found: Cells = {}
    for row in rows:
        key = f"{name}_{row['policy']}_{row['context']}"
        if key in values:
            found[(*_label(row["policy"]), row["context"])] = values[key]
    return found


def _label(row: str) -> tuple[str, int]:
    policy, _, pages = row.partition("@")
    return policy, int(pages or 0)


def _order(names: set[str], found: Cells) -> list[str]:
    def mean(name: str) -> float:
        mine = [value for (policy, _, _), value in found.items() if policy == name]
        return sum(mine) / len(mine) if mine else -1.0  # dense has none, and is first

    return sorted(names, key=lambda name: (mean(name), name))


def _dots(axis: Any, cells: Cells, names: list[str], contexts: list[int], *, least: float) -> None:
    smallest = min((pages for _, pages, _ in cells if pages), default=0)
    for (policy, pages, context), value in cells.items():
        place = contexts.index(context)
        shift = 0.22 * (place - 0.5 * (len(contexts) - 1))
        colour = _COLOURS[place % len(_COLOURS)]
        fill = "white" if pages == smallest and pages else colour
        axis.plot(max(value, least), names.index(policy) + shift, "o" if pages else "D", ms=3.5,
                  color=colour, mfc=fill, mew=0.8)  # fmt: skip
    for place in range(len(names) - 1):
        axis.axhline(place + 0.5, color="#DDDDDD", lw=0.4, zorder=0)
    if _CONTROL in names:
        place = names.index(_CONTROL)
        axis.axhspan(place - 0.5, place + 0.5, color="#F3F3F3", zorder=0)


def _key(figure: Figure, contexts: list[int], pages: list[int]) -> None:
    axis = figure.axes[1]
    for place, context in enumerate(contexts):
        axis.plot([], [], "o", ms=4, color=_COLOURS[place % len(_COLOURS)],
                  label=f"{context:,} tokens")  # fmt: skip
    for place, count in enumerate(pages):
        axis.plot([], [], "o", ms=4, color=GREY, mew=0.8, mfc=GREY if place else "white",
                  label=f"{count} pages")  # fmt: skip
    axis.plot([], [], "D", ms=3.5, color=GREY, label="pages as it needs")
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=6.5,
                  frameon=False, handletextpad=0.1, columnspacing=1.0)  # fmt: skip
