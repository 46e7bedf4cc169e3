r"""psi of signSGD: the sign of the gradient's psi (theory/structured_inputs 4.4).

The label's noise is averaged over by hand where it has a closed form, as of the squared loss
E sign(e + sqrt(Delta) xi) = erf(e/sqrt(2 Delta)). The square of a sign is one, but where a loss is
flat, as the hinge loss beyond its margin. In a cluster |x|^2 = s_c d makes the factors
sqrt(2 c_e/pi) and phi_e smaller than the eigenvalues by sqrt(s_c) and s_c, which is counted in psi.
"""

from __future__ import annotations

from dataclasses import replace

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At
from dmft.equations.definitions import define
from dmft.equations.update.program import Program, Writer, error_of, plain
from dmft.errors import BadParameter
from dmft.gaussian.closed.switch import SWITCHES
from dmft.model import FIELD


def signs(writer: Writer) -> Program:
    """Signs of the gradient at the fields of the sample.

    Raises
    ------
    BadParameter
        For an activation that jumps.
    """
    writer.check_differentiable()
    algorithm = writer.algorithm
    if writer.model.outputs > 1 or algorithm.batch_size != 1:  # type: ignore[union-attr]
        return _of_gradient(writer)
    error = error_of(algorithm)
    sign = sp.sign(error)
    along = sp.sign(x.a[x.j]) * At(sign_of(writer.slope), x.h[x.j])
    # An error without pieces vanishes at single points alone.
    square = sign**2 if error.has(*SWITCHES) else sp.S.One
    moments = writer.means(sign, square)
    if moments is not None:
        return writer.program(second=writer.of_means(along, *moments))
    symbol = writer.error_at(x.h, 0)
    writer.add(x.psi[x.j], update=along * sp.sign(symbol))
    pair = along * along.xreplace({x.j: x.l})
    return writer.program(second=pair * (sp.sign(symbol) ** 2 if square != 1 else square))


def _of_gradient(writer: Writer) -> Program:
    """Signs of psi, of several outputs, or of sums of it over a batch."""
    if writer.model.outputs > 1:
        found = plain(writer)
    else:
        writer.gradient(x.h, 0, x.psi)
        found = writer.program()
    if writer.algorithm.batch_size != 1:  # type: ignore[union-attr]
        from dmft.equations.update.adaptive.batch import batch_of

        return batch_of(writer, found)
    *before, last = found.definitions
    slope = At(writer.slope, x.h[x.j])
    sign = At(sign_of(writer.slope), x.h[x.j]) * sp.sign(last.expr / slope)
    return replace(found, definitions=(*before, define(last.target, {"update": sign}, "sample")))


def sign_of(slope: sp.Expr) -> sp.Expr:
    """Sign of a function of the field, one where it is positive but at single points.

    Examples
    --------
    >>> sign_of(3 * sp.exp(-(FIELD**2))), sign_of(-2 * FIELD), sign_of(1 - sp.tanh(FIELD) ** 2)
    (1, -sign(z), 1)
    >>> sign_of(sp.Heaviside(FIELD))
    Heaviside(z)
    """
    if not slope.has_free(FIELD):
        if slope.is_number:
            return sp.sign(slope)
        raise BadParameter(f"the sign of the slope {slope} depends on a parameter: give its value")
    if slope.is_Mul:
        return sp.Mul(*(sign_of(factor) for factor in slope.args))
    if isinstance(slope, sp.Heaviside):
        return slope
    even = slope.is_Pow and slope.exp.is_Integer and slope.exp % 2 == 0
    if even or slope.is_positive or _is_bell(slope):
        return sp.S.One
    return sp.sign(slope)


def _is_bell(slope: sp.Expr) -> bool:
    """Whether it is a positive fraction of exponentials."""
    if slope.has(sp.Heaviside, sp.sign, sp.Abs, sp.Piecewise, sp.Max, sp.Min):
        return False
    return bool(sp.factor(sp.together(slope.rewrite(sp.exp))).is_positive)
