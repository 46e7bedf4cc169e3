"""States beyond Cauchy-Schwarz within the band of the compiled code: counted and reported."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.solvers.problem import parallel_statistics
from dmft.special.orthant import BAND, correlation_root

Z = sp.Symbol("z", real=True)


RELU = sp.Max(0, Z)


def flow(activation):
    network = dmft.Committee(activation, 1)
    return dmft.derive(dmft.Model(network, network), dmft.GradientFlow())


def run_from(excess, activation=RELU):
    """One student whose squared overlap with its teacher exceeds Cauchy-Schwarz by `excess`."""
    start = dmft.Overlaps([[1.0]], [[np.sqrt(1.0 + excess)]], [[1.0]])
    return dmft.solve(flow(activation), start, 1e-6, rtol=1e-6, save_at=[0.0, 1e-6])


def test_excess_within_the_band_is_counted_and_said():
    run = run_from(5e-11)
    assert run.status == "ok"
    assert run.statistics["parallel_states"] == 2
    assert run.statistics["parallel_excess"] == pytest.approx(5e-11, rel=1e-3)
    assert "2 of 2 saved states" in run.message
    assert "5.0e-11" in run.message


def test_the_count_is_that_of_the_compiled_clamp():
    problem = dmft.build(flow(RELU))
    values = flow(RELU).values(dmft.Overlaps([[1.0]], [[1.0]], [[1.0]]), {})
    par = problem.pack_parameters(values.scalars, values.arrays)
    excess = np.array([-0.5, 0.0, 0.2, 0.9, 1.1, 40.0]) * BAND
    rows = np.stack([[1.0, np.sqrt(1.0 + e)] for e in excess])
    inside = np.array([correlation_root(1.0, 1.0, m) == 0.0 for _, m in rows])
    assert inside.tolist() == [False, True, True, True, False, False]
    counted = parallel_statistics(problem, rows, np.array([1, 1]), par)
    assert counted["parallel_states"] == 2  # exactly parallel fields need no clamp
    assert counted["parallel_excess"] == pytest.approx(0.9 * BAND, rel=1e-5)


def test_inside_and_at_rounding_nothing_is_said():
    run = run_from(-1e-3)
    assert (run.statistics["parallel_states"], run.statistics["parallel_excess"]) == (0, 0.0)
    assert "parallel" not in run.message
    assert "parallel" not in run_from(4e-16).message


def test_code_without_pair_functions_counts_nothing():
    run = run_from(5e-11, sp.erf(Z / sp.sqrt(2)))
    assert "parallel_states" not in run.statistics
    assert dmft.build(run.problem.origin).parallel_band == 0.0
