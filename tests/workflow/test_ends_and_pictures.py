"""What a run has reached is a start again, and every kind of run can be drawn."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.model import FIELD as z

ERF = sp.erf(z / sp.sqrt(2))
MODEL = dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(ERF, 1), 0.1)
START = dmft.Overlaps([[1.0, 0.1], [0.1, 1.0]], [[0.3], [-0.2]])


def test_wide_students_go_on_from_their_end():
    equations = dmft.derive(MODEL, dmft.SGD(0.05), scaling="mean-field")
    options = {"rtol": 1e-10, "atol": 1e-12}
    whole = dmft.solve(equations, START, 1.0, save_at=[0.5, 1.0], **options)
    half = dmft.solve(equations, START, 0.5, save_at=[0.5], **options)
    assert isinstance(half.final, dmft.Overlaps)
    rest = dmft.solve(equations, half.final, 0.5, save_at=[0.5], **options)
    np.testing.assert_allclose(rest.M[-1], whole.M[-1], rtol=0, atol=1e-8)
    np.testing.assert_allclose(rest.Q_perp[-1], whole.Q_perp[-1], rtol=0, atol=1e-8)


def test_paths_are_drawn_with_their_number():
    pytest.importorskip("matplotlib")
    square = dmft.Committee(z**2, width=1)
    sgd = dmft.SGD(0.05, constraint="sphere")
    equations = dmft.derive(dmft.Model(square, square), sgd, dim=1000, fluctuations=True)
    start = dmft.Overlaps([[1.0]], [[0.3]])
    run = dmft.solve(equations, start, 0.2, paths=3, dt=0.05, save_at=3)
    _, risk = np.ravel(dmft.plot(run))
    _, labels = risk.get_legend_handles_labels()
    assert labels == ["d = 1000: mean of 3 paths ± standard error"]
