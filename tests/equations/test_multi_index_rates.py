"""Rates and risk of multi-index targets against their definition: quadrature on a grid of fields.

The truth knows the update field psi_j = a_j sigma'(h_j) (g(h*) - f(h)) and the density of the
fields, nothing else. Axes are cut at 0, where every function used here has its kinks.
"""

import numpy as np
import pytest
import sympy as sp

import dmft

Z = sp.Symbol("z", real=True)
Z1, Z2, Z3 = FIELDS = sp.symbols("z1 z2 z3", real=True)
STUDENTS = {
    "erf": sp.erf(Z / sp.sqrt(2)),
    "relu": sp.Max(0, Z),
    "He2": Z**2 - 1,
    "He3": Z**3 - 3 * Z,
}
TWO = {
    "polynomial": Z1**2 - 1 + Z1 * Z2 - Z2 / 3,
    "parity": Z1 * Z2,
    "sign": sp.sign(Z1 * Z2),
    "staircase": Z1 + Z1 * Z2,
    "bump": Z1**2 * sp.exp(-(Z1**2)) + Z2,
    "gated": sp.Max(0, Z1) * sp.Heaviside(Z2),
}
THREE = {
    "parity": Z1 * Z2 * Z3,
    "sign": sp.sign(Z1 * Z2 * Z3),
    "staircase": Z1 + Z1 * Z2 + Z1 * Z2 * Z3,
}
GAMMA, NOISE = 0.7, 0.3


def half_line_rule(nodes, reach=8.5):
    x, w = np.polynomial.legendre.leggauss(nodes)
    x, w = reach * (x + 1) / 2, reach * w / 2
    return np.concatenate([-x[::-1], x]), np.concatenate([w[::-1], w])


def start_with(p, k, seed):
    """Random overlaps with a general P, well conditioned so that the grid resolves the density."""
    A = np.random.default_rng(seed).normal(size=(p + k, p + k + 3)) / np.sqrt(p + k + 3)
    Omega = A @ A.T + 0.4 * np.eye(p + k)
    readout = np.linspace(0.6, 1.3, p)
    return dmft.Overlaps(Omega[:p, :p], Omega[:p, p:], Omega[p:, p:], readout)


def numeric(expr, fields):
    f = sp.lambdify(fields, expr, ["numpy", "scipy"])
    return lambda *u: np.broadcast_to(f(*u), np.broadcast_shapes(*(np.shape(x) for x in u)))


def definition(sigma, target, fields, start, points, mass):
    """Rates and risk as sums over `points` (p + k, N) of the fields with weights `mass`."""
    p, a = start.p, start.readout
    h, h_star = points[:p], points[p:]
    residual = numeric(target, fields)(*h_star) - a @ numeric(sigma, [Z])(h) / p
    slope = a[:, None] * numeric(sp.diff(sigma, Z), [Z])(h)
    psi = slope * residual
    B = (psi * mass) @ h.T
    S = (psi * mass) @ psi.T + NOISE * (slope * mass) @ slope.T
    rates = {"M": (psi * mass) @ h_star.T, "Q": B + B.T + GAMMA / p * S}
    return rates, (residual**2 * mass).sum() / 2


def over_grid(x, w, n):
    """Points (n, N) of a product rule and their weights, by slices of the first axis."""
    rest = np.stack(np.meshgrid(*[x] * (n - 1), indexing="ij")).reshape(n - 1, -1)
    mass = np.prod(np.meshgrid(*[w] * (n - 1), indexing="ij"), axis=0).ravel()
    for first, weight in zip(x, w, strict=True):
        yield np.vstack([np.full_like(mass, first), rest]), weight * mass


def total(parts):
    """Rates and risk, of those of slices."""
    rates, risks = zip(*parts, strict=True)
    return {name: sum(part[name] for part in rates) for name in ("M", "Q")}, sum(risks)


def by_grid(sigma, target, fields, start, nodes):
    scale = np.sqrt(np.diag(start.Omega))
    root = np.sqrt(np.linalg.det(2 * np.pi * start.Omega))
    precision = np.linalg.inv(start.Omega)

    def part(points, mass):
        points = points * scale[:, None]
        density = np.exp(-0.5 * np.sum(points * (precision @ points), axis=0)) / root
        return definition(sigma, target, fields, start, points, mass * scale.prod() * density)

    return total(part(*slice_) for slice_ in over_grid(*half_line_rule(nodes), scale.size))


def by_trapezoid(sigma, target, fields, start, spacing, reach=9.0):
    """Trapezoidal rule in independent normals: exponentially accurate for analytic functions."""
    x = np.arange(-reach, reach + spacing / 2, spacing)
    w = spacing * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    root = np.linalg.cholesky(start.Omega)
    return total(
        definition(sigma, target, fields, start, root @ points, mass)
        for points, mass in over_grid(x, w, start.p + start.k)
    )


def equations_of(sigma, target, fields, p):
    model = dmft.Model(dmft.Committee(sigma, p), dmft.MultiIndex(target, fields), NOISE)
    return model, dmft.derive(model, dmft.SGD(GAMMA))


def assert_rates_match(sigma, target, fields, start, truth, tolerance):
    model, equations = equations_of(sigma, target, fields, start.p)
    assert equations.open_kernels == ()
    (rates, risk), found = truth, equations.evaluate(start)
    for name in ("Q", "M"):
        np.testing.assert_allclose(found[name], rates[name], rtol=tolerance, atol=tolerance)
    value = dmft.population_risk(model)(start.Q, start.M, start.P, start.readout)
    assert value == pytest.approx(risk, rel=tolerance, abs=tolerance)


@pytest.mark.cases(2)
@pytest.mark.parametrize("target", ["polynomial", "bump"])
@pytest.mark.parametrize("student", ["He2", "He3", "erf"])
def test_smooth_rates_are_the_definition(student, target):
    start = start_with(1, 2, seed=3)
    sigma, g = STUDENTS[student], TWO[target]
    truth = by_trapezoid(sigma, g, FIELDS[:2], start, 0.25)
    assert_rates_match(sigma, g, FIELDS[:2], start, truth, 1e-9)


@pytest.mark.cases(4)
@pytest.mark.parametrize("target", list(TWO))
@pytest.mark.parametrize("student", list(STUDENTS))
def test_rates_of_one_student_are_the_definition(student, target):
    start = start_with(1, 2, seed=5)
    sigma, g = STUDENTS[student], TWO[target]
    truth = by_grid(sigma, g, FIELDS[:2], start, 30)
    assert_rates_match(sigma, g, FIELDS[:2], start, truth, 1e-9)


def test_hermite_products_keep_the_other_terms_of_a_target():
    """Expanded products of powers become one of Hermite polynomials; the sign is no power."""
    start = start_with(1, 2, seed=5)
    target = sp.expand((Z1**2 - 1) * (Z2**2 - 1)) + sp.sign(Z1 * Z2)
    truth = by_grid(STUDENTS["He2"], target, FIELDS[:2], start, 26)
    assert_rates_match(STUDENTS["He2"], target, FIELDS[:2], start, truth, 1e-9)


@pytest.mark.parametrize("target", ["parity"])
def test_rates_of_two_relu_students_are_the_definition(target):
    start = start_with(2, 2, seed=7)
    sigma, g = STUDENTS["relu"], TWO[target]
    truth = by_grid(sigma, g, FIELDS[:2], start, 20)
    assert_rates_match(sigma, g, FIELDS[:2], start, truth, 1e-9)


def test_three_signs_with_a_relu_student_are_the_definition():
    start = start_with(1, 3, seed=7)
    truth = by_grid(STUDENTS["relu"], THREE["sign"], FIELDS, start, 20)
    assert_rates_match(STUDENTS["relu"], THREE["sign"], FIELDS, start, truth, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("target", list(TWO))
@pytest.mark.parametrize("student", list(STUDENTS))
def test_rates_of_two_students_are_the_definition(student, target):
    start = start_with(2, 2, seed=7)
    sigma, g = STUDENTS[student], TWO[target]
    truth = by_grid(sigma, g, FIELDS[:2], start, 34 if target == "bump" else 27)
    assert_rates_match(sigma, g, FIELDS[:2], start, truth, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("target", list(THREE))
@pytest.mark.parametrize("student", list(STUDENTS))
def test_rates_of_three_fields_are_the_definition(student, target):
    start = start_with(1, 3, seed=7)
    truth = by_grid(STUDENTS[student], THREE[target], FIELDS, start, 25)
    assert_rates_match(STUDENTS[student], THREE[target], FIELDS, start, truth, 1e-9)


@pytest.mark.cases("sign-relu")
@pytest.mark.parametrize("student", list(STUDENTS))
@pytest.mark.parametrize(
    "target", ["sign", *(pytest.param(t, marks=pytest.mark.slow) for t in ("parity", "staircase"))]
)
def test_monte_carlo_of_the_definition(student, target):
    """Three teachers and two students: 4 standard errors, four entries of Q and six of M."""
    start = start_with(2, 3, seed=11)
    rng = np.random.default_rng(1)
    points = np.linalg.cholesky(start.Omega) @ rng.standard_normal((5, 100_000))
    sigma, g = STUDENTS[student], THREE[target]
    batches = [
        definition(sigma, g, FIELDS, start, part, np.full(part.shape[1], 1 / part.shape[1]))
        for part in np.split(points, 40, axis=1)
    ]
    model, equations = equations_of(sigma, g, FIELDS, 2)
    found = equations.evaluate(start)
    found["risk"] = dmft.population_risk(model)(start.Q, start.M, start.P, start.readout)
    for name in ("Q", "M", "risk"):
        values = np.array([b[1] if name == "risk" else b[0][name] for b in batches])
        error = values.std(axis=0, ddof=1) / np.sqrt(len(batches))
        assert np.all(np.abs(values.mean(axis=0) - found[name]) < 4 * error)


@pytest.mark.cases(3)
@pytest.mark.parametrize("student", ["relu", "erf", "He2"])
@pytest.mark.parametrize("teacher", ["relu", "erf", "He3"])
def test_a_sum_of_single_functions_is_the_committee(student, teacher):
    sigma, star = STUDENTS[student], STUDENTS[teacher]
    g = (star.subs(Z, Z1) + star.subs(Z, Z2)) / 2
    start = start_with(2, 2, seed=2)
    networks = dmft.Committee(sigma, 2), dmft.Committee(star, 2)
    committee = dmft.Model(*networks, NOISE)
    model, equations = equations_of(sigma, g, FIELDS[:2], 2)
    ours = equations.evaluate(start)
    theirs = dmft.derive(committee, dmft.SGD(GAMMA)).evaluate(start)
    for name in ("Q", "M"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-13, atol=1e-13)
    at = (start.Q, start.M, start.P, start.readout)
    assert dmft.population_risk(model)(*at) == pytest.approx(
        dmft.population_risk(committee)(*at), rel=1e-13
    )


def test_teacher_directions_may_be_renamed():
    sigma, g = STUDENTS["relu"], THREE["staircase"] + Z3**2
    order = [2, 0, 1]
    start = start_with(2, 3, seed=4)
    P = start.P[np.ix_(order, order)]
    turned = dmft.Overlaps(start.Q, start.M[:, order], P, start.readout)
    _, equations = equations_of(sigma, g, FIELDS, 2)
    # Row n of the new teacher is row order[n] of the old one.
    renamed = [FIELDS[n] for n in order]
    _, others = equations_of(sigma, g, renamed, 2)
    first, second = equations.evaluate(start), others.evaluate(turned)
    np.testing.assert_allclose(second["Q"], first["Q"], rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(second["M"], first["M"][:, order], rtol=1e-13, atol=1e-14)


def test_linear_combinations_of_fields_are_fields():
    """sign(z1 + z2) of two rows is the sign of one row that is their sum."""
    sigma = STUDENTS["relu"]
    start = start_with(2, 2, seed=9)
    _, equations = equations_of(sigma, sp.sign(Z1 + Z2) + Z1 + Z2, FIELDS[:2], 2)
    rates = equations.evaluate(start)
    total = np.ones((2, 1))
    alone = dmft.Overlaps(start.Q, start.M @ total, total.T @ start.P @ total, start.readout)
    _, single = equations_of(sigma, sp.sign(Z1) + Z1, [Z1], 2)
    expected = single.evaluate(alone)
    np.testing.assert_allclose(rates["Q"], expected["Q"], rtol=1e-12)
    np.testing.assert_allclose(rates["M"] @ total, expected["M"], rtol=1e-12)


def test_relu_students_may_coincide():
    """Two equal students are one with their mean readout; nearly equal ones are close to that."""
    g = Z1**2 - 1 + Z1 * Z2 + sp.sign(Z1 * Z2)
    start = start_with(1, 2, seed=6)
    _, equations = equations_of(STUDENTS["relu"], g, FIELDS[:2], 2)
    _, single = equations_of(STUDENTS["relu"], g, FIELDS[:2], 1)
    one = dmft.Overlaps(start.Q, start.M, start.P, [1.0])
    # S of a width-2 student carries gamma/2: compare at equal gamma/p.
    expected = single.evaluate(one, learning_rate=GAMMA / 2)
    for gap in (0.0, 1e-13, 1e-9):
        Q = np.full((2, 2), start.Q[0, 0]) + gap * np.eye(2)
        twins = dmft.Overlaps(Q, np.vstack([start.M, start.M]), start.P, [1.0, 1.0])
        found = equations.evaluate(twins)
        tolerance = 1e-11 + 4 * np.sqrt(gap)
        np.testing.assert_allclose(found["Q"], expected["Q"][0, 0], atol=tolerance)
        np.testing.assert_allclose(found["M"][1], expected["M"][0], atol=tolerance)


TANH = sp.tanh(Z)
# No closed form in any term: the drift is tabled or on nodes, the quadratic term on nodes.
OPEN = {
    "tanh on polynomial": (TANH, TWO["polynomial"]),
    "erf on joint": (STUDENTS["erf"], sp.tanh(Z1 + Z2**3 - 3 * Z2)),
    "relu on joint": (STUDENTS["relu"], sp.tanh(Z1 + Z2**3 - 3 * Z2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", list(OPEN))
def test_averages_without_closed_form_are_the_definition_within_their_claim(case):
    """Monte Carlo judges the values: what is off must be claimed or be four standard errors."""
    sigma, g = OPEN[case]
    start = start_with(2, 2, seed=8)
    rng = np.random.default_rng(3)
    points = np.linalg.cholesky(start.Omega) @ rng.standard_normal((4, 800_000))
    batches = [
        definition(sigma, g, FIELDS[:2], start, part, np.full(part.shape[1], 1 / part.shape[1]))
        for part in np.split(points, 40, axis=1)
    ]
    model, equations = equations_of(sigma, g, FIELDS[:2], 2)
    assert equations.averages
    found, claimed = equations.evaluate(start), equations.evaluate_error(start)
    risk = dmft.population_risk(model)(start.Q, start.M, start.P, start.readout)
    found["risk"], claimed["risk"] = risk, getattr(risk, "error", 1e-10)
    for name in ("Q", "M", "risk"):
        values = np.array([b[1] if name == "risk" else b[0][name] for b in batches])
        error = values.std(axis=0, ddof=1) / np.sqrt(len(batches))
        assert np.all(np.abs(values.mean(axis=0) - found[name]) < 4 * error + claimed[name])
        # A claim as wide as the value would excuse anything.
        assert np.max(claimed[name]) < 0.05 * np.max(np.abs(found[name]))


def test_claimed_error_of_a_tanh_student_is_that_of_the_trapezoidal_rule():
    """The rule knows the definition to 1e-6: far better than the claim of the quadratic term."""
    sigma, g = OPEN["tanh on polynomial"]
    start = start_with(2, 2, seed=8)
    model, equations = equations_of(sigma, g, FIELDS[:2], 2)
    rates, risk = by_trapezoid(sigma, g, FIELDS[:2], start, 0.4, reach=6.0)
    value = dmft.population_risk(model)(start.Q, start.M, start.P, start.readout)
    assert value == pytest.approx(risk, abs=1e-6)
    for seed in range(2):
        found = equations.evaluate(start, seed=seed)
        claimed = equations.evaluate_error(start, seed=seed)
        np.testing.assert_allclose(found["M"], rates["M"], atol=1e-6)
        # 99 % each: of six draws one may be a little outside.
        assert np.all(np.abs(found["Q"] - rates["Q"]) < 1.3 * claimed["Q"] + 1e-6)


@pytest.mark.slow
def test_a_sum_of_tanh_is_the_tanh_committee():
    g = (sp.tanh(Z1) + sp.tanh(Z2)) / 2
    start = start_with(2, 2, seed=2)
    committee = dmft.Model(dmft.Committee(TANH, 2), dmft.Committee(TANH, 2), NOISE)
    model, equations = equations_of(TANH, g, FIELDS[:2], 2)
    theirs = dmft.derive(committee, dmft.SGD(GAMMA))
    ours, other = (each.evaluate(start, nodes=1024) for each in (equations, theirs))
    np.testing.assert_allclose(ours["M"], other["M"], atol=1e-10)
    # Both forms of the quadratic term are on nodes, each with its own error.
    errors = (each.evaluate_error(start, nodes=1024)["Q"] for each in (equations, theirs))
    assert np.all(np.abs(ours["Q"] - other["Q"]) < sum(errors) + 1e-10)
    at = (start.Q, start.M, start.P, start.readout)
    assert dmft.population_risk(model)(*at) == pytest.approx(
        dmft.population_risk(committee)(*at), abs=1e-10
    )
