"""Equations of activations without closed forms: what is compiled against the definition."""

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp
from scipy.special import erf

import dmft
from dmft.equations.averages.expectation import product_average
from dmft.equations.averages.passes import lower
from dmft.equations.symbols import h, h_star, j, l, r
from dmft.gaussian.derivative import derivative
from dmft.model import FIELD

Z = sp.Symbol("z", real=True)
TANH = sp.tanh(Z)
SIGMOID, SOFTPLUS = 1 / (1 + sp.exp(-Z)), sp.log(1 + sp.exp(Z))
ERF, RELU, HE2 = sp.erf(Z / sp.sqrt(2)), sp.Max(Z, 0), Z**2 - 1


def committee(student, teacher, p=2, k=1):
    return dmft.Model(dmft.Committee(student, p), dmft.Committee(teacher, k))


def rates_by_definition(start, sigma, slope, star, step=0.25, rate=0.0):
    """E[psi_j lambda_i] summed over a product of trapezoidal rules in all fields.

    `rate` is gamma / p, times which E[psi_j psi_l] is added.
    """
    p, k = start.p, start.k
    root = np.linalg.cholesky(start.Omega)
    x = np.arange(-9, 9 + step / 2, step)
    w = np.exp(-0.5 * x * x) * step / np.sqrt(2 * np.pi)
    grid = np.meshgrid(*[x] * (p + k), indexing="ij")
    weight = np.prod(np.meshgrid(*[w] * (p + k), indexing="ij"), axis=0)
    fields = np.tensordot(root, grid, axes=1)
    error = star(fields[p:]).mean(axis=0) - sigma(fields[:p]).mean(axis=0)
    psi = slope(fields[:p]) * error
    b = np.array([[(weight * psi[a] * fields[i]).sum() for i in range(p + k)] for a in range(p)])
    noise = rate * np.array(
        [[(weight * psi[a] * psi[c]).sum() for c in range(p)] for a in range(p)]
    )
    return {"M": b[:, p:], "Q": b[:, :p] + b[:, :p].T + noise}


@pytest.fixture(scope="module")
def start():
    return dmft.Overlaps(Q=[[1.3, 0.3], [0.3, 0.8]], M=[[0.4], [-0.2]], P=[[1.0]])


CASES = {
    "tanh, tanh": (TANH, TANH, np.tanh, lambda x: 1 - np.tanh(x) ** 2, np.tanh),
    "sigmoid, He2": (
        SIGMOID,
        HE2,
        lambda x: 1 / (1 + np.exp(-x)),
        lambda x: np.exp(-x) / (1 + np.exp(-x)) ** 2,
        lambda x: x * x - 1,
    ),
    "softplus, tanh": (
        SOFTPLUS,
        TANH,
        lambda x: np.log1p(np.exp(x)),
        lambda x: 1 / (1 + np.exp(-x)),
        np.tanh,
    ),
}


@pytest.mark.parametrize(
    "name",
    ["tanh, tanh", *(pytest.param(x, marks=pytest.mark.slow) for x in list(CASES)[1:])],
)
def test_drift_is_its_definition(name, start):
    student, teacher, *functions = CASES[name]
    equations = dmft.derive(committee(student, teacher), dmft.GradientFlow())
    exact = rates_by_definition(start, *functions)
    compiled = compiled_rates(equations, start)
    reference = equations.evaluate(start)
    for block in ("M", "Q"):
        np.testing.assert_allclose(compiled[block], exact[block], atol=1e-11)
        np.testing.assert_allclose(reference[block], exact[block], atol=1e-11)


@pytest.mark.parametrize("order", [1, 2])
def test_slopes_of_branches_with_poles(order):
    """The branch of z/(1 + |z|) on one side has a pole on the other."""
    at = np.array([-1.0, -0.999999, -0.3, 0.4, 1.0, 3.0])
    slope = sp.lambdify(FIELD, derivative(FIELD / (1 + sp.Abs(FIELD)), order), "numpy")
    with np.errstate(divide="ignore"):  # of the branch that is not chosen
        found = slope(at)
    wanted = (1 + np.abs(at)) ** -2.0 if order == 1 else -2 * np.sign(at) * (1 + np.abs(at)) ** -3.0
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.slow  # two tables; test_slopes_of_branches_with_poles fails for the same reason
def test_branches_with_poles_are_their_definition():
    """z/(1 + |z|): the branch of each side has a pole on the other, where a sign hides it."""
    q, m, rho, gamma = 0.9, 0.3, 1.0, 0.5
    nodes, weights = np.polynomial.legendre.leggauss(90)

    def panels(split):
        """Nodes and weights on [-9, 9], split at a point."""
        halves = ((-9.0, split), (split, 9.0))
        x = np.concatenate([(a + b) / 2 + (b - a) / 2 * nodes for a, b in halves])
        w = np.concatenate([(b - a) / 2 * weights for a, b in halves])
        return x, w * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)

    rates = np.zeros(2)
    width = np.sqrt(rho - m * m / q)
    for a, w in zip(*panels(0.0), strict=True):
        h = np.sqrt(q) * a
        b, v = panels(np.clip(-m * h / q / width, -8.9, 8.9))
        star = m * h / q + width * b
        psi = (1 + abs(h)) ** -2 * (np.log1p(abs(star)) - h / (1 + abs(h)))
        rates += w * np.array([v @ (psi * star), v @ (2 * psi * h + gamma * psi**2)])
    model = committee(Z / (1 + sp.Abs(Z)), sp.log(1 + sp.Abs(Z)), 1)
    equations, at = dmft.derive(model, dmft.SGD(gamma)), dmft.Overlaps([[q]], [[m]], [[rho]])
    found, error = equations.evaluate(at), equations.evaluate_error(at)
    for block, value in zip(("M", "Q"), rates, strict=True):
        assert error[block][0, 0] < 1e-4
        assert abs(found[block][0, 0] - value) < max(1e-11, error[block][0, 0])


@pytest.mark.parametrize("name", ["z sin", "erf"])
def test_rates_of_students_z_sin_match_quadrature(name):
    """By closed forms for the same teacher, on nodes for erf; expanded, this took minutes."""
    z_sin = (lambda x: x * np.sin(x)), (lambda x: np.sin(x) + x * np.cos(x))
    teachers = {"z sin": (Z * sp.sin(Z), z_sin[0]), "erf": (ERF, lambda x: erf(x / np.sqrt(2)))}
    teacher, star = teachers[name]
    start = dmft.Overlaps(Q=[[0.3]], M=[[0.1]], P=[[1.1]])
    equations = dmft.derive(committee(Z * sp.sin(Z), teacher, 1), dmft.SGD(0.5))
    rates, claims = equations.evaluate(start), equations.evaluate_error(start)
    exact = rates_by_definition(start, *z_sin, star, rate=0.5)
    assert claims["Q"].max() < {"z sin": 1e-12, "erf": 1e-2}[name]
    for block in ("M", "Q"):
        np.testing.assert_array_less(np.abs(rates[block] - exact[block]), claims[block] + 1e-14)


def compiled_rates(equations, start):
    problem = dmft.build(equations)
    state = np.concatenate([start.Q.ravel(), start.M.ravel()])
    constants = np.concatenate([start.P.ravel(), np.ones(start.p + start.k)])
    out = np.empty_like(state)
    problem.rhs(0.0, state, np.array([start.p, start.k]), constants, out)
    return {"Q": out[: start.p**2].reshape(start.Q.shape), "M": out[start.p**2 :].reshape(-1, 1)}


@pytest.mark.slow
def test_kinks_inside_an_activation(start):
    # tanh(max(z, 0)): the second derivative has a Dirac part, the first one a jump.
    equations = dmft.derive(committee(sp.tanh(sp.Max(Z, 0)), RELU), dmft.GradientFlow())
    compiled, reference = compiled_rates(equations, start), equations.evaluate(start)
    risk = dmft.population_risk(equations.model)
    assert risk(Q=start.Q, M=start.M, P=start.P) > 0
    for block in ("M", "Q"):
        np.testing.assert_allclose(compiled[block], reference[block], atol=1e-10)
    # The drift is the gradient of the risk (theory/one_pass A.1), here by central differences.
    p, step = start.p, 1e-5
    R_M, G = np.empty((p, 1)), np.empty((p, p))
    for a in range(p):
        R_M[a] = difference(risk, start, "M", (a, 0), step)
        for b in range(p):
            G[a, b] = difference(risk, start, "Q", (a, b), step) * (2 if a == b else 1)
    np.testing.assert_allclose(compiled["M"], -p * (R_M @ start.P + G @ start.M), atol=1e-7)


def difference(risk, start, block, place, step):
    values = []
    for sign in (1, -1):
        Q, M = np.array(start.Q), np.array(start.M)
        target = Q if block == "Q" else M
        target[place] += sign * step
        if block == "Q" and place[0] != place[1]:
            target[place[::-1]] += sign * step
        values.append(risk(Q=Q, M=M, P=start.P))
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("t_max", [1.5, pytest.param(3.0, marks=pytest.mark.slow)])
def test_flow_against_another_integrator(start, t_max):
    equations = dmft.derive(committee(TANH, TANH), dmft.GradientFlow())
    run = dmft.solve(equations, start, t_max=t_max, rtol=1e-9, atol=1e-12, save_at=3)

    def rhs(t, y):
        here = dmft.Overlaps(Q=y[:4].reshape(2, 2), M=y[4:].reshape(2, 1), P=[[1.0]])
        slope = lambda x: 1 - np.tanh(x) ** 2  # noqa: E731
        rates = rates_by_definition(here, np.tanh, slope, np.tanh, step=0.36)
        return np.concatenate([rates["Q"].ravel(), rates["M"].ravel()])

    y0 = np.concatenate([start.Q.ravel(), start.M.ravel()])
    witness = solve_ivp(rhs, (0.0, t_max), y0, method="DOP853", rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(run.Q[-1].ravel(), witness.y[:4, -1], atol=1e-8)
    np.testing.assert_allclose(run.M[-1].ravel(), witness.y[4:, -1], atol=1e-8)


def test_the_perfect_student_does_not_move():
    perfect = dmft.Overlaps(Q=np.eye(2), M=np.eye(2), P=np.eye(2))
    equations = dmft.derive(committee(TANH, TANH, 2, 2), dmft.GradientFlow())
    rates = equations.evaluate(perfect)
    assert max(np.abs(rates["Q"]).max(), np.abs(rates["M"]).max()) < 1e-14
    assert dmft.population_risk(equations.model)(perfect.Q, perfect.M, perfect.P) < 1e-14


def test_claimed_errors():
    closed = product_average([FIELD**2, FIELD], [h[j], h_star[r]])
    tabled = product_average([sp.tanh(FIELD), FIELD**2], [h[j], h_star[r]])
    half = product_average([sp.tanh(FIELD), sp.tanh(FIELD)], [h[j], h[l]])
    assert lower(closed).error == 0.0
    assert 0.0 < lower(tabled).error < 1e-10
    assert 0.0 < lower(half).error < 1e-10


def test_latex_says_which_averages_have_no_closed_form():
    text = dmft.derive(committee(TANH, TANH), dmft.GradientFlow()).latex()
    assert "averages have no elementary closed form" in " ".join(text.split())
    assert r"\langle \sigma'(z_{1})\,\sigma'(z_{2}) \rangle" in text
    assert "PairTable" not in text


def test_a_run_beyond_its_tables_ends_as_left_domain():
    # Fields of standard deviation 40 are beyond the tables.
    wide = dmft.Overlaps(Q=1600 * np.eye(2), M=np.zeros((2, 1)), P=[[1.0]])
    equations = dmft.derive(committee(TANH, TANH), dmft.GradientFlow())
    assert np.isnan(compiled_rates(equations, wide)["Q"]).any()
    assert dmft.solve(equations, wide, t_max=1.0).status == "left_domain"


@pytest.mark.slow
@pytest.mark.parametrize("teacher", [ERF, RELU, HE2])
@pytest.mark.parametrize(
    "student",
    [SIGMOID, SOFTPLUS, Z * SIGMOID, Z * (1 + ERF) / 2, sp.sin(Z) * sp.exp(-(Z**2)), sp.Abs(TANH)],
)
def test_students_of_any_activation_learn_from_any_teacher(student, teacher, start):
    equations = dmft.derive(committee(student, teacher), dmft.GradientFlow())
    compiled, reference = compiled_rates(equations, start), equations.evaluate(start)
    for block in ("M", "Q"):
        np.testing.assert_allclose(compiled[block], reference[block], atol=1e-10)
    run = dmft.solve(equations, start, t_max=2.0)
    assert run.status == "ok"
    assert np.all(np.diff(run.risk) < 1e-9)
