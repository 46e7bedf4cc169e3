"""Students that saturate under teachers that jump: SGD rates against samples of the definition."""

import numpy as np
import pytest
import sympy as sp

import dmft

z = sp.Symbol("z", real=True)
BOUND = sp.Piecewise((-1, z < -1), (z, z < 1), (1, True))
STUDENTS = {
    "tanh": (sp.tanh(z), np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "hard tanh": (BOUND, lambda x: np.clip(x, -1, 1), lambda x: 1.0 * (np.abs(x) < 1)),
}
TEACHERS = {"sign": (sp.sign(z), np.sign), "step": (sp.Heaviside(z), lambda x: np.heaviside(x, 0))}


@pytest.mark.cases(2)
@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("student", STUDENTS)
def test_rates_of_sgd(student, teacher):
    activation, f, slope = STUDENTS[student]
    target, g = TEACHERS[teacher]
    model = dmft.Model(dmft.Committee(activation, 2), dmft.Committee(target, 1), 0.1)
    rows = np.array([[1.0, 0.2, 0.1], [-0.3, 0.9, 0.2], [0.4, 0.5, 0.8]])
    O = rows @ rows.T  # noqa: E741
    start = dmft.Overlaps(O[:2, :2], O[:2, 2:], O[2:, 2:])
    rates = dmft.derive(model, dmft.SGD(0.8)).evaluate(start)
    rng, parts = np.random.default_rng(2), []
    for _ in range(20):
        fields = rng.standard_normal((10_000, 3)) @ rows.T
        h, star = fields[:, :2], fields[:, 2]
        noise = np.sqrt(0.1) * rng.standard_normal(star.size)
        psi = slope(h) * (g(star) + noise - f(h).mean(axis=1))[:, None]
        B = psi.T @ fields / star.size
        dQ = B[:, :2] + B[:, :2].T + 0.4 * psi.T @ psi / star.size
        parts.append(np.hstack([dQ, B[:, 2:]]))
    mean, spread = np.mean(parts, axis=0), np.std(parts, axis=0, ddof=1) / np.sqrt(20)
    found = np.hstack([rates["Q"], rates["M"]])
    assert np.all(np.abs(found - mean) < 4.5 * spread)
