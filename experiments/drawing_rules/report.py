"""What `drawing_rules` says: columns, values and sentences."""

from collections.abc import Iterator

from experiments.drawing_rules.measure import HASHED, MECHANISM
from experiments.framework.outcome import Measured, Outcome, Rows, sentences

_QUANTITIES = {
    "tail": "t, share of the mass that the tail holds",
    "drawn": "ν, tokens drawn from the tail",
    "dispersion": "χ(u) of the sketch, u mass × distance",
    "bound": "T8's bound Σu √(χ/ν) over the length of the output",
    "predicted": "√V/Z over the length of the output (T8)",
    "measured": "root mean square of the relative error over draws",
    "best": "√V/Z of the best independent draw, over the length of the output",
}
_COLUMNS = {
    "errors": {
        "rule": "what is read, or by what tokens are drawn",
        "tokens": "tokens a kv head, on average, sink and recent ones included",
        "median": "relative error of the output, median over heads, positions and draws",
        "mean": "the same, mean",
        "tenth": "the same, of the worst tenth",
    },
    "all heads": {
        "tokens": "tokens a kv head; medians over heads and positions of what the mechanism draws",
        **_QUANTITIES,
        "ratio_low": "measured over predicted, 5th percentile over heads and positions",
        "ratio": "median",
        "ratio_high": "95th percentile",
        "correlation": "of the logarithms of the two",
    },
    "heads": {
        "tokens": "tokens a kv head; means over positions, of errors roots of mean squares",
        "layer": "number",
        "head": "number",
        **_QUANTITIES,
    },
}


def report(found: Measured) -> Outcome:
    """Which rule is how far off, and whether T8 knew."""
    errors, heads = found.tables["errors"], found.tables["all heads"]
    values = dict(found.values)
    for row in errors:
        values[f"{row['rule']}, {row['tokens']} tokens"] = row["median"]
    return Outcome(
        tables=found.described(_COLUMNS, hidden=("heads",)),
        values=values,
        findings=[*_rules(errors), *_known(heads)],
        notes=sentences(
            """- One draw for the heads of a group; each kv head draws as many on average; the first
              page of 16 tokens and the last are always read. float64, NumPy.
            - Hashing draws for each query head, and only that head's tokens are counted, which
              favours it; of 4, 6, 8 and 10 bits a table the best for the layer is shown, with as
              many tables as give it the tokens, if those have at most 2,048 bits a key, where the
              sketch has 128.
            - Keys are rounded on a grid between the corners of their page's box; values are exact
              everywhere.
            """
        ),
        failures=found.failures,
    )


def _rules(errors: Rows) -> Iterator[str]:
    by = {(row["rule"], row["tokens"]): row["median"] for row in errors}
    whole = [(rule, error) for (rule, _), error in by.items() if str(rule).startswith("all tokens")]
    for tokens in sorted({int(tokens) for rule, tokens in by if rule == MECHANISM}):
        others = (
            "sketched mass",
            "half best by sketch, half uniform",
            HASHED,
            "true mass",
            "true mass × distance",
        )
        said = ", ".join(f"{by[name, tokens]:.2g} by {name}" for name in others)
        yield (
            f"{tokens} tokens: median error {by[MECHANISM, tokens]:.2g} drawn by {MECHANISM}, "
            f"beside {said}; the best tokens {by['best tokens by sketch', tokens]:.2g} by sketch, "
            f"{by['best tokens by true mass', tokens]:.2g} by true mass."
        )
    yield "; ".join(f"{rule}: median error {error:.2g}" for rule, error in whole) + "."


def _known(heads: Rows) -> Iterator[str]:
    for row in heads:
        yield (
            f"{row['tokens']} tokens: in the median head the tail holds t = {row['tail']:.2g} of "
            f"the mass, {row['drawn']:.0f} tokens are drawn from it, χ = {row['dispersion']:.3g}; "
            f"measured error over √V/Z {row['ratio']:.2f} ({row['ratio_low']:.2f} to "
            f"{row['ratio_high']:.2f} in nine of ten heads and positions), correlation of the "
            f"logarithms {row['correlation']:.3f}; the best independent draw would have "
            f"{row['best']:.2g} for {row['predicted']:.2g}."
        )
