"""ReLU units next to their teacher: rates against closed forms in 50 digits."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.special.orthant import pair_of_signs_moment

z = sp.Symbol("z", real=True)


def exact_rates(q, m):
    """dQ/dt and dM/dt of one unit at gamma = 1, P = 1: arc-cosine kernels of one angle."""
    q, m = mp.mpf(q), mp.mpf(m)
    angle = mp.acos(m / mp.sqrt(q))
    both = mp.sqrt(q) * (mp.sin(angle) + (mp.pi - angle) * mp.cos(angle)) / (2 * mp.pi)
    star = (mp.pi - angle + mp.sin(angle) * mp.cos(angle)) / (2 * mp.pi)
    noise = q / 2 - 2 * both + star
    return 2 * (both - q / 2) + noise, star - m / 2


@pytest.mark.cases(3)
@pytest.mark.parametrize("gap", [1e-2, 1e-6, 1e-9, 1e-12, 4e-14, 5e-15, 1e-15, 2e-16])
def test_rates_keep_their_digits_next_to_the_teacher(gap):
    relu = dmft.Committee(sp.Max(0, z), width=1)
    equations = dmft.derive(dmft.Model(relu, relu), dmft.SGD(1.0))
    problem, out, one = dmft.build(equations), np.empty(2), np.ones(1)
    par = problem.pack_parameters(
        {"learning_rate": 1.0, "label_noise": 0.0},
        {"P": np.eye(1), "readout": one, "teacher_readout": one},
    )
    m = 1.0 - gap
    problem.rhs(0.0, np.array([1.0, m]), np.array([1, 1]), par, out)
    with mp.workdps(50):
        exact = [float(rate) for rate in exact_rates(1.0, m)]
    np.testing.assert_allclose(out, exact, rtol=0, atol=1e-15)


@pytest.mark.cases(5)
@pytest.mark.parametrize("side", [1.0, -1.0])
@pytest.mark.parametrize("angle", [1.0, 1e-3, 1e-6, 1e-7, 3e-8, 0.0])
def test_moment_of_two_signs_at_small_angles(side, angle):
    """E[x y sign(u) sign(v)], u and v in a plane: rotations of a Gaussian vector in 40 digits."""
    u, v = np.array([1.0, 0.0, 0.0]), np.array([np.cos(angle), np.sin(angle), 0.0]) * side
    x, y = np.array([0.3, -0.7, 0.5]), np.array([0.9, 0.4, -0.2])
    entries = [float(a @ b) for a, b in ((u, u), (v, v), (u, v), (x, u), (x, v), (y, u), (y, v))]
    value = pair_of_signs_moment(*entries, float(x @ y))
    with mp.workdps(40):
        t = mp.mpf(angle)
        (a, b, c), (d, e, f) = (list(map(mp.mpf, w.tolist())) for w in (x, y))
        # What two wedges of the plane, between the lines where u and v switch, take away.
        wedge = (a * d + b * e + c * f) * t - mp.sin(2 * t) * (a * d - b * e) / 2
        wedge -= (a * e + b * d) * mp.sin(t) ** 2
        exact = side * float(a * d + b * e + c * f - 2 * wedge / mp.pi)
    assert value == pytest.approx(exact, abs=2e-15 + 3e-16 / max(angle, 1e-8))
