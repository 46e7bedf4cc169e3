"""Descents that converge end as ok, with what is left to move."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.names import Status
from dmft.solvers.two_time.run import left_to_move, settled

FILE = Path(__file__).parents[1] / "reference" / "static_limits.json"
z = sp.Symbol("z", real=True)
LINE = dmft.Committee(z, 1)
MODEL = dmft.Model(LINE, dmft.MultiIndex(sp.sign(z), [z]))
START = dmft.Overlaps([[0.01]], [[0.0]], [[1.0]])


def solved(loss, rate, steps, **options):
    descent = dmft.GradientDescent(rate, samples_per_dim=2, ridge=0.5, loss=loss)
    return dmft.solve(dmft.derive(MODEL, descent), START, steps, **options)


@pytest.mark.slow
def test_smooth_gradients_are_solved_along_paths_where_stein_divides_by_nothing():
    """Stein's identity alone left the domain at step 22 (8 x 2^14 samples)."""
    stein = solved("logistic", 0.5, 40, samples=2**10, method="stein")
    assert (stein.status, stein.t[-1] < 40) == ("left_domain", True)
    run = solved("logistic", 0.5, 40, samples=2**10)
    assert (run.status, run.t[-1]) == ("ok", 40.0)
    assert "converged: the estimated remaining change of the weights is" in run.message
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
    assert run.message.startswith("8 samples; converged: the estimated remaining change")
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


VECTOR = next(
    v for v in json.loads(FILE.read_text(encoding="utf-8"))["vectors"]
    if v["kind"] == "dynamics_limit"
)  # fmt: skip


def test_the_dynamics_meet_the_shared_vector():
    given, wanted = VECTOR["input"], VECTOR["output"]
    run = solved(given["loss"], given["learning_rate"], given["steps"], samples=2**12)
    for name, value in wanted.items():
        assert run[name][-1, 0, 0] == pytest.approx(value, rel=VECTOR["rtol"])


def meets(run, static):
    """Overlaps, train loss and kernels of a long run against `erm`, within both errors."""
    left = left_to_move(run)
    length = np.sqrt(static.Q)
    near = {"M": length, "Q": 2 * static.Q, "train_loss": 1.0}
    pairs = {"M": run.M[-1, 0, 0], "Q": run.Q[-1, 0, 0], "train_loss": run.train_loss[-1]}
    for name, value in pairs.items():
        error = 3 * np.max(run.error[name][-1]) + static.error[name] + near[name] * left + 1e-6
        assert abs(value - getattr(static, name)) < error, name
        assert error < 0.02 * abs(value)
    # V^ = alpha E[-df/domega] is the row sum of the response of the gradients, (13).
    hat = 1 / static.V - static.ridge
    assert run.resp[-1, :, 0, 0].sum() == pytest.approx(hat, rel=0.02)
    # q^ = (Q - M^2)/V^2 is the correlation of the gradients.
    force = (static.Q - static.M**2) / static.V**2
    assert run.corr[-1, -1, 0, 0] == pytest.approx(force, rel=0.01)


def test_long_times_meet_erm_logistic():
    run = solved("logistic", 0.5, 40, samples=2**12)
    meets(run, dmft.erm(MODEL, "logistic", 2.0, 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["squared", "huber"])
def test_long_times_meet_erm(loss):
    run = solved(loss, 0.3, 60, samples=2**10)
    meets(run, dmft.erm(MODEL, loss, 2.0, 0.5))


@pytest.mark.slow
def test_long_times_of_the_flow_meet_erm():
    descent = dmft.GradientDescent(1, samples_per_dim=2, ridge=0.5, loss="logistic")
    flow = dmft.derive(MODEL, descent, scaling="gradient-flow")
    run = dmft.solve(flow, START, 12.0, points=64, samples=2**10)
    assert run.status == "ok"
    assert "converged" in run.message
    static = dmft.erm(MODEL, "logistic", 2.0, 0.5)
    for name in ("M", "Q"):
        error = 3 * run.error[name].max() + 2 * left_to_move(run)
        assert abs(run[name][-1, 0, 0] - getattr(static, name)) < error < 0.02
