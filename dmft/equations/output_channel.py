"""`output_channel`: Z_out, its score and slope of a declared label, as formulas and numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise, product
from typing import Any

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations.channel_forms import (
    AT,
    NAMES,
    OMEGA,
    NormalDensity,
    UpperTail,
    V,
    Y,
    channel_latex,
    of_signs,
    scores,
    written,
)
from dmft.equations.views.closed import ClosedPrinter
from dmft.errors import BadParameter
from dmft.explanation.steps import Explained, Explanation, Ledger, explanation
from dmft.gaussian.channels.branches import probit_of
from dmft.gaussian.channels.channel import Channel
from dmft.gaussian.channels.declared import Label, label_of
from dmft.gaussian.channels.pieces import Piece, inside, pieces, resolved, stripped
from dmft.gaussian.channels.several import Several
from dmft.gaussian.channels.sweeps import solutions
from dmft.gaussian.closed.bivariate import BivariateNormalCDF
from dmft.gaussian.nodes.kinks import switches
from dmft.model import Model
from dmft.record import InLatex, Short
from dmft.validation import checked, shown

# Places at which an explanation compares formulas with integrals: y (as a field), omega, V.
CASES = ((0.3, -0.4, 0.7), (-1.1, 0.6, 0.5))
# Sides agree to this part; width of the test function of labels with a density.
AGREES, WIDTH = 1e-6, 0.5


@dataclass(frozen=True, eq=False, repr=False)
class OutputChannel(InLatex, Explained, Short):
    r"""Output channel: law of a label if the teacher's fields are distributed as N(omega, V).

    Attributes
    ----------
    declared : Label
        The declared label, noise and flips.
    label : sympy.Expr
        Label as a function of the fields.
    fields : tuple of sympy.Symbol
    inner, outer : sympy.Expr
        Decomposition y = outer(u), u = inner(fields) with a strictly monotone outer function, which
        does not change the estimates. If `outer` is not the identity, the formulas refer to u.
    pieces : tuple of Piece
        Pieces of a label of one field: `low`, `high`, `expr` and `kind` ("flat", "affine" ...).
    Z, g, slope : sympy.Expr
        Z_out(y; omega, V), its score g = d log Z/d omega, and the derivative of the score. For
        several fields g is a matrix and the slope is None. If there is no closed form, these are
        unevaluated integrals.
    closed : bool

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> noise = sp.Symbol("Delta", positive=True)
    >>> model = dmft.Model(dmft.Committee(z, 1), dmft.Committee(z, 1), label_noise=noise)
    >>> channel = dmft.output_channel(model)
    >>> channel.g
    (-omega + y)/(Delta + V)
    >>> [p.kind for p in channel.pieces]
    ['affine']
    """

    source = "barbier_2019"  # key of the bibliography

    declared: Label
    label: sp.Expr
    fields: tuple[sp.Symbol, ...]
    inner: sp.Expr
    outer: sp.Expr
    pieces: tuple[Piece, ...]
    Z: sp.Expr
    g: sp.Expr | sp.Matrix
    slope: sp.Expr | None
    closed: bool

    def _in_words(self) -> str:
        return f"y = {self.label}; {'closed form' if self.closed else 'integral'}"

    @cached_property
    def _numbers(self) -> Channel | Several:
        self.declared.check_numbers()
        if len(self.fields) == 1:
            return self.declared.channel()
        noise, flip = float(self.declared.noise), float(self.declared.flip)
        return Several(self.label, self.fields, noise, flip, nodes=40)

    def evaluate(self, y: Any, omega: Any, variance: Any) -> dict[str, Array]:
        """Evaluate log Z, g and, for one field, the slope.

        Parameters
        ----------
        y : array_like
        omega : array_like
            Mean of the field; for several fields (n, k), with y (n,).
        variance : array_like
            Variance V of the field; for several fields a single matrix (k, k).

        Returns
        -------
        dict
            "log_Z", "g", "slope".

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> z = sp.Symbol("z", real=True)
        >>> model = dmft.Model(dmft.Committee(z, 1), dmft.Committee(sp.Abs(z), 1), label_noise=0.1)
        >>> found = dmft.output_channel(model).evaluate(0.3, -0.4, 0.7)
        >>> {name: float(value.round(6)) for name, value in found.items()}
        {'log_Z': -0.462672, 'g': 0.423748, 'slope': -1.064243}
        """
        channel = self._numbers
        y, omega, variance = self._checked(y, omega, variance)
        if isinstance(channel, Channel):
            return {
                "log_Z": channel.log_z(y, omega, variance),
                "g": channel.score(y, omega, variance),
                "slope": channel.score_slope(y, omega, variance),
            }
        return {"log_Z": channel.log_z(y, omega, variance), "g": channel.score(y, omega, variance)}

    def _checked(self, *given: Any) -> tuple[Array, Array, Array]:
        """Labels, means and variances as arrays of matching shapes; V is positive definite."""
        texts = (
            f"{n} = {shown(a)}" for n, a in zip(("y", "omega", "variance"), given, strict=True)
        )
        text, size = ", ".join(texts), len(self.fields)
        try:
            y, omega, variance = (np.asarray(a, dtype=np.float64) for a in given)
        except (TypeError, ValueError):
            raise BadParameter(f"{text} must be numbers") from None
        if not all(np.isfinite(a).all() for a in (y, omega, variance)):
            raise BadParameter(f"{text} must be finite")
        if size == 1:
            try:
                np.broadcast_shapes(y.shape, omega.shape, variance.shape)
            except ValueError:
                raise BadParameter(f"{text} must broadcast") from None
            if not np.all(variance > 0.0):
                raise BadParameter(f"variance = {shown(given[2])} must be positive")
            return y, omega, variance
        y, omega = np.atleast_1d(y), np.atleast_2d(omega)
        if y.ndim != 1 or omega.shape != (y.size, size):
            raise BadParameter(f"omega must have the shape (n, {size}), with y (n,); {text}")
        if variance.shape != (size, size) or not np.allclose(variance, variance.T, 1e-10, 0.0):
            raise BadParameter(f"variance must be a symmetric ({size}, {size}) matrix; {text}")
        if np.linalg.eigvalsh(variance)[0] <= 0.0:
            raise BadParameter(f"variance = {shown(given[2])} must be positive definite")
        return y, omega, variance

    def latex(self, slope: bool = True) -> str:
        r"""Return Z, g and the slope as lines of LaTeX.

        Parameters
        ----------
        slope : bool
            Whether the derivative of g is included.

        Returns
        -------
        str

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> line = dmft.Committee(sp.Symbol("z", real=True), 1)
        >>> model = dmft.Model(line, line, label_noise=1)
        >>> dmft.output_channel(model).latex(slope=False).splitlines()[1]
        'g_{\\mathrm{out}}(y; \\omega, V) &= \\frac{y - \\omega}{1 + V} \\\\'
        """
        if self.closed and len(self.fields) == 1:
            return channel_latex(_single(self.declared, self.inner, self.pieces), slope)
        rows = zip(NAMES, (self.Z, self.g, self.slope if slope else None), strict=True)
        printer = ClosedPrinter({})
        return " \\\\\n".join(f"{n}{AT} &= {printer.doprint(e)}" for n, e in rows if e is not None)

    def _repr_latex_(self) -> str:
        return rf"$\begin{{aligned}}{self.latex()}\end{{aligned}}$"

    def _explanation(self) -> Explanation:
        """From the definition to the closed forms, compared with integrals."""
        if not self.closed or len(self.fields) > 1:
            raise BadParameter(
                f"explain compares closed forms of labels of one field with integrals: "
                f"{self.label} has none here; evaluate(y, omega, V) gives numbers"
            )
        ledger = Ledger()
        z, prior = self.fields[0], sp.Function("P")
        density = _normal(self.fields[0], OMEGA, V)
        whole = sp.Integral(density * prior(Y, z), (z, -sp.oo, sp.oo))
        log = sp.Function("log")(sp.Symbol("Z"))
        shown, g, slope = map(of_signs, (self.Z, self.g, self.slope))
        ledger.add("integrate", whole, shown, note=_split_note(self), judge=self._check_z)
        ledger.add("collect", sp.Derivative(log, OMEGA), g, judge=self._check("g", 1))
        ledger.add("collect", sp.Derivative(log, (OMEGA, 2)), slope, judge=self._check("slope", 2))
        return explanation(
            "the output channel", ledger, (whole, shown), [], cases=[{}, {}], whole=False
        )

    def _check(self, name: str, order: int) -> Callable[[int], tuple[float, float, float]]:
        """Compare a formula with a difference of log Z of the numeric channel, without it."""

        def judge(row: int) -> tuple[float, float, float]:
            y, omega, v = self._place(row)
            formula = float(getattr(self, name).subs({Y: y, OMEGA: omega, V: v}).evalf())
            h = 1e-3 if order == 1 else 1e-2
            logs = [float(self.evaluate(y, omega + n * h, v)["log_Z"]) for n in (-2, -1, 0, 1, 2)]
            weights = {1: (1, -8, 0, 8, -1), 2: (-1, 16, -30, 16, -1)}[order]
            value = sum(w * x for w, x in zip(weights, logs, strict=True)) / (12 * h**order)
            return value, formula, 1e-5 * (1.0 + abs(formula))

        return judge

    def _place(self, row: int) -> tuple[float, float, float]:
        """A label that occurs, omega and V."""
        field, omega, v = CASES[row]
        if self.declared.drawn:
            return (1.0, -1.0)[row], omega, v
        return float(self._numbers.label(np.array(field))), omega, v

    def _check_z(self, row: int) -> tuple[float, float, float]:
        """E f(y) for a smooth f, from fields alone and with the density of y by the formula."""
        channel = self._numbers
        assert isinstance(channel, Channel)
        at, omega, v = self._place(row)
        _, y, weight = (a[0] for a in channel.rule_z(np.array([omega]), v, 16))
        formula = sp.lambdify([Y, OMEGA, V], self.Z, ["scipy", "numpy"])
        values, back = np.unique(y, return_inverse=True)
        ratio = np.array([float(formula(a, omega, v)) for a in values])
        ratio = ratio / np.exp(channel.log_z(values, np.array(omega), np.array(v)))
        weight = weight * np.exp(-((y - at) ** 2) / (2 * WIDTH**2))
        wanted, found = float(weight.sum()), float(weight @ ratio[back])
        return wanted, found, AGREES * (1.0 + abs(wanted))


@checked
def output_channel(model: Model) -> OutputChannel:
    r"""Derive the output channel of the label of a model.

    Equation    Z = int dz N(z; omega, V) P(y | z), g = d log Z/d omega = V^-1 (E[z|y] - omega)
    Shapes      one field: omega, V scalars; two fields: omega_1, omega_2, V_11, V_12, V_22
    Valid for   one field: closed for flat and invertible pieces without noise, flat and affine ones
                with noise, flips, probits; two fields: labels that switch at constants in each
                field. Other formulas are unevaluated integrals, numbers come from `evaluate`
    Source      theory/static_limits (1), (6)-(8), 2.3

    Parameters
    ----------
    model : Model
        Only its teacher and the law of its labels are used.

    Returns
    -------
    OutputChannel

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> model = dmft.Model(dmft.Committee(z, 1), dmft.Committee(sp.tanh(z**3), 1))
    >>> channel = dmft.output_channel(model)
    >>> channel.inner, channel.closed
    (z1, True)
    """
    label = label_of(model, "output_channel")
    exact = {n: sp.nsimplify(getattr(label, n), rational=True) for n in ("noise", "flip")}
    label = replace(label, **exact)
    fields, inner, outer = label.fields, label.expr, sp.Symbol("u", real=True)
    if label.noise == 0 and label.flip == 0 and not label.drawn:
        inner, outer, _ = stripped(label.expr, fields)
    if len(fields) == 1:
        found = () if label.drawn else pieces(inner, fields[0])
        z_out = _single(label, inner, found)
        closed = not z_out.has(sp.Integral)
        if not closed:
            g = sp.Derivative(sp.log(written(z_out)), OMEGA)
            slope = sp.Derivative(g, OMEGA)
        else:
            g = _by_pieces(z_out, lambda e: scores(e)[0])
            slope = _by_pieces(z_out, lambda e: scores(e)[1])
        z_out = written(z_out)
        return OutputChannel(
            label, label.expr, fields, inner, outer, found, z_out, g, slope, closed
        )
    z_out, omegas = _several(label, inner)
    closed = not z_out.has(sp.Integral)
    g = sp.Matrix([_log_slope(z_out, w) for w in omegas])
    return OutputChannel(label, label.expr, fields, inner, outer, (), z_out, g, None, closed)


def _log_slope(z_out: sp.Expr, omega: sp.Symbol) -> sp.Expr:
    """Derivative of log Z by omega."""
    if z_out.has(sp.Integral):
        return sp.Derivative(sp.log(z_out), omega)
    return _by_pieces(z_out, lambda e: sp.diff(sp.log(e), omega))


def _normal(x: sp.Expr, mean: sp.Expr, variance: sp.Expr) -> sp.Expr:
    return NormalDensity(x, mean, variance).written()


def _by_pieces(expr: sp.Expr, change: Callable[[sp.Expr], sp.Expr]) -> sp.Expr:
    """A function of each piece of a Piecewise; where Z vanishes it stays zero."""
    if not isinstance(expr, sp.Piecewise):
        return change(expr) if expr != 0 else expr
    return sp.Piecewise(*((change(e) if e != 0 else e, c) for e, c in expr.args))


def _single(label: Label, inner: sp.Expr, found: tuple[Piece, ...]) -> sp.Expr:
    """Z of a label of one field."""
    z = label.fields[0]
    if label.drawn:
        return _drawn(inner, z)
    plain = _noisy(label, found, z) if label.noise != 0 else _noiseless(found, z)
    if label.flip == 0:
        return plain
    if not isinstance(plain, sp.Piecewise):
        return (1 - label.flip) * plain + label.flip * plain.xreplace({Y: -Y})
    values = {c.rhs: e for e, c in plain.args if isinstance(c, sp.Eq)}
    if len(values) < len(plain.args) - 1:
        whole = (1 - label.flip) * plain + label.flip * plain.xreplace({Y: -Y})
        rows = sp.piecewise_fold(whole).args
        # No label has two signs at once.
        return sp.Piecewise(*((e, c) for e, c in rows if c == sp.true or not _is_never(c)))
    both = dict.fromkeys([*values, *(-v for v in values)])
    pairs = [(v, values.get(v, sp.S.Zero), values.get(-v, sp.S.Zero)) for v in both]
    rows = [(_flipped(one, other, label.flip), sp.Eq(Y, v)) for v, one, other in pairs]
    return sp.Piecewise(*rows, (0, True))


def _is_never(condition: sp.Basic) -> bool:
    """Whether no label fulfils a condition."""
    return condition.free_symbols == {Y} and condition.as_set().is_empty is True


def _flipped(one: sp.Expr, other: sp.Expr, flip: sp.Expr) -> sp.Expr:
    """Probability of a label that is flipped with probability `flip`."""
    opposite = isinstance(one, UpperTail) and other == UpperTail(-one.args[0])
    return flip + (1 - 2 * flip) * one if opposite else (1 - flip) * one + flip * other


def _drawn(mean: sp.Expr, z: sp.Symbol) -> sp.Expr:
    """Z of labels +1 and -1 with a mean: closed for probits."""
    if probit := probit_of(mean, z):
        slope, offset = probit
        return UpperTail(-Y * (slope * OMEGA + offset) / sp.sqrt(1 + slope**2 * V))
    likelihood = (1 + Y * mean) / 2
    return sp.Integral(_normal(z, OMEGA, V) * likelihood, (z, -sp.oo, sp.oo))


def _mass(piece: Piece, mean: sp.Expr, variance: sp.Expr) -> sp.Expr:
    """P(low < z < high) of N(mean, variance)."""
    root = sp.sqrt(variance)
    if not piece.low.is_finite:
        return UpperTail((mean - piece.high) / root) if piece.high.is_finite else sp.S.One
    above = UpperTail((piece.high - mean) / root) if piece.high.is_finite else 0
    return UpperTail((piece.low - mean) / root) - above


def _noiseless(found: tuple[Piece, ...], z: sp.Symbol) -> sp.Expr:
    """Atoms where y is the value of flat pieces, roots over slopes elsewhere."""
    rows = []
    for value in dict.fromkeys(p.expr for p in found if p.is_flat):
        mass = sp.Add(*(_mass(p, OMEGA, V) for p in found if p.is_flat and p.expr == value))
        rows.append((mass, sp.Eq(Y, value)))
    curved = [p for p in found if not p.is_flat]
    terms = [_root_term(p, z) for p in curved]
    if any(term is None for term in terms):
        return sp.Integral(
            _normal(z, OMEGA, V) * sp.DiracDelta(Y - curved[0].expr), (z, -sp.oo, sp.oo)
        )
    if len(terms) == 1 and not rows and terms[0][1] == sp.true:  # type: ignore[index]
        return terms[0][0]  # type: ignore[index]
    # Terms of one range are one sum; ranges that differ keep their conditions.
    ranges = dict.fromkeys(condition for _, condition in terms)  # type: ignore[misc]
    sums = [(sp.Add(*(t for t, c in terms if c == r)), r) for r in ranges]  # type: ignore[misc]
    if len(ranges) == 1:
        rows += sums
    elif ranges:
        rows.append((sp.Add(*(sp.Piecewise(one, (0, True)) for one in sums)), True))
    return sp.Piecewise(*rows, (0, True))


def _root_term(piece: Piece, z: sp.Symbol) -> tuple[sp.Expr, sp.Basic] | None:
    """N(h; omega, V)/|g'(h)| at the root h in a piece, and the range of y; None without one."""
    if piece.kind not in ("affine", "quadratic"):
        return None
    coefficients = sp.Poly(piece.expr, z).all_coeffs()
    if piece.kind == "affine":
        root = (Y - coefficients[1]) / coefficients[0]
        slope = sp.Abs(coefficients[0])
    else:
        c, b, a = coefficients
        centre = -b / (2 * c)
        size = sp.sqrt((Y - a + c * centre**2) / c)
        right = piece.low.is_finite and bool(piece.low >= centre)
        root, slope = centre + (size if right else -size), 2 * sp.Abs(c) * size
    ends = [piece.expr.xreplace({z: e}) if e.is_finite else None for e in (piece.low, piece.high)]
    least, most = ends if piece.rising else ends[::-1]
    conditions = [sp.Gt(Y, least)] if least is not None else []
    conditions += [sp.Lt(Y, most)] if most is not None else []
    return NormalDensity(root, OMEGA, V) / slope, sp.And(*conditions)


def _noisy(label: Label, found: tuple[Piece, ...], z: sp.Symbol) -> sp.Expr:
    """Formula (8) for flat and affine pieces, else an integral over z."""
    if not all(p.kind in ("flat", "affine") for p in found):
        return sp.Integral(
            _normal(z, OMEGA, V) * _normal(Y, label.expr, label.noise), (z, -sp.oo, sp.oo)
        )
    total = sp.S.Zero
    for piece in found:
        slope = sp.diff(piece.expr, z)
        offset = piece.expr.xreplace({z: sp.S.Zero})
        variance = 1 / (1 / V + slope**2 / label.noise)
        mean = variance * (OMEGA / V + slope * (Y - offset) / label.noise)
        whole = NormalDensity(Y, offset + slope * OMEGA, label.noise + slope**2 * V)
        total += whole * _mass(piece, sp.simplify(mean), sp.simplify(variance))
    return total


def _several(label: Label, inner: sp.Expr) -> tuple[sp.Expr, list[sp.Symbol]]:
    """Z of a label of several fields: boxes of two fields in closed form, else an integral."""
    k = label.width
    omegas = [sp.Symbol(f"omega_{n}", real=True) for n in range(1, k + 1)]
    cells = _boxes(label, inner) if k == 2 and label.noise == 0 and not label.drawn else None
    if cells is None:
        z = sp.Matrix(label.fields)
        cov = sp.MatrixSymbol("V", k, k)
        gap = z - sp.Matrix(omegas)
        power = (gap.T * cov.as_explicit().inv() * gap)[0] if k == 2 else sp.Symbol("Q")
        density = sp.exp(-power / 2) / sp.sqrt((2 * sp.pi) ** k * sp.Determinant(cov))
        law = _normal(Y, inner, label.noise) if label.noise != 0 else sp.DiracDelta(Y - inner)
        return sp.Integral(density * law, *((x, -sp.oo, sp.oo) for x in label.fields)), omegas
    v11, v22 = sp.symbols("V_11 V_22", positive=True)
    r = sp.Symbol("V_12", real=True) / sp.sqrt(v11 * v22)
    scales = [sp.sqrt(v11), sp.sqrt(v22)]

    def below(*ends: sp.Expr) -> sp.Expr:
        """P(z_1 < a, z_2 < b)."""
        scaled = zip(ends, omegas, scales, strict=True)
        return BivariateNormalCDF(*((e - w) / s if e.is_finite else e for e, w, s in scaled), r)

    sums: dict[sp.Expr, sp.Expr] = {}
    for value, ((a, b), (c, d)) in cells:
        mass = below(b, d) - below(a, d) - below(b, c) + below(a, c)
        for sign, chance in ((1, 1 - label.flip), (-1, label.flip)):
            sums[sign * value] = sums.get(sign * value, sp.S.Zero) + chance * mass
    rows = [(total, sp.Eq(Y, value)) for value, total in sums.items() if total != 0]
    return sp.Piecewise(*rows, (0, True)), omegas


def _boxes(label: Label, inner: sp.Expr) -> list[Any] | None:
    """Values and boxes of a label that is constant between lines z_i = const; else None."""
    lines: list[list[sp.Expr]] = [[], []]
    for function in switches(inner, label.fields):
        symbols = function.free_symbols & set(label.fields)
        if len(symbols) != 1:
            return None
        (z,) = symbols
        lines[label.fields.index(z)] += solutions(function, z)
    axes = [list(pairwise([-sp.oo, *sorted(set(line), key=float), sp.oo])) for line in lines]
    cells = []
    for box in product(*axes):
        point = {z: inside(*ends) for z, ends in zip(label.fields, box, strict=True)}
        value = resolved(inner, point)
        if not value.is_number:
            return None
        cells.append((sp.nsimplify(value), box))
    return cells


def _split_note(channel: OutputChannel) -> str:
    """What the integral is split into."""
    ends = [
        " < ".join([*([str(p.low)] * (p.low != -sp.oo)), "z", *([str(p.high)] * (p.high != sp.oo))])
        for p in channel.pieces
    ]
    kinds = ", ".join(f"{p.kind} for {y}" for p, y in zip(channel.pieces, ends, strict=True))
    return f"Pieces of the label: {kinds}." if kinds else ""
