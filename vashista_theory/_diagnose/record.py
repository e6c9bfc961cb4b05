"""What a diagnosis holds: plain numbers and NumPy arrays, computed in float64."""

import dataclasses
import json
import math

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class Solution:
    """How the projection was found, and how well it satisfies its own optimality conditions.

    Attributes:
        result: name of the `Result` of the projection, such as "successful".
        steps: keys that entered the active set.
        passes: multiplications by all the keys.
        primal: residual, no unit.
        dual: residual, squared length.
        complementarity: residual, squared length.
        stationarity: residual, length.
        duality_gap: squared length; ‖p − p*‖ ≤ √duality_gap.
        identity_defect: largest |left − right| of the master identity (★) over `temperatures`,
            squared length: zero to rounding if projection and relaxation are both right.
        relaxation_residual: largest measured error bound of the relaxed points, length.
    """

    result: str
    steps: int
    passes: int
    primal: float
    dual: float
    complementarity: float
    stationarity: float
    duality_gap: float
    identity_defect: float
    relaxation_residual: float


@dataclasses.dataclass(frozen=True)
class FaceKeys:
    """The keys of the exposed face F, heaviest optimal weight first.

    Attributes:
        index: rows of `keys`.
        optimal_weight: the maximum-entropy optimum α*; 0 off the minimal face.
        entropic_weight: α^ε at the model's own temperature.
        softmax_weight: ordinary attention's weight.
        score_rank: place in ordinary attention's order, 1 for the top score.
    """

    index: Int[np.ndarray, " f"]
    optimal_weight: Float[np.ndarray, " f"]
    entropic_weight: Float[np.ndarray, " f"]
    softmax_weight: Float[np.ndarray, " f"]
    score_rank: Int[np.ndarray, " f"]


@dataclasses.dataclass(frozen=True)
class Temperatures:
    """The relaxation and its bounds at several temperatures, coldest first.

    Attributes:
        epsilon: squared length; `at_model` marks the model's own.
        log_leakage: true log off-face mass, nats.
        log_leakage_bound: min(0, T1, T3), nats.
        log_leakage_asymptote: T4, nats: a limit, not a bound; NaN on a degenerate face.
        log_displacement: log ‖p^ε − p*‖, which does not underflow at a vertex.
        log_displacement_bound: log of the least of T1, T2 and its bootstrap that apply.
    """

    epsilon: Float[np.ndarray, " e"]
    log_leakage: Float[np.ndarray, " e"]
    log_leakage_bound: Float[np.ndarray, " e"]
    log_leakage_asymptote: Float[np.ndarray, " e"]
    log_displacement: Float[np.ndarray, " e"]
    log_displacement_bound: Float[np.ndarray, " e"]
    at_model: int


@dataclasses.dataclass(frozen=True)
class Support:
    """How many keys carry a share of the mass at the model's temperature.

    Attributes:
        for_90_percent: fewest keys that hold 90 % of the mass.
        for_99_percent: fewest keys that hold 99 %.
        effective: exp of the entropy.
    """

    for_90_percent: int
    for_99_percent: int
    effective: float

    @classmethod
    def of(cls, weights: Float[np.ndarray, " n"]) -> "Support":
        """That of weights."""
        held = np.cumsum(np.sort(weights)[::-1])
        counts = [int(np.searchsorted(held, share * held[-1])) + 1 for share in (0.9, 0.99)]
        positive = weights[weights > 0]
        entropy = -float(positive @ np.log(positive))
        return cls(min(counts[0], len(held)), min(counts[1], len(held)), math.exp(entropy))


@dataclasses.dataclass(frozen=True)
class Softmax:
    """Ordinary attention softmax(s·⟨q, k_i⟩): the linear problem of T6 at temperature 1/s.

    Attributes:
        top: keys with the top score (several only if tied to rounding).
        top_score: squared length, before the factor s.
        score_gap: top score minus the next, squared length; +inf if every key is tied.
        log_leakage: log mass off `top`, nats.
        support: of its weights.
        mass_on_face: its mass on F, the face of the *projection*.
        distance: total variation between it and α^ε at ε = 1/s.
        distance_bound: T6's tanh(osc⟨p^ε, k⟩ / 4ε).
    """

    top: Int[np.ndarray, " t"]
    top_score: float
    score_gap: float
    log_leakage: float
    support: Support
    mass_on_face: float
    distance: float
    distance_bound: float


@dataclasses.dataclass(frozen=True)
class Asked:
    """What an answer speaks of.

    Attributes:
        context: Keys that the last query sees.
        queries: How many of each head were looked at.
        tokens: That a sampled read takes.
        tolerance: Of the relative error, and of the dropped mass.
        with_values: Whether there were values; without them errors are in units of the length of a
            value.
    """

    context: int
    queries: int
    tokens: int
    tolerance: float
    with_values: bool


@dataclasses.dataclass(frozen=True)
class HeadReading:
    """What a sparse read of one query head costs and misses, over the queries looked at.

    Errors are relative to the length of the output; without values, to the length of a value,
    random ones of equal length standing in.

    Attributes:
        layer: The number of its layer.
        head: The query head.
        estimate: Expected error of a read of so many drawn tokens, as the read itself tells (T8),
            over the length of the exact output; median. +inf where not one token was drawn.
        worst_estimate: The same at the query where it is largest.
        error: Distance of those reads from dense attention, measured; median.
        tokens_read: Mean tokens read.
        tokens_needed: Tokens that would bring the worst estimate to the tolerance, for it falls
            with the square root of their number.
        pages_to_prove: Share of the pages that have to be read before dropping at most the
            tolerance is proved (T7); mean.
        support: Fewest keys that hold 90 % of the softmax mass; median.
        regime: Of the theorem at the last query, as in `Findings`; empty if not looked at.
        colder: How many times lower the temperature would have to be for 1 % leakage at the last
            query; at most 1 in the regime, NaN without a gap or if not looked at.
    """

    layer: int
    head: int
    estimate: float
    worst_estimate: float
    error: float
    tokens_read: float
    tokens_needed: int
    pages_to_prove: float
    support: int
    regime: str = ""
    colder: float = math.nan


@dataclasses.dataclass(frozen=True)
class Findings:
    """What is found of one query and its keys.

    Attributes:
        n: number of keys.
        d: dimensions.
        dtype: types of keys and query as given; everything is computed in float64.
        scale: s, the factor on the scores; the model's own temperature is ε = 1/s.
        result: name of the `Result`: "inside_hull", "degenerate_face", or the projection's.
        advice: the text of that `Result`; empty if successful.
        solution: how the projection was found, and its residuals.
        face: keys of the exposed face F, or of all keys inside the hull.
        gap: Δ, squared length; +inf if every key is on the face, NaN inside the hull.
        residual_norm: ‖r*‖ = distance of the query from the hull, length.
        largest_squared_distance: max_i ‖k_i − q‖², squared length, the unit of tolerances.
        strict: strict complementarity.
        tangent_norm: ‖w₀‖, 1/length; 0 at a vertex, NaN on a degenerate face.
        entropy: h, nats; exp(h) is the effective size of the face.
        degeneracy_distance: T5's ρ, length; NaN under strict complementarity.
        published_range: T1′ with θ = ½: largest ε for which e^{−Δ/(2ε)} is proved.
        safe_epsilon: largest ε at which leakage ≤ 1 % is *proved* there and below.
        one_percent_epsilon: ε at which true leakage first exceeds 1 %, from 33 temperatures
            refined twice; +inf if it never does below 1000 × largest_squared_distance.
        temperatures: table over ε.
        entropic_support: support of α^ε at the model's temperature.
        softmax: ordinary attention on the same arrays.
        regime: "inside", "unproved", "outside", or "no gap".
        regime_verdict: whether the query is in the regime, in sentences.
    """

    n: int
    d: int
    dtype: str
    scale: float
    result: str
    advice: str
    solution: Solution
    face: FaceKeys
    gap: float
    residual_norm: float
    largest_squared_distance: float
    strict: bool
    tangent_norm: float
    entropy: float
    degeneracy_distance: float
    published_range: float
    safe_epsilon: float
    one_percent_epsilon: float
    temperatures: Temperatures
    entropic_support: Support
    softmax: Softmax
    regime: str = ""
    regime_verdict: tuple[str, ...] = ()

    @property
    def epsilon(self) -> float:
        """The model's own temperature 1/s, squared length."""
        return 1.0 / self.scale

    @property
    def log_leakage(self) -> float:
        """True log off-face mass at the model's own temperature, nats."""
        return float(self.temperatures.log_leakage[self.temperatures.at_model])

    @property
    def log_leakage_bound(self) -> float:
        """The bound on it, min(0, T1, T3), nats."""
        return float(self.temperatures.log_leakage_bound[self.temperatures.at_model])

    def to_json(self) -> str:
        """The same content as indented JSON; infinities and NaN become strings."""
        from vashista_theory.runs import canonical

        return json.dumps(canonical(self), indent=2, ensure_ascii=False)
