"""The projection and its relaxation as cvxpy problems, for independent comparison.

Nothing here shares a line with the package's own solvers, and cvxpy is imported only when a
function is called. The accuracy is that of a general interior-point solver: good for catching a
wrong answer, not for verifying the last digits (the docstrings say what was measured).
"""

import warnings
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from vashista_theory._checks import as_float64

# Tried in turn until Clarabel does not fail: without strict complementarity rounding stops it
# before the tightest. An "optimal_inaccurate" answer is within the reduced tolerance, and in
# practice better than an "optimal" one at the next looser setting.
_REDUCED_TOLERANCE = 1e-9
_SOLVED = frozenset({"optimal", "optimal_inaccurate"})
_PROJECTION_TOLERANCES = (1e-14, 1e-12, 1e-10)
_RELAXATION_TOLERANCES = (1e-12, 1e-11, 1e-10, 1e-8)


class OracleProjection(NamedTuple):
    """A projection found by cvxpy.

    Attributes:
        point: p = Kᵀα with the cleaned weights (clipped at 0, divided by their sum).
        weights: Those weights.
        multipliers: ⟨q − p, p − k_i⟩ at that point.
        face: Multipliers below `face_tolerance` × max_i ‖k_i − q‖².
        gap: The smallest multiplier off that face; +inf if there is none.
        duality_gap: −min multiplier, which certifies ‖p − p*‖² ≤ duality_gap whatever the solver
            said.
        status: cvxpy's word for the outcome.
        solver: The solver's name.
    """

    point: Float64[np.ndarray, " d"]
    weights: Float64[np.ndarray, " n"]
    multipliers: Float64[np.ndarray, " n"]
    face: Bool[np.ndarray, " n"]
    gap: float
    duality_gap: float
    status: str
    solver: str


class OracleRelaxation(NamedTuple):
    """An entropic relaxation found by cvxpy.

    Attributes:
        point: p = Kᵀα with the cleaned weights (clipped at 0, divided by their sum).
        weights: Those weights; ones below the solver's accuracy are noise.
        objective: ½‖p − q‖² + ε Σ α_i log α_i there.
        status: cvxpy's word for the outcome.
        solver: The solver's name.
    """

    point: Float64[np.ndarray, " d"]
    weights: Float64[np.ndarray, " n"]
    objective: float
    status: str
    solver: str


def project_qp(
    keys: Any, query: Any, *, solver: str = "CLARABEL", face_tolerance: float = 1e-7, **options: Any
) -> OracleProjection:
    r"""Project the query on the hull of the keys by a quadratic program.

    .. math:: \min_{\alpha \ge 0,\ \sum\alpha = 1,\ p = K^\top\alpha} \tfrac12\|p - q\|^2

    The program is posed relative to the query and in units of √(max_i ‖k_i − q‖²).

    Accuracy with the default settings, measured against planted answers at n up to 256, in units
    of scale = max_i ‖k_i − q‖²: duality gap below 1e-14; p* within 1e-11 √scale and multipliers
    within 1e-12 on well-separated faces, 1e-9 where a weight is 1e-4, and 1e-6 without strict
    complementarity (duality gap 1e-12), where an interior-point method cannot tell the face: raise
    `face_tolerance` there. 1 s at n = 1024, d = 64 for a first call, 0.15 s afterwards.

    Args:
        keys: (n, d), converted to float64.
        query: (d,), converted to float64.
        solver: A solver that cvxpy has for quadratic programs.
        face_tolerance: Relative to max_i ‖k_i − q‖²; must exceed the solver's error.
        **options: Passed to the solver, over the tolerances tried here for Clarabel.

    Raises:
        ImportError: If cvxpy is missing.
        ValueError: If the solver is unknown or the input is not finite and two-dimensional.
        RuntimeError: If the solver gives up.
    """
    cp = _cvxpy(solver)
    keys, query, relative, length = _normalised(keys, query)
    alpha = cp.Variable(keys.shape[0], nonneg=True)
    offset = cp.Variable(keys.shape[1])
    constraints = [cp.sum(alpha) == 1, offset == relative.T @ alpha]
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(offset)), constraints)
    status = _solve(cp, problem, solver, _PROJECTION_TOLERANCES, options)

    weights = _cleaned(alpha.value)
    step = weights @ relative
    multipliers = (relative @ step - step @ step) * length**2
    face = multipliers <= face_tolerance * length**2
    return OracleProjection(
        point=query + step * length,
        weights=weights,
        multipliers=multipliers,
        face=face,
        gap=float(np.min(multipliers[~face], initial=np.inf)),
        duality_gap=float(-multipliers.min()),
        status=status,
        solver=solver,
    )


def relax_exponential_cone(
    keys: Any, query: Any, epsilon: float, *, solver: str = "CLARABEL", **options: Any
) -> OracleRelaxation:
    r"""Solve the entropic relaxation over the exponential cone.

    .. math:: \min_{\alpha \in \text{simplex}} \tfrac12\|K^\top\alpha - q\|^2
              + \varepsilon\sum_i \alpha_i\log\alpha_i

    Accuracy with the default settings, measured against Newton's method for ε from 1e-3 to 1 and
    scale = max_i ‖k_i − q‖² up to 200: p^ε within 3e-8 √scale and every weight within 5e-7, in
    absolute terms, whether the status is "optimal" or "optimal_inaccurate" (one in ten).
    Weights below that, and so the off-face mass at small ε, are out of its reach.

    Args:
        keys: (n, d), converted to float64.
        query: (d,), converted to float64.
        epsilon: The temperature ε > 0.
        solver: A solver that cvxpy has for the exponential cone.
        **options: Passed to the solver, over the tolerances tried here for Clarabel.

    Raises:
        ImportError: If cvxpy is missing.
        ValueError: If the solver is unknown, epsilon is not positive, or the input is not finite
            and two-dimensional.
        RuntimeError: If the solver gives up.
    """
    if not (np.isfinite(epsilon) and epsilon > 0.0):
        raise ValueError(f"epsilon must be positive and finite, not {epsilon!r}")
    cp = _cvxpy(solver)
    keys, query, relative, length = _normalised(keys, query)
    alpha = cp.Variable(keys.shape[0])
    offset = cp.Variable(keys.shape[1])
    relative_epsilon = float(epsilon) / length**2
    objective = 0.5 * cp.sum_squares(offset) - relative_epsilon * cp.sum(cp.entr(alpha))
    constraints = [cp.sum(alpha) == 1, offset == relative.T @ alpha]
    problem = cp.Problem(cp.Minimize(objective), constraints)
    status = _solve(cp, problem, solver, _RELAXATION_TOLERANCES, options)

    weights = _cleaned(alpha.value)
    step = weights @ relative * length
    positive = weights[weights > 0.0]
    return OracleRelaxation(
        point=query + step,
        weights=weights,
        objective=float(0.5 * step @ step + epsilon * (positive @ np.log(positive))),
        status=status,
        solver=solver,
    )


def _cvxpy(solver: str) -> Any:
    try:
        import cvxpy
    except ImportError as error:
        raise ImportError(
            "the oracle needs cvxpy, which is not installed: pip install cvxpy"
        ) from error
    cp: Any = cvxpy
    installed: list[str] = cp.installed_solvers()
    if solver not in installed:
        raise ValueError(
            f"cvxpy has no solver {solver!r} here; it has: {', '.join(sorted(installed))}"
        )
    return cp


def _normalised(keys: Any, query: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    keys, query = as_float64(keys, "keys"), as_float64(query, "query")
    if keys.ndim != 2 or keys.shape[0] == 0 or query.shape != keys.shape[1:]:
        raise ValueError(
            f"expected keys of shape (n, d), n >= 1, and a query of shape (d,); "
            f"got {keys.shape} and {query.shape}"
        )
    if not (np.isfinite(keys).all() and np.isfinite(query).all()):
        raise ValueError("keys and query must be finite: check them with numpy.isfinite")
    relative = keys - query
    length = float(np.max(np.linalg.norm(relative, axis=1))) or 1.0
    return keys, query, relative / length, length


def _solve(
    cp: Any, problem: Any, solver: str, tolerances: tuple[float, ...], options: dict[str, Any]
) -> str:
    """Solve in place, at each tolerance in turn until the solver does not fail; the status.

    The tolerances are for Clarabel; any other solver gets the caller's options alone.
    """
    names = ("tol_gap_abs", "tol_gap_rel", "tol_feas")
    reduced = {f"reduced_{name}": _REDUCED_TOLERANCE for name in names}
    ladder = [{**dict.fromkeys(names, tolerance), **reduced} for tolerance in tolerances]
    attempts = ladder if solver == "CLARABEL" else [{}]
    failure: Exception | None = None
    for settings in attempts:
        with warnings.catch_warnings():
            # The status says the same, and the caller gets it.
            warnings.filterwarnings("ignore", message="Solution may be inaccurate")
            try:
                problem.solve(solver=solver, **{**settings, **options})
            except cp.SolverError as error:
                failure = error
                continue
        if problem.status in _SOLVED:
            return str(problem.status)
    raise RuntimeError(
        f"{solver} stopped with status {problem.status!r}; try another solver or other options"
    ) from failure


def _cleaned(alpha: Any) -> np.ndarray:
    weights = np.maximum(np.asarray(alpha, np.float64), 0.0)
    return weights / weights.sum()
