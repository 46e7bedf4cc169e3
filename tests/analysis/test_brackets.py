"""Many roots at once, each in its own bracket."""

import numpy as np
import pytest

from dmft.analysis.roots import bracketed_roots, newton
from dmft.errors import BadParameter


def test_roots_of_different_difficulty():
    # Simple, triple, steep, and at an end; known exactly.
    shapes = [
        (lambda x: x**3 - 8, 0.0, 5.0, 2.0),
        (lambda x: (x - 0.3) ** 3, -1.0, 1.0, 0.3),
        (lambda x: np.tanh(1e3 * (x - 0.7)), 0.0, 1.0, 0.7),
        (lambda x: np.exp(x) - 1, 0.0, 1.0, 0.0),
        (lambda x: 1 / x - 4, 1e-9, 3.0, 0.25),
    ]

    def every(x):
        return np.array([f(value) for (f, *_), value in zip(shapes, x, strict=True)])

    found = bracketed_roots(every, [s[1] for s in shapes], [s[2] for s in shapes])
    np.testing.assert_allclose(found, [s[3] for s in shapes], atol=1e-12)


def test_few_evaluations():
    calls = []

    def cosine(x):
        calls.append(x)
        return np.cos(x)

    np.testing.assert_allclose(bracketed_roots(cosine, np.zeros(3), [2.0, 3.0, 1.6]), np.pi / 2)
    assert len(calls) < 20


def test_no_bracket_is_refused():
    with pytest.raises(BadParameter, match="no sign change between 1 and 2"):
        bracketed_roots(lambda x: x, [-1.0, 1.0], [1.0, 2.0])
    with pytest.raises(BadParameter, match="no sign change"):
        bracketed_roots(lambda x: x * np.nan, [-1.0], [1.0])


def test_steps_of_newton_are_no_longer_than_its_reach():
    places = []

    def gap(y):
        places.append(y[0])
        return y - 0.9

    found = newton(gap, lambda y: np.eye(1), np.zeros(1), tolerance=1e-12, max_steps=20, reach=0.25)
    assert found.y[0] == pytest.approx(0.9, abs=1e-12)
    assert np.abs(np.diff(places)).max() <= 0.25 * (1 + 1e-12)
