"""A mixed-integer linear programme as arrays, and the solvers that take it."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import sparse

INFINITY = float("inf")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear:
    """minimise c x + offset  subject to  A x <= upper,  least <= x <= most,  x[integer] whole."""

    cost: np.ndarray  # (n,)
    offset: float
    matrix: sparse.csr_array  # (m, n)
    upper: np.ndarray  # (m,)
    least: np.ndarray  # (n,)
    most: np.ndarray  # (n,)
    integer: np.ndarray  # (n,) bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a solver said: `optimal`, `feasible` (stopped early), `infeasible`, or `unknown` (stopped with nothing)."""

    status: str
    solver: str = ""
    x: np.ndarray | None = None  # (n,)
    objective: float | None = None
    bound: float | None = None  # no x is better than this
    duals: np.ndarray | None = None  # (m,) change of the objective for one more of a row's right side; LP only


def relaxed(linear: Linear, x: np.ndarray) -> Linear:
    """The linear programme that is left once every whole-numbered variable is fixed at its value in `x`."""
    whole = np.round(x)
    return dataclasses.replace(
        linear,
        least=np.where(linear.integer, whole, linear.least),
        most=np.where(linear.integer, whole, linear.most),
        integer=np.zeros_like(linear.integer),
    )


def solve(linear: Linear, *, time_limit: float, tolerance: float = 1e-4) -> Answer:
    """Solves with HiGHS; `tolerance` is the relative gap it may stop at.

    The same programme is solved through `scipy.optimize` where highspy is not installed.
    """
    try:
        import highspy  # pyright: ignore[reportMissingImports]
    except ImportError:
        return _scipy(linear, time_limit=time_limit, tolerance=tolerance)
    return _highs(highspy, linear, time_limit=time_limit, tolerance=tolerance)


def _highs(highspy, linear: Linear, *, time_limit, tolerance) -> Answer:
    solver = highspy.Highs()
    options = {"output_flag": False, "time_limit": float(time_limit), "mip_rel_gap": tolerance, "random_seed": 0}
    # These two look for better plans inside sub-programmes; here the first passes find the best one, and they took
    # four fifths of the time.
    options |= {"mip_heuristic_run_rens": False, "mip_heuristic_run_rins": False}
    for option, value in options.items():
        solver.setOptionValue(option, value)
    solver.passModel(_model(highspy, linear))
    solver.run()
    said, info, solution = solver.getModelStatus(), solver.getInfo(), solver.getSolution()
    states = highspy.HighsModelStatus
    if said in (states.kInfeasible, states.kUnboundedOrInfeasible):
        return Answer(status="infeasible", solver="highspy")
    if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        return Answer(status="unknown", solver="highspy")
    whole = bool(linear.integer.any())
    return Answer(
        status="optimal" if said == states.kOptimal else "feasible",
        solver="highspy",
        x=np.asarray(solution.col_value),
        objective=info.objective_function_value,
        bound=info.mip_dual_bound if whole else info.objective_function_value,
        duals=None if whole else np.asarray(solution.row_dual),
    )


def _model(highspy, linear: Linear):
    rows, columns = len(linear.upper), len(linear.cost)
    matrix = linear.matrix.tocsc()
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = columns, rows
    model.col_cost_, model.offset_ = linear.cost, linear.offset
    model.col_lower_, model.col_upper_ = linear.least, linear.most
    model.row_lower_, model.row_upper_ = np.full(rows, -INFINITY), linear.upper
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_, model.a_matrix_.index_ = matrix.indptr, matrix.indices
    model.a_matrix_.value_ = matrix.data
    kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
    if linear.integer.any():
        model.integrality_ = [kinds[int(whole)] for whole in linear.integer]
    return model


def _scipy(linear: Linear, *, time_limit, tolerance) -> Answer:
    from scipy import optimize

    if not linear.integer.any():
        return _scipy_lp(optimize, linear, time_limit=time_limit)
    said = optimize.milp(
        linear.cost,
        integrality=linear.integer.astype(int),
        bounds=(linear.least, linear.most),
        constraints=[(linear.matrix, -INFINITY, linear.upper)],
        options={"time_limit": float(time_limit), "mip_rel_gap": tolerance},
    )
    if said.x is None:
        return Answer(status="infeasible" if said.status == 2 else "unknown", solver="scipy")
    return Answer(
        status="optimal" if said.status == 0 else "feasible",
        solver="scipy",
        x=said.x,
        objective=said.fun + linear.offset,
        bound=None if said.mip_dual_bound is None else said.mip_dual_bound + linear.offset,
    )


def _scipy_lp(optimize, linear: Linear, *, time_limit) -> Answer:
    bound = np.isfinite(linear.upper)
    said = optimize.linprog(
        linear.cost,
        A_ub=linear.matrix[bound],
        b_ub=linear.upper[bound],
        bounds=np.stack([linear.least, linear.most], axis=1),
        options={"time_limit": float(time_limit)},
    )
    if said.x is None:
        return Answer(status="infeasible" if said.status == 2 else "unknown", solver="scipy")
    duals = np.zeros(len(linear.upper))
    duals[bound] = said.ineqlin.marginals
    objective = said.fun + linear.offset
    return Answer(status="optimal", solver="scipy", x=said.x, objective=objective, bound=objective, duals=duals)
