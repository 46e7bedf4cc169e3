"""Models off the beaten track: compiled code and reference against quadrature of the definition."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.codegen.assemble import code_names
from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation
from dmft.errors import BadParameter, NotClosed
from dmft.model import FIELD

Z = sp.Symbol("z", real=True)
ERF = sp.erf(Z / sp.sqrt(2))
C = sp.Symbol("c", real=True)
# Names that would be loop variables, keywords or escapes in the code if they stood there as such.
SPACE, UNDERSCORE = sp.Symbol("x y", positive=True), sp.Symbol("x_y", positive=True)
LAMBDA, TABLE, XI = sp.Symbol("lambda"), sp.Symbol("table1"), sp.Symbol(r"\xi", positive=True)
VALUES = {SPACE: 1.3, UNDERSCORE: 0.6, LAMBDA: 0.4, TABLE: -0.8, XI: 0.7, C: -0.4}
MODELS = {
    "names and functions of parameters": (
        SPACE**UNDERSCORE * Z**2 + LAMBDA * Z,
        sp.cosh(TABLE) * Z + XI ** sp.Rational(1, 3),
    ),
    "shifted erf": (sp.erf(Z + C), sp.erf(Z + C)),
    "shifted erf teacher": (ERF, sp.erf(Z / 2 - sp.Rational(1, 2))),
    "linear student": (3 * Z, ERF),
    "times Gaussian": (Z * sp.exp(-(Z**2) / 2), 0.5 * Z**2 - 0.1),
}


def compiled_rates(equations, start, parameters):
    problem = dmft.build(equations)
    values = equations.values(start, parameters)
    y = problem.pack({"Q": start.Q, "M": start.M})
    par = problem.pack_parameters({n: values.scalars[n] for n in problem.parameters}, values.arrays)
    out, risk, widths = np.empty_like(y), np.empty(1), np.array([start.p, start.k])
    problem.rhs(0.0, y, widths, par, out)
    problem.observe(0.0, y, widths, par, risk)
    return problem.unpack(out, values.widths), risk[0]


def rates_by_quadrature(sigma, teacher, a, a_star, start, gamma, noise, nodes):
    """Averages of the update field over (h, h*) of p = 2, k = 1 by Gauss-Hermite."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.stack(np.meshgrid(x, x, x, indexing="ij")).reshape(3, -1)
    mass = np.prod(np.stack(np.meshgrid(w, w, w, indexing="ij")), axis=0).ravel()
    mass /= mass.sum()
    fields = np.linalg.cholesky(start.Omega) @ grid

    def function(expr):
        f = sp.lambdify(Z, expr.subs(VALUES), ["numpy", "scipy"])
        return lambda u: np.broadcast_to(f(u), u.shape)

    s, slope, star = function(sigma), function(sp.diff(sigma, Z)), function(teacher)
    residual = a_star * star(fields[2]) - a @ s(fields[:2]) / 2
    unit = a[:, None] * slope(fields[:2])
    psi = unit * residual
    B = (psi * mass) @ fields[:2].T
    S = (psi * mass) @ psi.T + noise * (unit * mass) @ unit.T
    rates = {"M": (psi * mass) @ fields[2:].T, "Q": B + B.T + gamma / 2 * S}
    return rates, (residual**2 * mass).sum() / 2


@pytest.mark.cases(2)
@pytest.mark.usefixtures("generated_code")
@pytest.mark.parametrize("name", list(MODELS))
def test_unusual_model_against_its_definition(name):
    sigma, teacher = MODELS[name]
    a, a_star, gamma, noise = np.array([1.2, -0.7]), 0.9, 0.6, 0.3
    model = dmft.Model(
        dmft.Committee(sigma, 2, a, field=Z), dmft.Committee(teacher, 1, [a_star], field=Z), noise
    )
    used = sigma.free_symbols | teacher.free_symbols
    parameters = {s.name: v for s, v in VALUES.items() if s in used}
    equations = dmft.derive(model, dmft.SGD(gamma))
    start = dmft.Overlaps([[0.4, 0.1], [0.1, 0.3]], [[0.15], [-0.1]], [[0.5]])
    truth, true_risk = rates_by_quadrature(sigma, teacher, a, a_star, start, gamma, noise, 70)
    reference = equations.evaluate(start, **parameters)
    compiled, risk = compiled_rates(equations, start, parameters)
    scale = 1 + np.abs(truth["Q"]).max()
    for block in ("Q", "M"):
        np.testing.assert_allclose(compiled[block], reference[block], atol=1e-13 * scale)
        np.testing.assert_allclose(reference[block], truth[block], atol=1e-11 * scale)
    assert risk == pytest.approx(true_risk, abs=1e-12 * scale)
    again = dmft.population_risk(model)(Q=start.Q, M=start.M, P=start.P, **parameters)
    assert again == pytest.approx(true_risk, abs=1e-12 * scale)


def test_every_parameter_has_its_own_identifier():
    names = code_names(["learning_rate", "x y", "x_y", "lambda", "γ", "β", "w1"])
    assert names["learning_rate"] == "learning_rate"
    assert len(set(names.values())) == 7
    assert all(n.isidentifier() and n.isascii() for n in names.values())


@pytest.mark.parametrize("name", ["Q", "t_max", "j", "learning_rate", "a\nimport os"])
def test_names_that_cannot_be_parameters(name):
    committee = dmft.Committee(sp.Symbol(name) * Z, 1, field=Z)
    with pytest.raises(BadParameter, match="rename it"):
        dmft.derive(dmft.Model(committee, committee), dmft.GradientFlow())


def test_symbols_of_one_name_are_one_parameter():
    plain, real = sp.Symbol("b"), sp.Symbol("b", real=True)
    student, teacher = dmft.Committee(plain * Z, 1), dmft.Committee(real * Z**2, 1)
    equations = dmft.derive(dmft.Model(student, teacher, label_noise=real**2), dmft.SGD(plain / 2))
    start = dmft.Overlaps([[0.8]], [[0.3]], [[1.1]])
    rates = equations.evaluate(start, b=0.5)
    # E[sigma'^2 (g - f)^2] and the noise, by hand: f = h/2, g = h*^2/2.
    square = 3 * 1.1**2 / 4 + 0.8 / 4
    drift = -0.5 * 0.5 * 0.8
    assert rates["Q"][0, 0] == pytest.approx(2 * drift + 0.25 * 0.25 * (square + 0.25))


def test_forms_of_one_polynomial_share_their_code():
    forms = [Z**3 - 3 * Z, Z * (Z**2 - 3), Z * (Z - sp.sqrt(3)) * (Z + sp.sqrt(3))]
    models = {dmft.Model(dmft.Committee(f, 2), dmft.Committee(forms[0], 1)) for f in forms}
    assert len(models) == 1
    assert models.pop().matched


def test_open_models_are_refused_before_any_code_is_made():
    unit = dmft.Committee(sp.erf(Z), 2, field=Z)
    equations = dmft.derive(dmft.Model(unit, unit), dmft.SGD(0.1))
    kick = At(sp.DiracDelta(FIELD - 1), x.h[x.j]) * At(sp.tanh(FIELD), x.h[x.l])
    kick = sp.Sum(Expectation(kick * At(sp.tanh(FIELD), x.h[x.u])), (x.u, 1, x.p))
    equations = equations.with_term("Q", "kick", kick)
    assert equations.open_kernels
    assert "no closed form" in equations.latex(kernels="all")
    with pytest.raises(NotClosed, match="not closed"):
        dmft.build(equations)
    with pytest.raises(BadParameter, match="not a real function"):
        dmft.Committee(sp.I * Z, 1)
