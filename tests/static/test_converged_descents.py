"""Descents that converge end as ok, with what is left to move."""

from dataclasses import replace

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.names import Status
from dmft.solvers.descent.run import left_to_move, settled

z = sp.Symbol("z", real=True)
LINE = dmft.Committee(z, 1)
MODEL = dmft.Model(LINE, dmft.MultiIndex(sp.sign(z), [z]))
START = dmft.Overlaps([[0.01]], [[0.0]], [[1.0]])


def solved(loss, rate, steps, **options):
    descent = dmft.GradientDescent(rate, samples_per_dim=2, ridge=0.5, loss=loss)
    return dmft.solve(dmft.derive(MODEL, descent), START, steps, **options)


def test_smooth_gradients_are_solved_along_paths_where_stein_divides_by_nothing():
    """Stein's identity alone left the domain at step 22 (8 x 2^14 samples)."""
    stein = solved("logistic", 0.5, 40, samples=2**10, method="stein")
    assert (stein.status, stein.t[-1] < 40) == ("left_domain", True)
    run = solved("logistic", 0.5, 40, samples=2**10)
    assert (run.status, run.t[-1]) == ("ok", 40.0)
    assert "converged: weights have" in run.message
    assert "pathwise" in run.provenance["method"]
    assert left_to_move(run) < 1e-5
    alone = solved("logistic", 0.5, 40, samples=2**10, method="pathwise")
    assert np.array_equal(run.M, alone.M)


def test_gradients_with_kinks_have_paths():
    """Huber's gradient is continuous: Stein's identity ended such runs after 45 steps."""
    run = solved("huber", 0.3, 60, samples=2**10)
    assert (run.status, run.t[-1]) == ("ok", 60.0)
    assert "converged" in run.message


def test_converged_runs_that_end_early_are_ok():
    """Rounding leaves no covariance of the driving process where nothing new enters it."""
    full = solved("logistic", 0.5, 30, samples=2**10)
    early = replace(full, status=Status.LEFT_DOMAIN, message="8 samples; not positive at step 31")
    run = settled(early, 60)
    assert run.status == "ok"
    assert run.message.startswith("8 samples; converged: weights have")
    assert "after 30 of 60 steps" in run.message
    gone = replace(early, status=Status.DIVERGED)
    assert settled(gone, 60) is gone


def test_other_runs_do_not_say_so():
    short = solved("logistic", 0.5, 6, samples=2**10)
    assert (short.status, "converged" in short.message) == ("ok", False)
    assert left_to_move(short) > 1e-2


def test_what_is_left_is_the_sum_of_a_geometric_series():
    """Gradient descent on one quadratic: M^t = m (1 - r^t) exactly, for a linear teacher."""
    model = dmft.Model(LINE, LINE)
    descent = dmft.GradientDescent(0.1, samples_per_dim=2, ridge=0.5)
    eqs = dmft.derive(model, descent)
    near, far = (dmft.solve(eqs, START, steps) for steps in (60, 160))
    left = np.sqrt(near.Q[-1, 0, 0] + far.Q[-1, 0, 0] - 2 * far.Q2[60, -1, 0, 0])
    assert left_to_move(near) * np.sqrt(near.Q[-1, 0, 0]) == pytest.approx(left, rel=0.3)
