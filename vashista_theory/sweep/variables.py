"""The variables of a sweep's dataset: name, dimensions, unit, meaning."""

from typing import Any, NamedTuple


class Variable(NamedTuple):
    """One variable of the dataset."""

    dims: tuple[str, ...]
    units: str
    description: str
    missing: Any = float("nan")


_ONE = ("instance",)
_PATH = ("instance", "temperature")

BY_INSTANCE: dict[str, Variable] = {
    "parameters": Variable(
        _ONE, "", "of the family, as JSON; of a head its layer, head and position", ""
    ),
    "result": Variable(
        _ONE,
        "",
        "outcome of the analysis; 'not computed' in rows that the sweep has not come to",
        "not computed",
    ),
    "n": Variable(_ONE, "keys", "how many keys", -1),
    "d": Variable(_ONE, "", "dimension", -1),
    "scale": Variable(_ONE, "length²", "max ‖k_i − q‖²"),
    "residual_norm": Variable(_ONE, "length", "‖q − p*‖"),
    "face_size": Variable(_ONE, "keys", "|F|", -1),
    "gap": Variable(_ONE, "length²", "Δ; NaN inside the hull, +inf if every key is exposed"),
    "inside": Variable(_ONE, "", "the query is in the hull", False),
    "degenerate": Variable(_ONE, "", "strict complementarity fails", False),
    "min_weight": Variable(_ONE, "", "least maximum-entropy weight on the minimal face"),
    "tangent_norm": Variable(_ONE, "1/length", "‖w₀‖; 0 at a vertex"),
    "entropy": Variable(_ONE, "nats", "h"),
    "degeneracy_distance": Variable(_ONE, "length", "ρ of T5"),
    "log_constant": Variable(_ONE, "nats", "limit of log m + Δ/ε by T4"),
    "published_range": Variable(_ONE, "length²", "largest ε at which T1′ (θ = ½) is proved"),
    "safe_epsilon": Variable(_ONE, "length²", "ε below which the bound on leakage is 1 %"),
    "leak_epsilon": Variable(_ONE, "length²", "ε at which the leakage is 1 % (heads only)"),
    "kkt_residual": Variable(_ONE, "", "worst of four, relative to scale or √scale"),
    "oracle_distance": Variable(_ONE, "", "‖p* − p*(cvxpy)‖ / √scale, on a sample"),
}

BY_TEMPERATURE: dict[str, Variable] = {
    "epsilon": Variable(_PATH, "length²", "ε; NaN where an extra temperature does not exist"),
    "log_off_face_mass": Variable(_PATH, "nats", "log m"),
    "log_displacement": Variable(_PATH, "log length", "log ‖p^ε − p*‖"),
    "relaxation_residual": Variable(_PATH, "length", "bound on the error of p^ε"),
    "solved": Variable(
        _PATH, "", "the relaxation converged; False too where epsilon is NaN: no temperature", False
    ),
    "log_displacement_t1": Variable(_PATH, "log length", "T1"),
    "log_displacement_t2": Variable(_PATH, "log length", "T2"),
    "log_displacement_bootstrap": Variable(_PATH, "log length", "bootstrap of T2"),
    "log_leakage_t1": Variable(_PATH, "nats", "T1"),
    "log_leakage_t3": Variable(_PATH, "nats", "T3"),
    "log_asymptote": Variable(_PATH, "nats", "T4, summed over every off-face key"),
    "log_first_order": Variable(_PATH, "nats", "T4 with its first-order term"),
    "identity_defect": Variable(_PATH, "", "(★) left minus right, over scale + ε"),
    "excess_identity": Variable(_PATH, "allowances", "|defect| of (★)"),
    "excess_t1": Variable(_PATH, "allowances", "T1: displacement, leakage and every weight"),
    "excess_t1_published": Variable(_PATH, "allowances", "T1′ (θ = ½), in its range or not"),
    "excess_t2": Variable(_PATH, "allowances", "T2: both displacement forms and the bootstrap"),
    "excess_t3": Variable(_PATH, "allowances", "T3: every off-face weight and their sum"),
    "excess_factor_one": Variable(_PATH, "allowances", "α_i ≤ e^{−μ_i/ε}, which is false"),
}
"""An excess is (value − bound) / allowance, the worst of its forms: above 1 it is a violation,
NaN where the statement says nothing."""

ALL = BY_INSTANCE | BY_TEMPERATURE
