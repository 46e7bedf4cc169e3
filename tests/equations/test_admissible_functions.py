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
