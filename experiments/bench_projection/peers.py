"""The solvers that the projection is measured against, each in the strongest form found.

Three statements of the same projection:

* *hull dual*: minimise ½‖u‖² − ⟨q, u⟩ + s subject to K u ≤ s, d + 1 unknowns, with u = q − p*. It
  is not strictly convex in s, so solvers that need that get a small square on s.
* *separating*: minimise ½‖u‖² subject to (q − K) u ≤ −1, d unknowns, with u = (p* − q)/‖p* − q‖².
  Strictly convex without help, and infeasible for a query inside the hull.
* *least squares*: minimise ‖(K − q)ᵀα‖² + c²(Σα − 1)² over α ≥ 0; after normalising Σα to 1 this
  is the projection exactly, whatever c.

A peer is given its problem in the arrays it likes best, prepared outside the timed call; what is
timed is the call from arrays to solution, set-up of the solver included, without a warm start.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
from scipy import sparse

Solver = Callable[[], Any]
Reader = Callable[[Any], np.ndarray]
# Hessian, linear term, constraint matrix and upper bounds; and from the unknowns to p*.
Stated = tuple[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Reader]

_REGULARISATION = 1e-10  # on s; smaller and DAQP switches to its slower proximal mode
_NO_BOUND = -1e30


class NotSolvedError(RuntimeError):
    """The solver says it has no solution."""


@dataclass(frozen=True)
class Prepared:
    """A problem in a solver's own arrays.

    Attributes:
        solve: The timed call.
        point: From what it returned to p*.
    """

    solve: Solver
    point: Reader


@dataclass(frozen=True)
class Peer:
    """A solver in one form with its settings.

    Attributes:
        name: As shown.
        package: What must be installed.
        settings: For the report.
        prepare: From keys and query, both float64.
        copies: Sets of n·d numbers that solver and problem hold, estimated from above.
    """

    name: str
    package: str
    settings: str
    prepare: Callable[[np.ndarray, np.ndarray], Prepared]
    copies: float

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None


def _require(solved: bool, status: object) -> None:
    if not solved:
        raise NotSolvedError(f"status {status}")


def _hull_dual(keys: np.ndarray, query: np.ndarray, regularisation: float = 0.0) -> Stated:
    n, d = keys.shape
    hessian = np.diag(np.append(np.ones(d), regularisation))
    constraints = np.column_stack([keys, -np.ones(n)])
    return (hessian, np.append(-query, 1.0), constraints, np.zeros(n)), lambda u: query - u[:d]


def _regularised(keys: np.ndarray, query: np.ndarray) -> Stated:
    return _hull_dual(keys, query, _REGULARISATION)


def _separating(keys: np.ndarray, query: np.ndarray) -> Stated:
    n, d = keys.shape
    return (np.eye(d), np.zeros(d), query - keys, -np.ones(n)), lambda u: query + u / (u @ u)


def _daqp(stated: Stated) -> Prepared:
    import daqp

    (hessian, linear, matrix, upper), point = stated
    matrix = np.ascontiguousarray(matrix)
    lower, sense = np.full(len(upper), _NO_BOUND), np.zeros(len(upper), np.int32)

    def solve() -> np.ndarray:
        u, _, flag, _ = daqp.solve(hessian, linear, matrix, upper, lower, sense)
        _require(flag == 1, flag)
        return u

    return Prepared(solve, point)


def _quadprog(stated: Stated) -> Prepared:
    import quadprog

    (hessian, linear, matrix, upper), point = stated
    transposed = np.ascontiguousarray(-matrix.T)
    return Prepared(lambda: quadprog.solve_qp(hessian, -linear, transposed, -upper)[0], point)


def _piqp(stated: Stated, tolerance: float) -> Prepared:
    import piqp

    (hessian, linear, matrix, upper), point = stated
    matrix, lower = np.asfortranarray(matrix), np.full(len(upper), -np.inf)

    def solve() -> np.ndarray:
        solver = piqp.DenseSolver()
        settings = solver.settings
        settings.eps_abs = settings.eps_duality_gap_abs = tolerance
        settings.eps_rel = settings.eps_duality_gap_rel = 0.0
        solver.setup(hessian, linear, None, None, matrix, lower, upper)
        status = solver.solve()
        _require(status == piqp.PIQP_SOLVED, status)
        return solver.result.x.copy()

    return Prepared(solve, point)


def _proxqp(keys: np.ndarray, query: np.ndarray) -> Prepared:
    from proxsuite import proxqp

    (hessian, linear, matrix, upper), point = _hull_dual(keys, query)
    lower = np.full(len(upper), -1e20)  # ProxQP's infinity

    def solve() -> np.ndarray:
        dense = proxqp.dense
        solver = dense.QP(
            len(linear),
            0,
            len(upper),
            False,
            dense.HessianType.Dense,
            dense.DenseBackend.PrimalLDLT,
        )
        solver.settings.eps_abs, solver.settings.eps_rel = 1e-11, 0.0
        solver.settings.initial_guess = proxqp.InitialGuess.NO_INITIAL_GUESS
        solver.init(hessian, linear, None, None, matrix, lower, upper)
        solver.solve()
        status = solver.results.info.status
        _require(status == proxqp.PROXQP_SOLVED, status)
        return solver.results.x.copy()

    return Prepared(solve, point)


def _clarabel(keys: np.ndarray, query: np.ndarray) -> Prepared:
    import clarabel

    (hessian, linear, matrix, upper), point = _hull_dual(keys, query)
    hessian_, matrix_ = sparse.csc_matrix(hessian), sparse.csc_matrix(matrix)
    cones = [clarabel.NonnegativeConeT(len(upper))]
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12

    def solve() -> np.ndarray:
        found = clarabel.DefaultSolver(hessian_, linear, matrix_, upper, cones, settings).solve()
        _require(str(found.status) in ("Solved", "AlmostSolved"), found.status)
        return np.array(found.x)

    return Prepared(solve, point)


def _nnls(keys: np.ndarray, query: np.ndarray) -> Prepared:
    n, d = keys.shape
    difference = (keys - query).T
    weight = float(np.linalg.norm(difference, axis=0).max())
    matrix = np.vstack([difference, np.full(n, weight)])
    target = np.append(np.zeros(d), weight)

    def point(weights: np.ndarray) -> np.ndarray:
        return query + difference @ (weights / weights.sum())

    return Prepared(lambda: scipy.optimize.nnls(matrix, target, maxiter=30 * n)[0], point)


def _cvxpy_dual(keys: np.ndarray, query: np.ndarray) -> Prepared:
    import cvxpy

    def solve() -> np.ndarray:
        u, s = cvxpy.Variable(len(query)), cvxpy.Variable()
        objective = cvxpy.Minimize(0.5 * cvxpy.sum_squares(u) - query @ u + s)
        problem = cvxpy.Problem(objective, [keys @ u <= s])
        problem.solve(solver=cvxpy.CLARABEL)
        _require(problem.status in ("optimal", "optimal_inaccurate"), problem.status)
        return np.asarray(u.value)

    return Prepared(solve, lambda u: query - u)


def _cvxpy_primal(keys: np.ndarray, query: np.ndarray) -> Prepared:
    import cvxpy

    def solve() -> np.ndarray:
        weights = cvxpy.Variable(len(keys), nonneg=True)
        objective = cvxpy.Minimize(0.5 * cvxpy.sum_squares(keys.T @ weights - query))
        problem = cvxpy.Problem(objective, [cvxpy.sum(weights) == 1])
        problem.solve(solver=cvxpy.CLARABEL)
        _require(problem.status in ("optimal", "optimal_inaccurate"), problem.status)
        return np.asarray(weights.value)

    return Prepared(solve, lambda weights: keys.T @ (weights / weights.sum()))


def _solved(
    solver: Callable[..., Prepared], state: Callable[..., Stated], *settings: float
) -> Callable[[np.ndarray, np.ndarray], Prepared]:
    return lambda keys, query: solver(state(keys, query), *settings)


PEERS: tuple[Peer, ...] = (
    Peer(
        "DAQP",
        "daqp",
        f"hull dual, {_REGULARISATION:g} s²/2 added",
        _solved(_daqp, _regularised),
        4,
    ),
    Peer("DAQP separating", "daqp", "separating, default settings", _solved(_daqp, _separating), 4),
    Peer(
        "quadprog",
        "quadprog",
        f"hull dual, {_REGULARISATION:g} s²/2 added",
        _solved(_quadprog, _regularised),
        4,
    ),
    Peer("quadprog separating", "quadprog", "separating", _solved(_quadprog, _separating), 4),
    Peer(
        "PIQP",
        "piqp",
        "hull dual, dense, absolute tolerance 1e-10",
        _solved(_piqp, _hull_dual, 1e-10),
        8,
    ),
    Peer(
        "PIQP separating", "piqp", "separating, dense, 1e-11", _solved(_piqp, _separating, 1e-11), 8
    ),
    Peer("ProxQP", "proxsuite", "hull dual, dense primal LDLT, 1e-11", _proxqp, 8),
    Peer("Clarabel", "clarabel", "hull dual, tolerances 1e-12", _clarabel, 40),
    Peer("NNLS", "scipy", "least squares, c = max ‖k − q‖", _nnls, 4),
    Peer("cvxpy dual", "cvxpy", "hull dual, Clarabel, default tolerances", _cvxpy_dual, 60),
    Peer("cvxpy primal", "cvxpy", "weights, Clarabel, default tolerances", _cvxpy_primal, 80),
)
