"""What `published_constants` says of its numbers."""

from typing import Any


def findings(values: dict[str, Any]) -> list[str]:
    """Sentences with the numbers, by the names of the values."""
    said = [
        (
            f"Synthetic hulls, Δ/ε = 10 and 100: T1′ gives away "
            f"{values['synthetic_published_decades_10']:.1f} and "
            f"{values['synthetic_published_decades_100']:.1f} decades of leakage, T3 "
            f"{values['synthetic_t3_decades_10']:.1f} and "
            f"{values['synthetic_t3_decades_100']:.1f}; on the displacement T1 gives away "
            f"{values['synthetic_moved_t1_decades_100']:.1f} decades at 100, T2 "
            f"{values['synthetic_moved_t2_decades_100']:.2f}."
        ),
        (
            f"T1′ is proved from Δ/ε = {values['synthetic_range_starts']:.0f} on (median), where "
            f"the true leakage is 10^{values['synthetic_log10_mass_at_range']:.0f} already."
        ),
    ]
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
