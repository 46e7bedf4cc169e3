"""Labels without a mean square are refused; ordinary ones are not."""

import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter

z, u, v, b = sp.symbols("z u v b", real=True)
SQUARE = dmft.Committee(z**2, 1)


@pytest.mark.parametrize(
    ("expr", "word"),
    [
        (1 / u + v, "pole"), (sp.tan(u) + v, "pole"), (1 / (u * v), "pole"),
        (sp.exp(u**2), "outgrows|grows"), (sp.exp(u * v), "grows"), (sp.cosh(u * v), "grows"),
        (sp.log(u) * v, "not real"), (sp.sqrt(u + v**2), "not real"), (sp.floor(u) * v, "jumps"),
        (sp.exp(u**2 / 3) + v, "grows"),
    ],
)  # fmt: skip
def test_refused(expr, word):
    fields = [y for y in (u, v) if expr.has(y)]
    model = dmft.Model(SQUARE, dmft.MultiIndex(expr, fields))
    for ask in (
        lambda: dmft.derive(model, dmft.GradientFlow()),
        lambda: dmft.derive(model, dmft.SGD(0.1)),
        lambda: dmft.population_risk(model),
        lambda: dmft.derive(model, dmft.GradientDescent(0.1, 2)),
    ):
        with pytest.raises(BadParameter, match=word):
            ask()


@pytest.mark.parametrize(
    "expr",
    [
        1 / (1 + u**2) + v, sp.exp(u) * v, sp.exp(u**2 / 5), sp.exp(-(u**2)) * v**2, sp.cosh(u + v),
        sp.tanh(u + v**3), sp.sign(u * v), sp.Max(u, 0) / (1 + sp.exp(-u)), sp.exp(b * u**2),
        sp.log(1 + sp.exp(u)), sp.Abs(u) * v,
    ],
)  # fmt: skip
def test_accepted(expr):
    from dmft.equations.restrict.admissible import check_admissible

    check_admissible(dmft.Model(SQUARE, dmft.MultiIndex(expr, [y for y in (u, v) if expr.has(y)])))


@pytest.mark.parametrize("sigma", [1 / z, sp.exp(z**2), sp.log(z)])
def test_activations_are_judged_too(sigma):
    with pytest.raises(BadParameter):
        dmft.derive(dmft.Model(dmft.Committee(sigma, 1), SQUARE), dmft.GradientFlow())


@pytest.mark.parametrize(
    ("sigma", "word"),
    [
        (sp.sign(z), "jumps"), (sp.Heaviside(z - 1) * z, "jumps"),
        (sp.sqrt(sp.Abs(z)), "infinite at z = 0"),
        (sp.log(sp.Abs(z - 1)), "infinite at z = 1"), (sp.Mod(z, 1), "infinitely many jumps"),
    ],
)  # fmt: skip
def test_students_without_a_gradient_are_refused(sigma, word):
    """E sigma'^2 is infinite: 1/(4|z|) of sqrt|z|, and 1/(z - 1)^2 of the logarithm."""
    model = dmft.Model(dmft.Committee(sigma, 1), SQUARE)
    for algorithm in (dmft.SGD(0.1), dmft.SGD(0.1, loss="hinge"), dmft.GradientDescent(0.1, 2)):
        with pytest.raises(BadParameter, match=word):
            dmft.derive(model, algorithm)


def test_steep_slopes_of_finite_mean_square_are_derived():
    for sigma in (
        sp.Max(0, z),
        sp.Abs(z) ** sp.Rational(3, 2),
        z / (1 + sp.Abs(z)),
        sp.log(1 + z**2),
    ):
        dmft.derive(dmft.Model(dmft.Committee(sigma, 1), SQUARE), dmft.SGD(0.1))


def test_functions_without_numbers_are_named():
    bessel = dmft.Model(dmft.Committee(sp.besselj(0, z), 1), SQUARE)
    with pytest.raises(dmft.errors.NotClosed, match="besselj is not supported"):
        dmft.derive(bessel, dmft.SGD(0.1)).evaluate(dmft.Overlaps([[1.0]], [[0.1]]))


def test_integrals_are_evaluated():
    bell = sp.Integral(sp.exp(-(z**2)), z)
    assert dmft.Committee(bell, 1) == dmft.Committee(sp.sqrt(sp.pi) * sp.erf(z) / 2, 1)
