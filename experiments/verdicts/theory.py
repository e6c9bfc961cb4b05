"""The claims about the theorem, the support and the criterion, each with its rule."""

import itertools

from experiments.verdicts.judging import FAILS, HOLDS, Claims, Found, Judged, listed, where

CLAIMS = Claims()

_COMPLEMENTARY = "complementarity is strict"


@CLAIMS.add(
    "Only a small part of the tokens contributes to a query", "T6", "attention.dense", "head_survey"
)
def few_tokens(survey: Found, *, share_of_tokens: float = 0.05) -> Judged:
    longest = max(row["context"] for row in survey.rows("support"))
    rows = survey.rows("support", context=longest)
    shares = [row["median"] / longest for row in rows]
    tails = [row["tail"] / longest for row in rows]
    said = (
        f"At {longest:,} tokens 90 % of the mass lies on {_range(shares)} of them in the median "
        f"head, by text, and on {_range(tails)} at the ninetieth percentile of heads."
    )
    if max(tails) <= share_of_tokens:
        return Judged(HOLDS, said)
    if max(shares) <= share_of_tokens:
        return Judged(where("a head is not diffuse (most heads)"), said)
    return Judged(FAILS, said)


@CLAIMS.add(
    "Attention is a projection on the hull of the keys, softmax-like attention its entropic "
    "relaxation",
    "(★), T6",
    "hull.projection, hull.relaxation",
    "theorem_constants",
    "published_algorithm",
)
def projection(theorem: Found, published: Found) -> Judged:
    said = (
        f"The identity (★) that ties the two is met to {theorem['identity_defect']:.1e} with "
        f"{theorem['violations_identity']} violations. Softmax itself is the limit of a far query "
        f"(T6): the published solver computes softmax({published['sharpness']:.1f}⟨q, k⟩), which "
        f"differs from the entropic projection by {published['hull_variation']:.2f} in total "
        "variation (median layer)."
    )
    if theorem["violations_identity"]:
        return Judged(FAILS, said)
    return Judged(where("the query is far from the keys; in general the two differ"), said)


@CLAIMS.add(
    "KKT multipliers certify the support gap", "KKT", "hull.rigorous, check", "certified_instances"
)
def certified_gap(proofs: Found) -> Judged:
    decided = proofs["instances"] - proofs["open"]
    said = (
        f"{decided} of {proofs['instances']} instances decided by proof ({proofs['proved']} strict "
        f"faces, {proofs['inside']} queries inside, {proofs['degenerate']} degenerate faces); an "
        f"independent checker accepts {proofs['accepted']} and refuses {proofs['refused']} of "
        f"{proofs['tampered']} tampered certificates."
    )
    right = proofs["accepted"] == proofs["instances"] and proofs["refused"] == proofs["tampered"]
    if not right:
        return Judged(FAILS, said)
    return Judged(where("the numbers decide it") if proofs["open"] else HOLDS, said)


@CLAIMS.add(
    "Attention concentrates on a face of constant size",
    "T3",
    "hull.stability",
    "head_survey",
    "regime_map",
)
def constant_face(
    survey: Found, heads: Found, *, growth: float = 0.5, mass_off_the_face: float = 0.05
) -> Judged:
    rows = survey.rows("hull at the model's temperature")
    first, last = (end(rows, key=lambda row: row["context"]) for end in (min, max))
    leaked = heads["leakage_median"]
    said = (
        f"The exposed face of real heads has {first['face']:.0f} keys at {first['context']:,} "
        f"tokens and {last['face']:.0f} at {last['context']:,} (median, which decides; ninetieth "
        f"percentile {first['face_tail']:.0f} and {last['face_tail']:.0f}). At the model's own "
        f"temperature ε = {heads['epsilon']:g} {leaked:.0%} of the mass lies off it "
        f"(median); for 1 % ε would have to be {heads['factor_median']:.0f} times lower."
    )
    if last["face"] > (1 + growth) * first["face"]:
        return Judged(FAILS, said)
    kept = leaked <= mass_off_the_face
    return Judged(HOLDS if kept else where("ε is far below the model's own"), said)


@CLAIMS.add(
    "Mass off the face falls like exp(−Ω(Δ/ε))", "T1, T3, T4", "hull.stability", "theorem_constants"
)
def leakage(theorem: Found, *, least_rate: float = 0.5) -> Judged:
    said = (
        f"T1, which needs no strict complementarity: {theorem['violations_t1']} violations in "
        f"{theorem['checks_t1']:,} checks, and T3 {theorem['violations_t3']} in "
        f"{theorem['checks_t3']:,}. The fitted rate is {theorem['rate_median']:.4f} Δ "
        f"(median of {theorem['rates_fitted']}; "
        f"{theorem['rate_low']:.3f} to {theorem['rate_high']:.3f}), T4's constant is met to "
        f"{theorem['constant_error_median']:.1e} nats (median)."
    )
    said += " The constant is explicit where complementarity is strict."
    violated = theorem["violations_t1"] or theorem["violations_t3"]
    return Judged(FAILS if violated or theorem["rate_low"] < least_rate else HOLDS, said)


@CLAIMS.add(
    "… with the published constant, e^(−Δ/(2ε))", "T1′", "hull.stability", "published_constants"
)
def published_constant(constants: Found) -> Judged:
    inside, beyond = constants["pairs_inside"], constants["pairs_beyond"]
    failed, outside = constants["pairs_inside_failed"], constants["pairs_beyond_failed"]
    excess = constants["counterexample_far_excess"]
    mass, claimed = constants["crowd_mass"], constants["crowd_claimed"]
    said = (
        f"Single weights: {failed} failures in {inside:,} pairs inside the range that the "
        f"statement leaves unsaid, {outside} in {beyond:,} outside it, where keys made for it "
        f"exceed the bound by 10^{excess:.0f}. The whole mass: "
        f"{constants['pairs_inside_mass_failed']} and {constants['pairs_beyond_mass_failed']} "
        f"failures; {constants['crowd_keys']} keys on a line have {mass:.2f} inside the range "
        f"where the rate is {claimed:.2f}, as many keys off the face add up. With factor 1 and no "
        f"prefactor {constants['pairs_factor_one_failed']:,} of "
        f"{constants['pairs_factor_one']:,} weights fail. Of real heads the model's ε is "
        f"{constants['heads_model_over_range']:,.0f} times the end of the range (median)."
    )
    if failed:
        return Judged(FAILS, said)
    if mass > claimed or constants["pairs_inside_mass_failed"]:
        return Judged(where("it is about one weight and ε ≤ κ²/(4(log n − h))"), said)
    return Judged(where("ε ≤ κ²/(4(log n − h))") if outside or excess > 0 else HOLDS, said)


@CLAIMS.add("The error on the face is linear in ε", "T2", "hull.stability", "theorem_constants")
def linear(theorem: Found, *, error_of_the_slope: float = 0.05) -> Judged:
    said = (
        f"T2: {theorem['violations_t2']} violations in {theorem['checks_t2']:,} checks. "
        f"‖δ‖/(ε‖w₀‖) differs from 1 by {theorem['slope_error_median']:.1e} at the least ε (median "
        f"of {theorem['slopes_measured']}; at most {theorem['slope_error_worst']:.1e})."
    )
    if theorem["violations_t2"] or theorem["slope_error_median"] > error_of_the_slope:
        return Judged(FAILS, said)
    return Judged(where(_COMPLEMENTARY), said)


@CLAIMS.add(
    "The strict complementarity margin is needed", "T5", "hull.minimal_face", "degenerate_regime"
)
def margin(degenerate: Found) -> Judged:
    said = (
        f"On {degenerate['instances']} degenerate instances log ‖δ‖ has the slope "
        f"{degenerate['slope_median']:.3f} against log(ε log(1/ε)) (median), and "
        f"{degenerate['linear_slope_median']:.3f} against log ε: the linear law fails there."
    )
    nearer = abs(degenerate["slope_median"] - 1) < abs(degenerate["linear_slope_median"] - 1)
    needed = where("the law is the linear one; the exponential one needs none (T1)")
    return Judged(needed if nearer else FAILS, said)


@CLAIMS.add("Real heads run in the regime of the theorem", "T3", "hull.stability", "regime_map")
def regime(heads: Found, *, exceptions: float = 0.1) -> Judged:
    said = (
        f"At the model's own temperature ε = {heads['epsilon']:g}, Δ/ε is "
        f"{heads['gap_ratio_median']:.2f} in the median head of {heads['heads']} and "
        f"{heads['gap_ratio_most']:.2f} at most; {heads['leakage_median']:.0%} of the mass lies "
        f"off the face (median), {heads['leaks_under_one_percent']} heads leak under 1 %. ε would "
        f"have to be {heads['factor_median']:.0f} times lower for that (median)."
    )
    share = heads["leaks_under_one_percent"] / heads["heads"]
    if share < exceptions:
        return Judged(FAILS, said)
    return Judged(HOLDS if share >= 1 - exceptions else where("a head leaks under 1 %"), said)


@CLAIMS.add(
    "The support gap is a practical criterion for safe sparse decoding",
    "T3",
    "hull.stability",
    "head_survey",
)
def criterion(
    survey: Found,
    *,
    area_missing: float = 0.1,
    unsafe_share: float = 0.05,
    area_above_chance: float = 0.15,
) -> Judged:
    area, output = survey["area_gap_ratio_mass"], survey["area_gap_ratio_output"]
    within, worst = survey["area_gap_ratio_median_layer"], survey["area_gap_ratio_worst_layer"]
    safest = survey.rows("calibration", diagnostic="gap_ratio")[-1]["unsafe"]
    said = (
        f"Area under the ROC curve of Δ/ε for reads that lose mass: {area:.2f} (for output error "
        f"{output:.2f}; score gap {survey['area_score_gap_mass']:.2f}; 0.5 is chance) over "
        f"{survey['queries']:,} queries; within a layer {within:.2f} (median) and {worst:.2f} (the "
        f"worst layer). Of the tenth of the queries with the most Δ/ε {safest:.0%} are unsafe."
    )
    if min(area, output) >= 1 - area_missing and safest <= unsafe_share:
        return Judged(HOLDS, said)
    # An order that is worse than chance in a layer orders nothing there.
    ordered = area >= 0.5 + area_above_chance and worst >= 0.5
    return Judged(where("an order of queries is enough") if ordered else FAILS, said)


@CLAIMS.add(
    "… as the gap Δ̂ and the certificate of the mechanism",
    "T7",
    "attention.bounds",
    "head_survey",
    "certified_text",
)
def certificate(survey: Found, text: Found, *, area_missing: float = 0.1) -> Judged:
    area, bound = survey["area_mechanism_gap_mass"], survey["area_bound_mass"]
    said = (
        f"Area under the ROC curve: Δ̂ {area:.2f}, its bound on the dropped mass {bound:.3f}. True "
        f"dropped mass above the bound: {text['certificate_violations']} of "
        f"{text['certified_pairs']:,} certified reads."
    )
    sound = text["certificate_violations"] == 0 and survey["violations"] == 0
    sharp = min(area, bound) >= 1 - area_missing
    return Judged(HOLDS if sound and sharp else FAILS, said)


@CLAIMS.add(
    "A principled knob trades accuracy for compute",
    "T3, T7",
    "hull.safe_epsilon, attention.policy",
    "certified_text",
)
def knob(text: Found) -> Judged:
    pages: dict[int, dict[float, float]] = {}
    of: dict[int, int] = {}
    for row in text.rows("certificates"):
        pages.setdefault(row["context"], {})[row["tolerance"]] = row["pages_median"]
        of[row["context"]] = row["pages"]
    obeyed = [
        all(a >= b for (_, a), (_, b) in itertools.pairwise(s))
        for by in pages.values()
        for s in [sorted(by.items())]
    ]
    longest = max(pages)
    ends = listed(f"{n:.0f} for {t:.0%}" for t, n in sorted(pages[longest].items()))
    said = (
        f"Pages of {of[longest]} read at {longest:,} tokens to prove the dropped mass (median): "
        f"{ends}; a stricter tolerance reads more at {sum(obeyed)} of {len(obeyed)} lengths. "
        f"{text['certificate_violations']} bounds exceeded."
    )
    return Judged(HOLDS if all(obeyed) and not text["certificate_violations"] else FAILS, said)


@CLAIMS.add(
    "Effective support is stable, of constant size in the context", "—", "evaluation", "head_survey"
)
def constant_support(survey: Found, *, exceptions: float = 0.1, least_share: float = 0.5) -> Judged:
    rows = survey.rows("support")
    ends = [min(row["context"] for row in rows), max(row["context"] for row in rows)]
    half = [
        listed(f"{row['half']:.0f}" for row in survey.rows("support", context=end)) for end in ends
    ]
    share = survey["constant_heads"]
    said = (
        f"Tokens for 90 % of the mass grow like T^{survey['exponent_median']:.2f} in the median "
        f"head (T^{survey['exponent_low']:.2f} to T^{survey['exponent_high']:.2f} between the "
        f"tenth and ninetieth percentile); {share:.0%} of the heads are constant. Half of the mass "
        "needs "
        f"{half[0]} tokens at {ends[0]:,} and {half[1]} at {ends[1]:,}, by text."
    )
    if share >= 1 - exceptions:
        return Judged(HOLDS, said)
    return Judged(where("a head is of the constant ones") if share >= least_share else FAILS, said)


def _range(shares: list[float]) -> str:
    return f"{min(shares):.1%} to {max(shares):.1%}"
