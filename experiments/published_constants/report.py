"""What `published_constants` says of its numbers."""

from collections.abc import Mapping
from typing import Any

from experiments.framework.outcome import Measured, Outcome, sentences

_SLACK = {
    "family": "of instances",
    "ratio": "Δ/ε",
    "log10_mass": "log₁₀ of the true leakage, median",
    "published": "decades that T1′ gives away (a bound above 1 counts as 1), median; in its range "
    "or not",
    "t1": "decades that T1 gives away, median",
    "t3": "decades that T3 gives away, median",
    "moved_t1": "decades that T1 gives away on the displacement, median",
    "moved_t2": "decades that T2 gives away on the displacement, median",
    "in_range": "share of the instances for which T1′ is proved here",
}
_RANGE = {
    "family": "of instances",
    "instances": "with strict complementarity and a finite gap",
    "starts": "Δ/ε from which on T1′ is proved, median",
    "starts_low": "10th percentile",
    "starts_high": "90th percentile",
    "log10_mass": "log₁₀ of the true leakage there, median",
    "over_safe": "ε at which T3 promises 1 %, over the largest ε of T1′'s range, median",
    "over_model": "the model's ε over the largest ε of T1′'s range, median (heads)",
}
_FAILURES = {
    "family": "of instances",
    "inside": "pairs of instance and ε in T1′'s range",
    "inside_failed": "of those, pairs with a weight above T1′",
    "beyond": "pairs beyond its range",
    "beyond_failed": "of those, pairs with a weight above T1′",
    "beyond_worst": "largest excess there, decades",
    "inside_mass_failed": "pairs in the range whose mass off the face is above e^(−Δ/(2ε))",
    "beyond_mass_failed": "pairs beyond it whose mass is",
    "factor_one": "pairs compared with the form of factor 1",
    "factor_one_failed": "of those, pairs with a weight above it",
    "factor_one_worst": "largest excess, decades",
}
_COUNTER = {
    "reach": "X of the third key (X, −1)",
    "predicted": "limit of log(α₃ e^{1/ε}) by hand, nats",
    "measured": "log(α₃ e^{1/ε}) at Δ/ε = 10⁴, nats",
    "starts": "Δ/ε from which on T1′ is proved",
    "excess": "largest log₁₀ of α₃ over T1′, decades",
    "at": "Δ/ε of that",
    "fails_until": "Δ/ε below which T1′ fails (largest that does)",
}
_CURVES = {
    "group": "synthetic hulls or real heads",
    "form": "which bound",
    "ratio": "Δ/ε",
    **{f"{name}": f"decades given away, {name}" for name in ("median", "low", "high")},
}


def report(found: Measured) -> Outcome:
    """What the published constants give away, and where they fail."""
    columns = {
        "slack": _SLACK,
        "range": _RANGE,
        "failures": _FAILURES,
        "counterexample": _COUNTER,
        "curves": _CURVES,
    }
    return Outcome(
        tables=found.described(columns, hidden=["curves"]),
        values=found.values,
        findings=findings(found.values),
        notes=sentences(
            """- Instances with strict complementarity and a finite gap; 41 temperatures from Δ/ε =
              0.1 to 1000. A bound on a mass that is above 1 counts as 1.
            - A weight is above a bound where it exceeds it by more than 1e-12 of its logarithm and
              64 roundings of scale/ε.
            """
        ),
        failures=found.failures,
    )


def findings(values: Mapping[str, Any]) -> list[str]:
    """Sentences with the numbers, by the names of the values."""
    said = sentences(
        f"""- Synthetic hulls, Δ/ε = 10 and 100: T1′ gives away
          {values["synthetic_published_decades_10"]:.1f} and
          {values["synthetic_published_decades_100"]:.1f} decades of leakage, T3
          {values["synthetic_t3_decades_10"]:.1f} and {values["synthetic_t3_decades_100"]:.1f}; on
          the displacement T1 gives away {values["synthetic_moved_t1_decades_100"]:.1f} decades at
          100, T2 {values["synthetic_moved_t2_decades_100"]:.2f}.
        - T1′ is proved from Δ/ε = {values["synthetic_range_starts"]:.0f} on (median), where the
          true leakage is 10^{values["synthetic_log10_mass_at_range"]:.0f} already.
        """
    )
    if "heads_instances" in values:
        said += [
            (
                f"Real heads, Δ/ε = 10 and 100: T1′ "
                f"{values['heads_published_decades_10']:.1f} and "
                f"{values['heads_published_decades_100']:.1f} decades, T3 "
                f"{values['heads_t3_decades_10']:.1f} and {values['heads_t3_decades_100']:.1f}. "
                f"T1′ is proved from Δ/ε = {values['heads_range_starts']:.0f} on (median, leakage "
                f"10^{values['heads_log10_mass_at_range']:.0f}); the model runs at "
                f"{values['heads_model_over_range']:.2g} times the largest ε of that range."
            )
        ]
    beyond = values["pairs_beyond_failed"]
    said += [
        (
            f"In its range T1′ fails in {values['pairs_inside_failed']} of "
            f"{values['pairs_inside']:,} pairs; beyond it in {beyond} of "
            f"{values['pairs_beyond']:,} on these families"
            + ("." if beyond else ": the range is sufficient, and far from necessary on them.")
        ),
        (
            f"The whole mass off the face is above e^(−Δ/(2ε)) in "
            f"{values['pairs_inside_mass_failed']} pairs in the range and "
            f"{values['pairs_beyond_mass_failed']} beyond it. T1′ bounds single weights: of "
            f"{values['crowd_keys']} keys on a line the mass is {values['crowd_mass']:.3f} (by "
            f"hand {values['crowd_by_hand']:.3f}) where the rate is "
            f"{values['crowd_claimed']:.3f}, at ε = {values['crowd_epsilon']:g} of a range that "
            f"ends at {values['crowd_range']:.3g}."
        ),
        (
            f"The form with factor 1 fails in {values['pairs_factor_one_failed']:,} of "
            f"{values['pairs_factor_one']:,} pairs. On three keys with X = 10 its excess tends to "
            f"e^{values['counterexample_measured']:.2f} (by hand "
            f"e^{values['counterexample_predicted']:.2f})."
        ),
        (
            f"Beyond its range T1′ fails by up to 10^"
            f"{values['counterexample_published_excess']:.1f} for X = 10 (at Δ/ε = "
            f"{values['counterexample_published_at']:.2g}; its range starts at "
            f"{values['counterexample_range_starts']:.3g}) and 10^"
            f"{values['counterexample_far_excess']:.0f} for X = "
            f"{values['counterexample_far_reach']:.0f}: without limit."
        ),
    ]
    return said
