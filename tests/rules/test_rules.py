"""Rules written with vectors: refusals, witnesses, one step by Monte Carlo, simulations."""

import copy
import importlib.util
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from scipy import stats

import dmft
from dmft import laws
from dmft.equations.rules.forms import linear_in_parallel
from dmft.equations.rules.latex import printed, row_names
from dmft.equations.views.collected import PI
from dmft.equations.views.text import printed_definitions
from dmft.errors import BadParameter
from dmft.literature import rules as lit
from dmft.rules import Random, Rows, View, copies, fixed, gram, mean, views

SPEC = importlib.util.spec_from_file_location("vectors", Path(__file__).parent / "vectors.py")
known = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(known)
z = sp.Symbol("z", real=True)


def sigma(y):
    return sp.erf(y / sp.sqrt(2))


# What is refused ------------------------------------------------------------------------------


def nonlinear():
    w, x = Rows("w"), View("x")
    return w * x


def of_coordinates():
    return sp.sign(Rows("w") + View("x"))


def kernel():
    x, y = views("x y", cov=[[1, 0], [0, 1]])
    return x @ y


def replaced_and_moving():
    return View("x", replaces={Rows("w"): Random("c", laws.Normal())})


def extensive():
    return Rows("w", sp.Symbol("n"))


def a_number():
    return dmft.UpdateField({Rows("w"): 3}, learning_rate=1)


def fixed_moves():
    return dmft.UpdateField({fixed("B"): View("x")}, learning_rate=1)


def not_positive():
    return views("x y", cov=[[1, 2], [2, 1]])


def sum_with_number():
    return View("x") + 1


def unlawful():
    return Random("c", 3.0)


def law_of_fields():
    w, x = Rows("w"), View("x")
    return Random("a", laws.Normal(mean=w @ x))


def other_numbers():
    return dmft.UpdateField({Rows("w"): View("x")}, learning_rate=1, weight_decay=0.1)


def perturbed_weights():
    return (Rows("w") + 0.1 * View("n")) @ View("x")


def other_blocks():
    w, x, y = Rows("w"), View("x", fractions=[0.5, 0.5]), View("y", fractions=[0.3, 0.7])
    return dmft.UpdateField({w: (w @ x) * y}, learning_rate=1)


def matrix_of_covariances():
    return View("x", scale=sp.Matrix([[2, 1], [1, 2]]))


def large_batch():
    return dmft.UpdateField({Rows("w"): View("x")}, learning_rate=1, batch_size=sp.Symbol("d"))


def fast_scalar():
    w, x, b = Rows("w"), View("x"), sp.Symbol("b", real=True)
    return dmft.UpdateField({w: x}, scalars={b: sp.Symbol("d") * (w @ x - b)}, learning_rate=1)


def long_latent():
    w, u = Rows("w"), fixed("u")
    x = View("x", adds={u: sp.sqrt(sp.Symbol("d")) * Random("c", laws.Rademacher())})
    return dmft.UpdateField({w: (w @ x) * x}, learning_rate=1)


def pole():
    w, B, x = Rows("w"), fixed("B"), View("x")
    return dmft.UpdateField({w: (B @ x) / (w @ x - sp.Symbol("a")) * x}, learning_rate=1)


def zero_row_on_a_sphere():
    rule = lit.independent_component(laws.Rademacher())
    return dmft.solve(dmft.derive(rule), dmft.Overlaps([[0.0]], [[0.0]]), 1.0)


def parallel_rows():
    w, x = Rows("w", 2), View("x")
    rule = dmft.UpdateField(
        {row: (row @ x) * x for row in w}, learning_rate=1, constraint="orthonormal"
    )
    start = dmft.Overlaps(np.ones((2, 2)), np.zeros((2, 0)), np.zeros((0, 0)))
    return dmft.derive(rule).evaluate(start)


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (perturbed_weights, "kernels between views"),
        (other_blocks, "do not commute"),
        (matrix_of_covariances, "do not commute"),
        (large_batch, "batches of order d"),
        (fast_scalar, r"by O\(1\) in one step"),
        (long_latent, r"latents of length sqrt\(d\)"),
        (pole, "no finite mean"),
        (zero_row_on_a_sphere, "length zero"),
        (parallel_rows, "start with Q = 1"),
        (nonlinear, "linear in its vectors"),
        (of_coordinates, "law of the coordinates"),
        (kernel, "kernels between views"),
        (replaced_and_moving, "may move"),
        (extensive, "must be a number here"),
        (a_number, "combination of views and rows"),
        (fixed_moves, "declared fixed"),
        (not_positive, "positive semidefinite"),
        (sum_with_number, "cannot be added"),
        (unlawful, "must be one of dmft.laws"),
        (law_of_fields, "depends on fields"),
        (other_numbers, "write everything else into the steps"),
    ],
)
def test_refusals(declare, words):
    with pytest.raises(BadParameter, match=words):
        declare()


def test_views_that_are_equal_have_a_singular_covariance():
    """A row that follows what its own view tells, beside another view of the same input."""
    one, two = views("x n", cov=[[1, 1], [1, 1]])
    w, B = Rows("w"), fixed("B")
    rule = dmft.UpdateField({w: (B @ two - w @ one) * one}, learning_rate=sp.Rational(1, 10))
    start = dmft.Overlaps([[0.7]], [[0.2]])
    # As least squares of one input: dM/dt = P - M.
    assert dmft.derive(rule).evaluate(start)["M"].item() == pytest.approx(0.8, rel=1e-12)


def test_masked_views_of_a_replaced_direction():
    """The shared vector mask_replaced; moments of q c + sqrt(q (1 - q)) xi and of its partner."""
    w, u, q = Rows("w"), fixed("u"), sp.Rational(7, 10)
    c, xi = Random("c", laws.Rademacher()), Random("xi", laws.Normal())
    latents = [{u: c}, {u: q * c + sp.sqrt(q * (1 - q)) * xi}]
    x, seen = views("x seen", cov=[[1, q], [q, q]], replaces=latents)
    measures = {"fourth": (u @ seen) ** 4, "mixed": (w @ seen) ** 3 * (u @ seen)}
    rule = dmft.UpdateField({w: (w @ x) * x}, learning_rate=0.01, measures=measures)
    run = dmft.solve(dmft.derive(rule), dmft.Overlaps([[1.0]], [[0.5]]), 0.1, save_at=2)
    # The rows of the masked view: of variance q, with means q M c and q c.
    own, both, M, q = 0.7 - 0.35**2, 0.35 - 0.7 * 0.35, 0.5, 0.7
    mixed = q**4 * M**3 + 3 * (q * M) ** 2 * both + 3 * q**2 * M * own + 3 * own * both
    assert run.fourth[0] == pytest.approx(3 * q**2 - 2 * q**4, rel=1e-10)
    assert run.mixed[0] == pytest.approx(mixed, rel=1e-10)
    assert abs(run.mixed[0] - 0.665059282673012) < 4 * 0.035929219716059786
    with pytest.raises(BadParameter, match="one mapping for each view"):
        views("x seen", cov=[[1, q], [q, q]], replaces=latents[:1])


def test_fields_of_replaced_rows_are_their_coordinates():
    """u1.x = c1 and u2.x = c2 for any overlap of the rows, without nodes."""
    w, u, g = Rows("w"), fixed("u", 2), 0.4
    c1, c2 = laws.Discrete({-1: 0.4, 1: 0.6}), laws.Discrete({-0.5: 0.8, 2.0: 0.2})
    x = View("x", replaces={u[0]: Random("c1", c1), u[1]: Random("c2", c2)})
    eqs = dmft.derive(dmft.UpdateField({w: sp.sign(u[0] @ x) * (u[1] @ x) * x}, learning_rate=g))
    start = dmft.Overlaps([[1.0]], [[0.3, 0.2]], [[1.2, 0.4], [0.4, 0.9]])
    found = eqs.evaluate(start)
    K = np.linalg.solve(start.P, start.M[0])
    second = 0.8 * 0.25 + 0.2 * 4.0  # E[c2^2]; E[sign(c1)] = 0.2, E[c2] = 0
    np.testing.assert_allclose(found["M"], [[0.0, 0.2 * second]], atol=1e-14)
    np.testing.assert_allclose(found["Q"], [[2 * K[1] * 0.2 * second + g * second]], rtol=1e-13)
    assert not eqs.averages


@pytest.mark.parametrize("kind", ["closed", "nodes"])
def test_scales_of_views_may_be_random(kind):
    """Given a, fields are normal: quadrature over a, and over h where there is no closed form."""
    w, B, a = Rows("w"), fixed("B"), Random("a", laws.Uniform(0.5, 1.5))
    x, Q, M = View("x", scale=a), 0.9, 0.3
    f = sigma if kind == "closed" else sp.tanh
    eqs = dmft.derive(dmft.UpdateField({w: (a * sigma(B @ x) - f(w @ x)) * x}, learning_rate=0.6))
    start = dmft.Overlaps([[Q]], [[M]])
    at, weight = np.polynomial.legendre.leggauss(40)
    a, weight = 1 + at / 2, weight / 2
    z = np.linspace(-9, 9, 1801)
    v = np.exp(-(z**2) / 2)
    slope = 1 - np.tanh(np.outer(a, np.sqrt(Q) * z)) ** 2
    slopes = {"closed": np.sqrt(2 / np.pi / (1 + a**2 * Q)), "nodes": slope @ (v / v.sum())}
    wanted = weight @ (np.sqrt(2 / np.pi) * a**3 / np.sqrt(1 + a**2) - a**2 * M * slopes[kind])
    given = {"nodes": 100}
    found, error = eqs.evaluate(start, **given)["M"], eqs.evaluate_error(start, **given)["M"]
    assert abs(found[0, 0] - wanted) < 1e-9 + error[0, 0] < 1e-6
    run = dmft.solve(eqs, start, 1e-3, save_at=2)
    np.testing.assert_allclose((run.M[1] - run.M[0]) / 1e-3, wanted, atol=2e-3)


def test_scales_may_contain_fields_of_earlier_views():
    """Given x, fields of y are normal: moments by hand, and quadrature over B.x."""
    w, B, s, g = Rows("w"), fixed("B"), Random("s", laws.Rademacher()), 0.4
    (Q, M, P), start = (0.9, 0.3, 1.2), dmft.Overlaps([[0.9]], [[0.3]], [[1.2]])

    def found(step):
        return dmft.derive(dmft.UpdateField({w: step}, learning_rate=g)).evaluate(start)

    y = View("y", scale=w @ View("x"))
    rates = found((w @ y) * y + (B @ y) * B)
    np.testing.assert_allclose(rates["Q"], [[2 * Q**2 + g * 3 * Q**3]], rtol=1e-13)
    np.testing.assert_allclose(rates["M"], [[Q * M]], rtol=1e-13)
    x = View("x", adds={B: s})  # s is not independent of the scale
    y = View("y", scale=1 + (w @ x) / 2)
    wanted = Q * (P + (M**2 * P + Q * P + 2 * M**2) / 4)
    np.testing.assert_allclose(found(s * (w @ y) ** 2 * x)["M"], [[wanted]], rtol=1e-13)
    y = View("y", scale=sp.Abs(B @ View("x")))
    z = np.linspace(-9, 9, 1801)
    v, a = np.exp(-(z**2) / 2), np.sqrt(P) * z
    wanted = (np.sqrt(2 / np.pi) * a**2 * M / np.sqrt(1 + a**2 * P)) @ v / v.sum()
    drift = found(sigma(B @ y) * (w @ y) * w)["Q"][0, 0] / (2 * Q)
    assert abs(drift - wanted) < 1e-4


def test_long_functions_read_the_fields_in_scales():
    """Functions of more than 60 operations, which nodes open; a grid of B.x and of the noise."""
    w, B, x = Rows("w"), fixed("B"), View("x")
    y, (Q, M, P) = View("y", scale=1 + (B @ x) / 2), (0.9, 0.3, 1.2)
    terms = [(i, j, (-1) ** (i * j + i) / (7 * (i + j + 1))) for i in range(4) for j in range(5)]

    def inner(h, k):
        return sum(sp.Rational(c).limit_denominator(99) * h**i * k**j for i, j, c in terms)

    assert sp.tanh(inner(w @ y, B @ x)).count_ops() > 60
    eqs = dmft.derive(dmft.UpdateField({w: sp.tanh(inner(w @ y, B @ x)) * w}, learning_rate=0.4))
    z = np.linspace(-7, 7, 701)
    weight = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    k = np.sqrt(P) * z[:, None]
    h = (1 + k / 2) * np.sqrt(Q) * z
    value = np.tanh(sum(c * h**i * k**j for i, j, c in terms))
    found = eqs.evaluate(dmft.Overlaps([[Q]], [[M]], [[P]]))["M"][0, 0]
    assert abs(found - M * (weight @ value @ weight)) < 1e-4


def test_views_that_share_a_random_scale():
    """E tanh(h) h and E tanh(h)^2 given a are multiplied, then averaged over a."""
    w, a, Q, g = Rows("w"), Random("a", laws.Uniform(0.5, 1.5)), 1.2, 0.5
    h, k = (w @ View(name, scale=a) for name in "xy")
    rule = dmft.UpdateField({w: sp.tanh(h) * h * sp.tanh(k) * k * w}, learning_rate=g)
    start = dmft.Overlaps([[Q]], np.zeros((1, 0)), np.zeros((0, 0)))
    at, weight = np.polynomial.legendre.leggauss(40)
    z = np.linspace(-9, 9, 1801)
    v, h = np.exp(-(z**2) / 2), np.outer(1 + at / 2, np.sqrt(Q) * z)
    wanted = 2 * Q * (weight / 2) @ ((np.tanh(h) * h) @ v / v.sum()) ** 2
    found = dmft.derive(rule).evaluate(start, nodes=48)["Q"][0, 0]
    assert abs(found - wanted) < 1e-4


JUMPS = {
    "clipped": (
        lambda h, k: sp.Max(-1, sp.Min(1, k - sp.tanh(h))),
        lambda h, k: np.clip(k - np.tanh(h), -1, 1),
    ),
    "tanh h = 1 - tanh k": (
        lambda h, k: sp.Heaviside(1 - sp.tanh(h) - sp.tanh(k)),
        lambda h, k: 1.0 * (np.tanh(h) + np.tanh(k) < 1),
    ),
    "function of a sign": (
        lambda h, k: sp.sign(k) / (1 + sp.exp(sp.sign(k) * h)),
        lambda h, k: np.sign(k) / (1 + np.exp(np.sign(k) * h)),
    ),
}


@pytest.mark.parametrize("name", JUMPS)
def test_jumps_along_curves(name):
    """Averages over a fine grid of both fields."""
    w, B, x, P, g = Rows("w"), fixed("B"), View("x"), 1.3, 0.5
    Q, M, z = 0.9, 0.4, np.linspace(-7, 7, 1501)
    h = np.sqrt(Q) * z[:, None]
    k = M / Q * h + np.sqrt(P - M**2 / Q) * z
    psi, value = JUMPS[name]
    weight = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()

    def average(y):
        return weight @ y @ weight

    eqs = dmft.derive(dmft.UpdateField({w: psi(w @ x, B @ x) * x}, learning_rate=g))
    start = dmft.Overlaps([[Q]], [[M]], [[P]])
    found, claim = eqs.evaluate(start), eqs.evaluate_error(start)
    assert max(claim["Q"].max(), claim["M"].max()) < 1e-3
    y = value(h, k)
    wanted = {"M": average(y * k), "Q": 2 * average(y * h) + g * average(y**2)}
    for block, rate in wanted.items():
        assert abs(found[block][0, 0] - rate) < 1e-4


@pytest.mark.parametrize("way", [1, -1])
def test_signs_of_parallel_forms_are_linear_in_one_of_them(way):
    y = sp.Symbol("y", real=True)
    for gap in (-2, 3):
        product = sp.sign(y) * sp.sign(way * (y + gap))
        found = linear_in_parallel(y * product)
        assert found != y * product
        for value in (-4.0, -2.5, -1.0, 1.0, 2.5):
            here = y * product
            assert sp.expand(found).subs(y, value) == here.subs(y, value)


def test_removable_poles_are_none():
    """Quotients that stay bounded, and denominators without zeros."""
    w, B, x = Rows("w"), fixed("B"), View("x")
    h, k = w @ x, B @ x
    for step in (sp.tanh(h) / h, k / (1 + h**2), h / sp.Abs(h), k / sp.Symbol("a")):
        dmft.UpdateField({w: step * x}, learning_rate=1)


def test_steps_of_infinite_variance_are_reported():
    """E exp(2 h^2/5) is finite up to Q = 5/4."""
    w, B, x = Rows("w"), fixed("B"), View("x")
    rule = dmft.derive(
        dmft.UpdateField({w: sp.exp((w @ x) ** 2 / 5) * (B @ x) * x}, learning_rate=1)
    )
    assert np.isfinite(rule.evaluate(dmft.Overlaps([[1.0]], [[0.2]]))["Q"])
    with pytest.warns(dmft.AccuracyWarning, match="not finite"):
        assert np.isnan(rule.evaluate(dmft.Overlaps([[2.0]], [[0.2]]))["Q"])


def test_latents_use_earlier_views():
    w, x = Rows("w"), View("x")
    View("y", adds={w: w @ x})
    late = View("late")
    late.number += 1000
    with pytest.raises(BadParameter, match="earlier views"):
        View("z", adds={w: w @ late})


def test_starts_and_parameters_are_checked():
    eqs = dmft.derive(lit.contrastive_divergence())
    with pytest.raises(BadParameter, match="the start has no b"):
        eqs.evaluate(dmft.Overlaps([[1.0]], [[0.1]]))
    with pytest.raises(dmft.errors.ShapeMismatch, match="moving rows"):
        eqs.evaluate(dmft.Overlaps(np.eye(2), np.zeros((2, 1)), scalars={"b": 0.0}))
    with pytest.raises(BadParameter, match="its own model"):
        dmft.derive(lit.perceptron_rule(), dmft.SGD(0.1))
    p = sp.Symbol("p", real=True)
    free = dmft.derive(lit.dropout(keep=p))
    with pytest.raises(BadParameter, match="pass p="):
        free.evaluate(dmft.Overlaps(np.eye(2), np.zeros((2, 1))))


# Witnesses ------------------------------------------------------------------------------------


def random_step(generator, x, rows, extra=0):
    """A polynomial times error functions of the fields of a view, as the step of a row."""
    h = [row @ x for row in rows]
    a, b, c = generator.normal(size=3)
    return (a * h[0] + b * sigma(h[-1]) * h[0] + c * h[-1] ** 2 + extra) * x


@pytest.mark.cases(6)
@pytest.mark.parametrize("seed", range(20))
def test_witnesses(seed):
    """A Gaussian latent is a spike of the covariance; discrete latents and masks are averages."""
    generator = np.random.default_rng(seed)
    omega, g = generator.uniform(0.2, 2.0), generator.uniform(0.1, 1.0)
    a = generator.normal(size=(2, 2))
    Omega = a @ a.T + 0.3 * np.eye(2)
    Omega /= np.sqrt(np.outer([1.0, Omega[1, 1]], [1.0, Omega[1, 1]]))
    start = dmft.Overlaps(Omega[:1, :1], Omega[:1, 1:], Omega[1:, 1:])
    w, u = Rows("w"), fixed("u")

    def rates(x, more=0):
        state = np.random.default_rng(seed + 100)
        rule = dmft.UpdateField({w: random_step(state, x, (w, u), more)}, learning_rate=g)
        return dmft.derive(rule).evaluate(start)

    # Along u, noise of variance 1 and a latent of variance omega, or a latent of both.
    added = rates(View("x", adds={u: Random("c", laws.Normal(variance=omega))}))
    replaced = rates(View("x", replaces={u: Random("c", laws.Normal(variance=1 + omega))}))
    for block in "QM":
        np.testing.assert_allclose(added[block], replaced[block], rtol=1e-10, atol=1e-12)
    plain = rates(View("x"))
    unit = rates(View("x", replaces={u: Random("c", laws.Normal())}))
    for block in "QM":
        np.testing.assert_allclose(plain[block], unit[block], rtol=1e-10, atol=1e-12)
    # A mixture is the average over its clusters.
    p = generator.uniform(0.2, 0.8)
    s = Random("s", laws.Discrete({1.0: p, -0.5: 1 - p}))
    mixture = rates(View("x", adds={u: s}))
    clusters = [rates(View("x", adds={u: c})) for c in (1.0, -0.5)]
    for block in "QM":
        average = p * clusters[0][block] + (1 - p) * clusters[1][block]
        np.testing.assert_allclose(mixture[block], average, rtol=1e-10, atol=1e-12)
    # A mask that multiplies a step multiplies drift by its mean and noise by its second moment.
    m = Random("m", laws.Bernoulli(p))
    x = View("x")
    step = random_step(np.random.default_rng(seed + 100), x, (w, u))
    masked = dmft.derive(dmft.UpdateField({w: m * step}, learning_rate=g)).evaluate(start)
    for block in "QM":
        np.testing.assert_allclose(masked[block], p * plain[block], rtol=1e-10, atol=1e-12)


# One step by Monte Carlo of its definition -----------------------------------------------------


def monte_carlo(step, latents, Omega, cov, g, n, generator):
    """Rates of one moving row beside one fixed row, by samples of the fields of two views."""
    root = np.linalg.cholesky(Omega)
    noise = np.linalg.cholesky(cov)
    lam = np.einsum("ij,njb,ab->nia", root, generator.standard_normal((n, 2, 2)), noise)
    lam += Omega[:, 1][None, :, None] * latents[:, None, :]
    psi, Phi = step(lam, latents)
    drift = np.einsum("na,nia->ni", psi, lam) + Phi[:, None] * Omega[0]
    square = np.einsum("na,ab,nb->n", psi, cov, psi)
    rows = np.stack([2 * drift[:, 0] + g * square, drift[:, 1]], axis=1)
    return rows.mean(0), rows.std(0) / np.sqrt(n)


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(s, marks=pytest.mark.slow) for s in range(4, 200))]
)
def test_one_step_of_random_rules(seed):
    """Two correlated views, a shared discrete latent, a mask, and a row that pulls."""
    generator = np.random.default_rng([seed, 5])
    a = generator.normal(size=(2, 2))
    Omega = a @ a.T / 2 + 0.3 * np.eye(2)
    tau, p, g = generator.uniform(-0.7, 0.7), generator.uniform(0.2, 0.8), 0.6
    cov = np.array([[1.0, tau], [tau, 1.3]])
    A = generator.normal(size=6).round(3)
    w, u = Rows("w"), fixed("u")
    c, m = Random("c", laws.Rademacher()), Random("m", laws.Bernoulli(p))
    x, y = views("x y", cov=cov.tolist(), adds={u: 0.7 * c})
    h, k, j = w @ x, u @ x, w @ y
    kind = seed % 4
    first = [A[0] * sigma(h) + A[1] * k, A[0] * sp.sign(k) * h, A[0] * sp.tanh(h + j), h * j][kind]
    second = [A[2] * h * m, A[2] * sp.Heaviside(h) * m, A[3] * m * k, sigma(j) * k][kind]
    rule = dmft.UpdateField({w: first * x + second * y - A[4] * h * j * w}, learning_rate=g)
    eqs = dmft.derive(rule)
    start = dmft.Overlaps(Omega[:1, :1], Omega[:1, 1:], Omega[1:, 1:])
    found = eqs.evaluate(start, **({"nodes": 64} if eqs.averages else {}))
    n = 400_000
    latents = 0.7 * generator.choice([-1.0, 1.0], n)[:, None] * np.ones(2)
    mask = generator.random(n) < p
    from scipy.special import erf

    def step(lam, _):
        H, K, J = lam[:, 0, 0], lam[:, 1, 0], lam[:, 0, 1]
        s = lambda v: erf(v / np.sqrt(2))  # noqa: E731
        one = [A[0] * s(H) + A[1] * K, A[0] * np.sign(K) * H, A[0] * np.tanh(H + J), H * J][kind]
        two = [A[2] * H * mask, A[2] * (H > 0) * mask, A[3] * mask * K, s(J) * K][kind]
        return np.stack([one, two], axis=1), -A[4] * H * J

    mean_, error = monte_carlo(step, latents, Omega, cov, g, n, generator)
    z_ = (np.array([found["Q"][0, 0], found["M"][0, 0]]) - mean_) / error
    assert np.all(abs(z_) < 4.5), z_


# Simulations ----------------------------------------------------------------------------------


@pytest.mark.cases("overlaps")
@pytest.mark.parametrize("method", ["weights", "overlaps"])
def test_simulations_follow_the_equations(method):
    rule = lit.adversarial_network(laws.Rademacher(), 1.0, 0.8, 0.4, 0.3, 0.2)
    start = dmft.Overlaps([[0.3, 0.02], [0.02, 0.5]], [[0.1], [0.15]])
    run = dmft.solve(dmft.derive(rule), start, 1.0, save_at=3)
    runs = dmft.simulate(rule, dim=400, t_max=1.0, seeds=24, start=start, method=method, save_at=3)
    for name in "QM":
        allowed = 4 * runs.stderr[name] + 5 / 400
        assert np.all(abs(runs.mean[name] - run[name]) < allowed), name


def test_the_chain_has_the_law_of_weights():
    """Kolmogorov-Smirnov over entries after single steps in R^12, two views and a latent."""
    w, u = Rows("w"), fixed("u")
    c = Random("c", laws.Laplace(0.7))
    x, y = views("x y", cov=[[1, 0.5], [0.5, 1.2]], replaces={u: c})
    rule = dmft.UpdateField(
        {w: (w @ y) * x + sp.tanh(w @ x) * y - 0.3 * (w @ x) * w}, learning_rate=2.0
    )
    start = dmft.Overlaps([[0.8]], [[0.4]])
    ends = [
        dmft.simulate(
            rule, dim=12, t_max=3 * 2.0 / 12, seeds=1500, start=start, method=m, save_at=2
        )
        for m in ("weights", "overlaps")
    ]
    for name in "QM":
        one, other = (np.ravel(e.runs[name][:, -1]) for e in ends)
        assert stats.ks_2samp(one, other).pvalue > 1e-3, name


def test_simulations_are_reproducible():
    rule, start = lit.perceptron_rule(), dmft.Overlaps([[1.0]], [[0.1]])
    runs = [
        dmft.simulate(rule, dim=30, t_max=1.0, seeds=seeds, start=start, save_at=3).runs.Q
        for seeds in (3, [0, 1, 2], [2])
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0][2:], runs[2])


# Verbs ----------------------------------------------------------------------------------------


def test_fixed_points_and_modes_of_oja():
    """Q = 1 + g/2, M^2 = 1 - g/(2 omega); the empty state grows at omega - g/2."""
    omega, g = 2.0, 0.5
    eqs = dmft.derive(lit.principal_components([omega], "oja", sp.Symbol("g", positive=True)))
    found = dmft.fixed_points(eqs, g=g)
    values = sorted({round(abs(point.overlaps.M[0, 0]), 9) for point in found})
    assert values[-1] == pytest.approx((1 - g / (2 * omega)) ** 0.5, abs=1e-8)
    modes = dmft.stability(eqs, dmft.Overlaps([[1 + g / 2]], [[0.0]]), g=g)
    assert modes.growth_rate == pytest.approx(omega - g / 2, abs=1e-8)


@pytest.mark.slow
def test_parameters_follow_time_and_measures():
    replay = sp.Symbol("replay", real=True)
    eqs = dmft.derive(lit.continual_learning(replay))
    heads = {"a0": 0.2, "a1": -0.1, "b0": 0.15, "b1": 0.25}
    start = dmft.Overlaps(
        [[0.2, 0.01], [0.01, 0.15]], [[0.05, 0.02], [-0.03, 0.04]], [[1, 0.5], [0.5, 1]],
        scalars=heads,
    )  # fmt: skip
    constant = dmft.solve(eqs, start, 4.0, save_at=3, replay=0.25)
    also = dmft.solve(eqs, start, 4.0, save_at=3, replay=0.25 + 0 * dmft.t)
    np.testing.assert_allclose(constant.M, also.M)
    moving = dmft.solve(eqs, start, 4.0, save_at=3, replay=dmft.t / 8)
    assert not np.allclose(constant.M, moving.M)
    measured = dmft.solve(eqs, start, 4.0, save_at=3, replay=sp.Symbol("first_risk"))
    assert str(measured.status) == "ok"
    with pytest.raises(BadParameter, match="may depend on t"):
        dmft.solve(eqs, start, 4.0, replay=sp.Symbol("nothing") + 1)


@pytest.mark.cases(2)
@pytest.mark.parametrize("method", ["weights", "overlaps"])
@pytest.mark.parametrize("kind", ["rate", "table", "coefficient"])
def test_simulations_follow_schedules(kind, method):
    w, u, x = Rows("w"), fixed("u"), View("x")
    target = sp.Symbol("target", real=True)
    rule = dmft.UpdateField({w: (target * (u @ x) - w @ x) * x}, learning_rate=0.3)
    table = dmft.Schedule([0.0, 1.0, 3.0], [0.8, 0.2, 0.2])
    given = {
        "rate": {"learning_rate": 0.8 / (1 + dmft.t), "target": 1.0},
        "table": {"learning_rate": table, "target": 1.0},
        "coefficient": {"target": 1 + sp.sin(3 * dmft.t)},
    }[kind]
    start = dmft.Overlaps([[1.0]], [[0.2]])
    run = dmft.solve(dmft.derive(rule), start, 3.0, save_at=4, **given)
    runs = dmft.simulate(
        rule, dim=400, t_max=3.0, seeds=24, start=start, method=method, save_at=4, **given
    )
    np.testing.assert_allclose(runs.t, run.t, atol=1 / 400)
    for name in ("Q", "M"):
        gap = getattr(runs.mean, name) - getattr(run, name)
        assert np.all(abs(gap) < 4 * getattr(runs.stderr, name) + 10 / 400)


def test_what_simulations_of_rules_do_not_follow():
    w, u, x = Rows("w"), fixed("u"), View("x")
    rate, target = sp.Symbol("gamma", positive=True), sp.Symbol("target", real=True)
    rule = dmft.UpdateField({w: (target * (u @ x) - rate * (w @ x)) * x}, learning_rate=rate)
    how = {"dim": 50, "t_max": 1.0, "start": dmft.Overlaps([[1.0]], [[0.2]])}
    table = dmft.Schedule([0.0, 1.0], [0.8, 0.2])
    with pytest.raises(BadParameter, match="contains its learning rate gamma"):
        dmft.simulate(rule, learning_rate=table, target=1.0, **how)
    with pytest.raises(BadParameter, match="only schedules of the learning rate"):
        dmft.simulate(rule, gamma=0.5, target=table, **how)
    with pytest.raises(BadParameter, match="may depend on t only"):
        dmft.simulate(rule, gamma=0.5, target=sp.Symbol("other"), **how)
    spread = sp.Symbol("spread", positive=True)
    x = View("x", replaces={u: Random("c", laws.Normal(variance=spread))})
    rule = dmft.UpdateField({w: (w @ x) * x - gram(w, w) * w}, learning_rate=0.5)
    with pytest.raises(BadParameter, match="batches, laws and covariances are constant"):
        dmft.simulate(rule, spread=1 + dmft.t, **how)


def test_runs_are_saved_drawn_and_continued(tmp_path):
    eqs = dmft.derive(lit.contrastive_divergence())
    start = dmft.Overlaps([[0.3]], [[0.1]], [[1.5]], scalars={"b": 0.2})
    run = dmft.solve(eqs, start, 2.0, save_at=5, nodes=24)
    run.save(tmp_path / "run.nc")
    again = dmft.load(tmp_path / "run.nc")
    np.testing.assert_array_equal(again.b, run.b)
    assert run.final.scalars == {"b": run.b[-1]}
    assert run.steps(dim=100)[-1] == pytest.approx(2.0 * 100 / 0.3)
    dmft.plot(run, path=tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 10_000


@pytest.mark.parametrize("method", ["weights", "overlaps"])
def test_final_states_of_simulations_have_blocks_and_scalars(method):
    """LMS with a bias on two blocks: dM_e = v_e (P_e - M_e), db = -b; runs go on from there."""
    w, B, b = Rows("w"), fixed("B"), sp.Symbol("b", real=True)
    v, start_M, P, rate = np.array([1.0, 0.25]), 0.1, np.array([0.3, 0.5]), 0.1
    x = View("x", scale=np.sqrt(v).tolist(), fractions=[0.4, 0.6])
    error = B @ x - w @ x - b
    rule = dmft.UpdateField({w: error * x}, scalars={b: error}, learning_rate=rate)
    start = dmft.Overlaps(
        np.array([0.4, 0.8])[:, None, None], np.full((2, 1, 1), start_M), P[:, None, None],
        scalars={"b": 0.5},
    )  # fmt: skip
    runs = dmft.simulate(rule, None, 100, 1.0, 8, start, method, save_at=3)
    for name in ("Q", "M"):
        total = runs.runs[f"block_{name}"].sum(axis=2)
        np.testing.assert_allclose(total, runs.runs[name], rtol=1e-12)
    ends = runs.final
    found = np.array([[*end.M.ravel(), end.scalars["b"]] for end in ends])
    decay = np.exp(-np.append(v, 1.0) * runs.t[-1])
    wanted = np.append(P - (P - start_M) * decay[:2], 0.5 * decay[2])
    error = found.std(axis=0, ddof=1) / np.sqrt(8)
    assert (np.abs(found.mean(axis=0) - wanted) < 4 * error + 5 / 100).all()
    more = dmft.simulate(rule, None, 100, 0.1, 1, ends[0], method, save_at=2)
    np.testing.assert_allclose(more.mean.block_M[0], ends[0].M, rtol=1e-9)


def test_equations_print_the_step_and_the_rows():
    text = dmft.derive(lit.principal_components([2, 1], "sanger")).latex()
    assert r"\Delta w_{1}" in text
    assert r"\frac{d G_{w_{1} w_{1}}}{dt}" in text
    assert "C_" not in text.split("In the limit")[1].split("G_")[0]
    assert text.count(r"\begin{align*}") == text.count(r"\end{align*}") > 2


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", ["perceptron", "contrastive", "independent_component"])
def test_printed_rates_are_the_rates_without_names_of_python(name, tmp_path):
    rule = {
        "perceptron": lambda: lit.perceptron_rule("adatron"),
        "contrastive": lambda: lit.contrastive(0.3, 1.2),
        "independent_component": lambda: lit.independent_component(laws.Laplace(0.5**0.5)),
    }[name]()
    eqs = dmft.derive(rule)
    text = eqs.latex()
    document = dmft.latex(tmp_path / "a.tex", eqs).read_text()
    document = re.sub(r"[,.](?=( \\\\)?\n)", "", document)  # which displays end with
    assert re.sub(r"[,.](?=( \\\\)?\n)", "", text).split("\n", 1)[1][:200] in document
    assert not re.search(r"Correlation[A-Z]|e-280", text + str(eqs))
    assert not re.search(r"growth|gram|\(values|x\[|10\^\{-(18|280)\}|\d\.\d{7}", text)
    names, start = row_names(eqs.model), dmft.Overlaps([[1.0]], [[0.4]], [[1.0]])
    shown = printed(printed_definitions(eqs.definitions), names, eqs.model)
    numbers = {"Q_1_1": 1, "M_1_1": sp.Rational(2, 5), "P_1_1": 1}
    at = {str(names[s]): numbers[s.name] for s in names}
    (cross,) = (str(names[s]) for s in names if s.name == "M_1_1")
    (rate,) = (d.expr for d in shown if str(d.target) == cross)
    inner = {str(d.target): d.expr for d in shown if d.role == "intermediate"}
    for table in (inner, at):
        rate = rate.subs({s: table[str(s)] for s in rate.free_symbols if str(s) in table})
    number = rate.subs(dict.fromkeys(rate.free_symbols - {PI}, eqs.algorithm.learning_rate))
    number = float(number.subs(PI, sp.pi))
    assert number == pytest.approx(eqs.evaluate(start)["M"][0, 0], rel=1e-12)


def test_orthonormal_rows_stay_so():
    """Subspace rule with Gram-Schmidt after each step, against the algorithm."""
    w, u = Rows("w", 2), fixed("u", 2)
    x = View(
        "x", replaces={u[r]: Random(f"c{r}", laws.Normal(variance=v)) for r, v in ((0, 3), (1, 2))}
    )
    rule = dmft.UpdateField(
        {row: (row @ x) * x for row in w}, learning_rate=0.2, constraint="orthonormal"
    )
    start = dmft.Overlaps(np.eye(2), [[0.4, 0.1], [-0.1, 0.3]])
    run = dmft.solve(dmft.derive(rule), start, 2.0, save_at=3)
    np.testing.assert_allclose(run.Q[-1], np.eye(2), atol=1e-7)
    runs = dmft.simulate(rule, dim=300, t_max=2.0, seeds=16, start=start, save_at=3)
    assert np.all(abs(runs.mean.M - run.M) < 4 * runs.stderr.M + 5 / 300)


def test_averages_as_coefficients():
    """A baseline that is the mean itself: the noise alone changes."""
    w, B, x = Rows("w"), fixed("B"), View("x")
    h, k = w @ x, B @ x
    rule = dmft.UpdateField({w: (h * k - mean(h * k)) * x}, learning_rate=0.5)
    start = dmft.Overlaps([[1.2]], [[0.4]])
    found = dmft.derive(rule).evaluate(start)
    M, Q = 0.4, 1.2
    # E[(hk - M) h] = 0, E[(hk - M)^2] = Q + M^2.
    assert found["M"][0, 0] == pytest.approx(0.0, abs=1e-14)
    assert found["Q"][0, 0] == pytest.approx(0.5 * (Q + M**2), abs=1e-13)


def test_copies_are_independent():
    w, u = Rows("w"), fixed("u")
    x = copies(View("x", adds={u: Random("c", laws.Rademacher())}), 2)
    rule = dmft.UpdateField({w: (w @ x[0]) * (w @ x[1]) * x[0] - gram(w, w) * w}, learning_rate=1)
    found = dmft.derive(rule).evaluate(dmft.Overlaps([[1.3]], [[0.6]]))
    # E[h_1 h_2 k_1] = E[h_1 k_1] E[h_2] = 0, and so the drift is that of the row alone.
    assert found["M"][0, 0] == pytest.approx(-1.3 * 0.6, abs=1e-13)


def test_rules_are_copied_and_pickled():
    rule = lit.independent_component(laws.Laplace(0.5**0.5))
    start = dmft.Overlaps([[1.0]], [[0.3]])
    wanted = dmft.derive(rule).evaluate(start)["M"]
    for other in (copy.deepcopy(rule), pickle.loads(pickle.dumps(rule))):
        np.testing.assert_array_equal(dmft.derive(other).evaluate(start)["M"], wanted)
    own = rule.moving[0]
    assert copy.copy(own) == own != Rows("w")


@pytest.mark.parametrize(
    "verb",
    [
        lambda eqs, start, path: dmft.explore(eqs),
        lambda eqs, start, path: dmft.scaling_law(eqs),
    ],
    ids=["explore", "scaling"],
)
def test_what_rules_do_not_have_is_refused(verb, tmp_path):
    eqs = dmft.derive(lit.perceptron_rule())
    with pytest.raises((BadParameter, dmft.errors.NotClosed)):
        verb(eqs, dmft.Overlaps([[1.0]], [[0.1]]), tmp_path)


@pytest.mark.parametrize("kind", ["tanh", "kinks"])
def test_compiled_averages_on_nodes_are_those_of_the_reference(kind):
    """First step of a run: constants are before the nodes, and integrands are not odd."""
    if kind == "tanh":
        rule = lit.contrastive_divergence(1.1)
        start = dmft.Overlaps([[0.3]], [[0.1]], [[1.5]], scalars={"b": 0.7})
    else:
        rule = lit.reinforce()
        start = dmft.Overlaps([[0.8]], [[0.3]], [[0.5]], scalars={"b": 0.6})
    eqs = dmft.derive(rule)
    step = 1e-6
    run = dmft.solve(eqs, start, step, nodes=48, save_at=2, rtol=1e-12, atol=1e-15)
    for name, rate in eqs.evaluate(start, nodes=48).items():
        found = (run.blocks[name][-1] - run.blocks[name][0]) / step
        np.testing.assert_allclose(found, rate, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("nodes", [12, 24, 48])
@pytest.mark.parametrize("kind", ["smooth", "kinks"])
def test_claims_of_nodes_cover(kind, nodes):
    """At ten states of lengths from 0.2 to 5; nearly all entries, none off by more than twice."""
    eqs = dmft.derive(lit.contrastive_divergence(1.1) if kind == "smooth" else lit.reinforce())
    ratios = []
    for n, Q in enumerate(np.geomspace(0.2, 5.0, 10)):
        M = 0.6 * np.sqrt(1.5 * Q) * (-1) ** n
        start = dmft.Overlaps([[Q]], [[M]], [[1.5]], scalars={"b": 0.6})
        truth, found = (eqs.evaluate(start, nodes=count) for count in (400, nodes))
        claim = eqs.evaluate_error(start, nodes=nodes)
        ratios += [
            abs(rate - truth[name]).max() / (claim[name].max() + 1e-12)
            for name, rate in found.items()
        ]
    assert np.mean(np.array(ratios) <= 1.0) >= 0.95
    assert max(ratios) <= 2.0, max(ratios)


KINKED = {
    "shifted ReLU": (
        lambda h, c: sp.Max(0, h - sp.Rational(1, 2)),
        lambda h, c: np.maximum(0, h - 0.5),
    ),
    "hard tanh": (lambda h, c: sp.Max(-1, sp.Min(1, h)), lambda h, c: np.clip(h, -1, 1)),
    "kinked latent": (
        lambda h, c: sp.Heaviside(c - sp.Rational(1, 2)) * sp.tanh(h),
        lambda h, c: (c > 0.5) * np.tanh(h),
    ),
}


@pytest.mark.parametrize("name", KINKED)
@pytest.mark.parametrize("law", ["uniform", "rademacher"])
def test_kinks_of_fields_with_latents(name, law):
    """Fields with latents have kinks at places that depend on these: sums on a grid."""
    psi, value = KINKED[name]
    g, M = 0.7, 0.6
    wide = 3**0.5
    given = laws.Uniform(-wide, wide) if law == "uniform" else laws.Rademacher()
    w, u, c = Rows("w"), fixed("u"), Random("c", given)
    x = View("x", replaces={u: c})
    rule = dmft.UpdateField({w: psi(w @ x, c) * x}, learning_rate=g)
    eqs = dmft.derive(rule)
    found = eqs.evaluate(dmft.Overlaps([[1.0]], [[M]]), **({"nodes": 60} if eqs.averages else {}))
    # Midpoints of intervals of the normal part; Gauss-Legendre on both sides of the kink of c.
    normal = np.linspace(-8, 8, 16003)[1::2]
    latent, share = np.array([-1.0, 1.0]), np.array([0.5, 0.5])
    if law == "uniform":
        y, v = np.polynomial.legendre.leggauss(60)
        sides = [(-wide, 0.5), (0.5, wide)]
        latent = np.concatenate([(a + b) / 2 + (b - a) / 2 * y for a, b in sides])
        share = np.concatenate([(b - a) / 4 / wide * v for a, b in sides])
    h = M * latent[:, None] + np.sqrt(1 - M**2) * normal
    weight = share[:, None] * np.exp(-(normal**2) / 2) / np.exp(-(normal**2) / 2).sum()
    f = value(h, latent[:, None])
    assert found["M"][0, 0] == pytest.approx(np.sum(f * latent[:, None] * weight), abs=2e-6)
    wanted = np.sum((2 * f * h + g * f**2) * weight)
    assert found["Q"][0, 0] == pytest.approx(wanted, abs=2e-6)


def test_rules_without_fixed_rows():
    """Weights that decay along themselves: dQ/dt = -2 Q^2 + 2 Q + g Q."""
    w, x = Rows("w"), View("x")
    h = w @ x
    eqs = dmft.derive(dmft.UpdateField({w: h * x - h**2 * w}, learning_rate=0.5))
    found = eqs.evaluate(dmft.Overlaps([[1.3]], np.zeros((1, 0)), np.zeros((0, 0))))
    assert found["Q"][0, 0] == pytest.approx(2 * 1.3 - 2 * 1.3**2 + 0.5 * 1.3, rel=1e-13)


def test_fractions_and_signs_of_printed_rules_are_reduced():
    """Not (20 G - 11 G)/10, and no sign of a field times its standard deviation."""
    text = dmft.derive(dmft.literature.temporal_difference(0.5)).latex()
    assert r"2 G_{w B} - \frac{11 G_{w w}}{10}" in text
    text = dmft.derive(dmft.literature.reinforce()).latex()
    assert r"\operatorname{sign} \left(n_{1} \right)" in text
    assert r"\operatorname{\theta}" not in text


def test_slips_of_a_first_rule_are_explained():
    rows, x, kappa = Rows("v", 2), View("x"), sp.Symbol("kappa")
    with pytest.raises(BadParameter, match=r"\(v1, v2\) are several rows: use rows\[0\] @ x"):
        rows @ x
    with pytest.raises(BadParameter, match=r"UpdateField\(\{row: step\}"):
        dmft.UpdateField(sp.sign(rows[0] @ x) * x, learning_rate=1)
    w, B = Rows("w"), fixed("B")
    equations = dmft.derive(dmft.UpdateField({w: kappa * sp.sign(B @ x) * x}, learning_rate=1))
    assert "overlaps M with moving rows" in str(equations)
    with pytest.raises(BadParameter, match=r"^no value for kappa; pass kappa=\.\.\.$"):
        dmft.solve(equations, dmft.Overlaps([[1.0]], [[0.0]]), 1.0)
