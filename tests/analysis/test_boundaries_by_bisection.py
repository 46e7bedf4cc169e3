"""Measures of the examples traced, against bisection of the same measures at chosen points.

The bisection knows nothing of the tracing: across the curve, from one label to the other.
Distances are in units of the ranges, as the tolerance is.
"""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

import dmft

# Asked of the brackets, and how far from a point its bisection starts.
ACCURACY, WIDTH = 1e-6, 2e-5
PER_POINT, PER_CURVE = 10, 500


def distances(label, curve, x, y, number=3):
    """Distances of points of a curve from where the label changes across it.

    Points at the ends are left out: another border or the edge of the plane may be as near.
    """
    low, size = np.array([x[1], y[1]]), np.array([x[2] - x[1], y[2] - y[1]])
    places = (np.column_stack([curve.x, curve.y]) - low) / size
    found = []
    for i in np.linspace(2, len(places) - 3, number).astype(int):
        along = places[i + 1] - places[i - 1]
        normal = np.array([-along[1], along[0]]) / np.linalg.norm(along)

        def there(t, place=places[i], normal=normal):
            return label(*(low + size * (place + t * normal)))

        left, right, first = -WIDTH, WIDTH, there(-WIDTH)
        assert there(WIDTH) != first
        for _ in range(12):  # to a hundredth of the accuracy that is asked
            middle = 0.5 * (left + right)
            left, right = (middle, right) if there(middle) == first else (left, middle)
        found.append(abs(left))
    return np.array(found)


def assert_cheap(found):
    assert found.solves["curves"] <= PER_POINT * sum(curve.x.size for curve in found.curves)
    assert sum(found.solves.values()) <= PER_CURVE


@pytest.mark.slow
def test_escape_times_at_a_level():
    equations = dmft.derive(dmft.literature.phase_retrieval(1), dmft.SGD(0.1, constraint="sphere"))
    start, x, y = (
        dmft.Overlaps([[1.0]], [[0.1]]), ("learning_rate", 0.005, 0.15), ("label_noise", 0.0, 4.0)
    )  # fmt: skip
    how = {"equations": equations, "start": start, "t_max": 60.0}
    found = dmft.boundary("escape_time", x, y, level=2.5, grid=(5, 5), **how)
    (curve,) = [c for c in found.curves if set(c.labels) == {"-", "+"}]
    assert_cheap(found)

    def later(rate, noise):
        run = dmft.escape_time(equations, start, 60.0, learning_rate=rate, label_noise=noise)
        return run.value > 2.5

    assert distances(later, curve, x, y).max() < ACCURACY


@pytest.mark.slow
def test_regions_of_attention():
    def code(a, omega):
        return int(dmft.literature.positional_semantic_regions(a, omega)[0, 0])

    x, y = ("a", 0.77, 1.0), ("omega", 0.45, 1.0)
    found = dmft.boundary(code, x, y, grid=(9, 17), step=0.08)
    gaps = np.concatenate([distances(code, c, x, y) for c in found.curves if c.x.size > 6])
    assert gaps.size >= 12
    assert gaps.max() < ACCURACY


@pytest.mark.slow
def test_broken_symmetry_of_committees():
    """Width 3 with label noise: where the specialised state loses its symmetry."""
    width = sp.Symbol("K")
    equations = dmft.derive(dmft.literature.saad_solla(width), dmft.SGD(1.0))
    teacher = dmft.Overlaps(np.eye(3), np.eye(3))

    def growth(learning_rate, label_noise):
        how = {"learning_rate": learning_rate, "label_noise": label_noise}
        (state,) = dmft.fixed_points(equations, teacher, **how)
        return dmft.stability(equations, state, **how).growth_rate

    x, y = ("learning_rate", 2.0, 4.0), ("label_noise", 0.2, 0.4)
    found = dmft.boundary(growth, x, y, grid=(4, 4), step=0.1)
    (curve,) = found.curves
    assert_cheap(found)
    assert distances(lambda *at: growth(*at) > 0, curve, x, y).max() < ACCURACY


@pytest.mark.slow
def test_learnability_on_fixed_nodes():
    """The overlap of a descent on repeated data is smooth in its parameters on one set of nodes."""
    unit = dmft.Committee(sp.sqrt(sp.Symbol("z", real=True) ** 2 + sp.Rational(1, 4)), 1)
    equations = dmft.derive(dmft.Model(unit, unit), dmft.GradientDescent(0.1, samples_per_dim=4))
    start = dmft.Overlaps([[1.0]], [[0.3]])

    def learned(samples_per_dim, learning_rate):
        values = {"samples_per_dim": samples_per_dim, "learning_rate": learning_rate}
        run = dmft.solve(equations, start, 10, samples=2**11, scrambles=1, threads=1, **values)
        return run.M[-1, 0, 0] / np.sqrt(run.Q[-1, 0, 0]) - 0.5

    x, y = ("samples_per_dim", 2.0, 8.0), ("learning_rate", 0.05, 0.2)
    found = dmft.boundary(learned, x, y, grid=(5, 5), step=0.1)
    (curve,) = found.curves
    assert_cheap(found)
    assert distances(lambda *at: learned(*at) > 0, curve, x, y).max() < ACCURACY


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.75, 1.25])
def test_long_units_shrink_and_grow_by_sgd(scale):
    """Both sides of gamma = 3.997, where length 10 is stationary at width 2 and noise 0.3.

    Directions settled as in derivations/maximal_rates.py; the limit of long units is 4.711.
    """
    rate = 3.9968051158201177 * scale
    model = dmft.Model(*2 * (dmft.literature.saad_solla(2).student,), label_noise=0.3)
    own, common, s = 1.7, -1.45, -0.26
    M = 10 * s * (1 - np.eye(2)) + np.sqrt(100 * (1 - s * s) - 10 * own) * np.eye(2)
    Q = M @ M.T + 10 * (own * np.eye(2) + common * (1 - np.eye(2)))
    start = dmft.Overlaps(100 * Q / Q[0, 0], M * 10 / np.sqrt(Q[0, 0]))
    runs = dmft.simulate(model, dmft.SGD(rate), 1000, 150.0, 16, start, "overlaps", save_at=3).runs
    change = np.trace(runs.Q[:, -1], axis1=1, axis2=2) / 2 - 100
    assert np.sign(change.mean()) == np.sign(scale - 1)
    assert abs(change.mean()) > 10 * change.std(ddof=1) / 4
