"""Escape and alignment of runs: the logistic law, two erf units, maps, refusals."""

import math

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter

z = sp.Symbol("z", real=True)


def retrieval_run(gamma=0.05, noise=0.3, t_max=6.0, **options):
    model = dmft.literature.phase_retrieval(1, label_noise=noise)
    equations = dmft.derive(model, dmft.SGD(gamma, constraint="sphere"))
    return dmft.solve(equations, dmft.Overlaps([[1.0]], [[-0.01]]), t_max, **options)


def logistic(gamma, noise, u0, u1):
    """theory/one_pass F.1."""
    A, rate = 4 - 24 * gamma, 4 - 2 * gamma * (12 + noise)
    top = rate / A
    return math.log(u1 / u0 * (top - u0) / (top - u1)) / (2 * rate)


def test_both_times_follow_the_logistic_law():
    for save_at in (None, 2):  # the saved points have no say
        found = dmft.phases(retrieval_run(save_at=save_at), fraction=0.5, level=0.9)
        escape = logistic(0.05, 0.3, 1e-4, 0.5 + 0.5e-4)
        aligned = logistic(0.05, 0.3, 1e-4, 0.81)
        assert found.escape.value == pytest.approx(escape, rel=1e-8)
        assert found.alignment.value == pytest.approx(aligned, rel=1e-8)
        assert found.units == pytest.approx([aligned], rel=1e-8)
        assert found.alignment.steps(1000) == pytest.approx(aligned * 1000 / 0.05, rel=1e-8)


def test_what_was_not_reached_is_censored():
    found = dmft.phases(retrieval_run(t_max=1.2), level=0.9)
    assert isinstance(found.alignment, dmft.Censored)
    assert found.alignment.horizon == 1.2
    assert np.isnan(found.units).all()
    assert "has not aligned until t = 1.2" in str(found)
    # The overlap settles at sqrt(1 - B/A), below this level.
    assert isinstance(dmft.phases(retrieval_run(t_max=20.0), level=0.999).alignment, dmft.Censored)


def test_two_erf_units_leave_their_plateau_before_they_align():
    model = dmft.literature.saad_solla(2)
    equations = dmft.derive(model, dmft.SGD(1.0))
    start = dmft.Overlaps(0.25 * np.eye(2), [[1e-3, 0.0], [0.0, 2e-3]])
    run = dmft.solve(equations, start, 500.0)
    found = dmft.phases(run, fraction=0.5, level=0.95)
    assert found.escape.reference == "plateau"
    # G.3: the risk on the plateau of two units at gamma = 1 is 0.0032259.
    assert found.escape.reference_value == pytest.approx(0.00323, rel=0.02)
    assert found.escape.value < found.alignment.value
    assert found.units.max() == pytest.approx(found.alignment.value, rel=1e-12)
    # Another integrator: the cosines at the time found, and just before.
    again = dmft.solve(
        equations, start, found.alignment.value, method="Radau", rtol=1e-10, atol=1e-13, save_at=2
    )
    cosine = np.abs(again.M[-1]) / np.sqrt(np.diag(again.Q[-1]))[:, None]
    assert cosine.max(axis=0).min() == pytest.approx(0.95, abs=1e-6)
    assert np.argmax(cosine, axis=0).tolist() in ([0, 1], [1, 0])


def test_a_map_is_aligned_after_whole_steps():
    model = dmft.literature.phase_retrieval(1)
    equations = dmft.derive(
        model, dmft.SGD(1.0, batch_size=sp.Symbol("d"), constraint="sphere"), dim=100
    )
    run = dmft.solve(equations, dmft.Overlaps([[1.0]], [[0.1]]), 400)
    found = dmft.phases(run, level=0.9)
    cosine = np.abs(run.M[:, 0, 0]) / np.sqrt(run.Q[:, 0, 0])
    assert found.alignment.value == run.t[np.argmax(cosine >= 0.9)]


def test_refusals():
    run = retrieval_run(t_max=1.0)
    with pytest.raises(BadParameter, match="level"):
        dmft.phases(run, level=1.5)
    with pytest.raises(BadParameter, match="one solved run"):
        dmft.phases([run])
    with pytest.raises(BadParameter, match="unknown reference"):
        dmft.phases(run, reference="end")
