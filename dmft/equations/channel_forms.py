"""Output channels by densities N, phi and tails H: score, its slope, and LaTeX of these."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import sympy as sp

from dmft.equations.views.closed import ClosedPrinter

Y, OMEGA = sp.Symbol("y", real=True), sp.Symbol("omega", real=True)
V = sp.Symbol("V", positive=True)
NAMES = (r"Z_{\mathrm{out}}", r"g_{\mathrm{out}}", r"\partial_\omega g_{\mathrm{out}}")
AT = r"(y; \omega, V)"
# Z in a denominator, and Z' / Z and Z'' / Z of sums, whose derivatives are printed below.
Z_OUT, SCORE, RATIO, G, LOG_SLOPE = sp.symbols("Z score ratio g log_slope", real=True)
LETTERS = {
    Z_OUT: r"Z_{\mathrm{out}}",
    SCORE: r"\frac{\partial_\omega Z_{\mathrm{out}}}{Z_{\mathrm{out}}}",
    RATIO: r"\frac{\partial_\omega^2 Z_{\mathrm{out}}}{Z_{\mathrm{out}}}",
    G: r"g_{\mathrm{out}}",
    LOG_SLOPE: r"\partial_\omega \log Z_{\mathrm{out}}",
}
MEANINGS = {
    "H(": r"H(t) = \tfrac{1}{2} \operatorname{erfc}(t/\sqrt{2})",
    r"\phi(": r"\phi(t) = e^{-t^2/2}/\sqrt{2 \pi}",
    r"\mathcal{N}(": r"\mathcal{N}(t; m, v) = e^{-(t - m)^2/(2 v)}/\sqrt{2 \pi v}",
}
# Quotients of a product by a letter or by a root.
QUOTIENT = re.compile(r"\\frac\{([^{}+-]*)\}\{(\\sqrt\{\w+\}|\w)\}")
# Arguments of tails of more operations have a name.
NAMED = 6


class NormalDensity(sp.Function):
    """N(y; m, v), with its derivative by the mean."""

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """Derivative by y or m."""
        y, mean, variance = self.args
        return (1 if argindex == 2 else -1) * (y - mean) / variance * self

    def written(self) -> sp.Expr:
        """The density itself."""
        y, mean, variance = self.args
        return sp.exp(-((y - mean) ** 2) / (2 * variance)) / sp.sqrt(2 * sp.pi * variance)


class StandardDensity(sp.Function):
    """phi(x), an even function."""

    @classmethod
    def eval(cls, x: sp.Expr) -> sp.Expr | None:
        """Of one of x and -x."""
        return cls(-x) if x.could_extract_minus_sign() else None

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """Derivative."""
        return -self.args[0] * self

    def written(self) -> sp.Expr:
        """The density itself."""
        return sp.exp(-(self.args[0] ** 2) / 2) / sp.sqrt(2 * sp.pi)


class UpperTail(sp.Function):
    """H(x), the probability that a standard normal variable is above x."""

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """Derivative."""
        return -StandardDensity(self.args[0])

    def written(self) -> sp.Expr:
        """By the error function."""
        return (1 - sp.erf(self.args[0] / sp.sqrt(2))) / 2


def written(expr: sp.Expr) -> sp.Expr:
    """By exponentials and error functions."""
    kinds = (NormalDensity, StandardDensity, UpperTail)
    return expr.replace(lambda e: isinstance(e, kinds), lambda e: e.written())


def _merged(form: sp.Expr) -> list[tuple[sp.Expr, str]]:
    """Z and the labels that have it, those of y = 1 and y = -1 as one where they are alike."""
    if not isinstance(form, sp.Piecewise):
        signs = form.has(Y) and not form.has(NormalDensity)
        return [(form, r"y = \pm 1" if signs else "")]
    rows = [(e, c) for e, c in form.args if e != 0]
    found = {c: e for e, c in rows}
    one, two = sp.Eq(Y, 1), sp.Eq(Y, -1)
    if set(found) == {one, two} and found[two] == found[one].xreplace({OMEGA: -OMEGA}):
        return [(found[one].xreplace({OMEGA: Y * OMEGA}), r"y = \pm 1")]
    return [(e, sp.latex(c)) for e, c in rows]


def of_signs(form: sp.Expr) -> sp.Expr:
    """A function at y = 1 and at y = -1 as one formula in y, if it is odd or even in y omega."""
    rows = {c: e for e, c in form.args} if isinstance(form, sp.Piecewise) else {}
    signs = [sp.Eq(Y, 1), sp.Eq(Y, -1)]
    if not {*signs} <= {*rows}:
        return form
    one, two = (rows[y] for y in signs)
    for power in (0, 1):
        if sp.simplify(two - (-1) ** power * one.xreplace({OMEGA: -OMEGA})) == 0:
            whole = Y**power * one.xreplace({OMEGA: Y * OMEGA})
            return sp.simplify(whole).subs(Y**2, 1)
    return form


def slope_of(z: sp.Expr, order: int) -> sp.Expr:
    """Derivative of Z by omega, collected in its functions; y^2 = 1 where y is a sign."""
    found: dict[sp.Expr, sp.Expr] = {}
    for term in sp.Add.make_args(sp.expand_mul(sp.diff(z, OMEGA, order), deep=False)):
        if not z.has(NormalDensity):
            even = {e: e.xreplace({Y: sp.S.One}) for e in term.atoms(StandardDensity)}
            term = term.xreplace(even).xreplace({Y**2: sp.S.One, Y**3: Y})
        coefficient, functions = term.as_independent(sp.Function, as_Add=False)
        found[functions] = found.get(functions, sp.S.Zero) + coefficient
    return sp.Add(*(min(c, sp.factor(c), key=sp.count_ops) * f for f, c in found.items()))


def _forms(z: sp.Expr) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """Z, its score, and the slope of that by the score `G`, by `SCORE` and `RATIO` if long."""
    if z.has(sp.Piecewise):  # terms of different ranges
        g = sp.diff(z, OMEGA) / z
        return z, g, sp.diff(g, OMEGA)
    one, two = slope_of(z, 1), slope_of(z, 2)
    if not z.has(UpperTail) and (g := _of_densities(z)) is not None:
        return z, g, sp.diff(g, OMEGA)
    ratio = sp.cancel(two / one)
    if ratio.has(sp.Function):
        return z, SCORE, RATIO - G**2
    g = sp.factor_terms(one) / (Z_OUT if z.is_Add else z)
    return z, g, -sp.Mul(G, sp.Add(G, -sp.factor(ratio)), evaluate=False)


def _of_densities(z: sp.Expr) -> sp.Expr | None:
    """Score of one or two densities, by tanh; None for other sums."""
    terms = [y.as_independent(NormalDensity, as_Add=False) for y in sp.Add.make_args(z)]
    slopes = [sp.cancel(sp.diff(f, OMEGA) / f) for _, f in terms]
    if len(terms) == 1:
        return slopes[0]
    if len(terms) > 2 or not all(isinstance(f, NormalDensity) for _, f in terms):
        return None
    logs = [sp.log(c) - (f.args[0] - f.args[1]) ** 2 / (2 * f.args[2]) for c, f in terms]
    half = sp.expand(logs[0] - logs[1] - sp.log(terms[0][1].args[2] / terms[1][1].args[2]) / 2) / 2
    (one, two), tanh = slopes, sp.tanh(half)
    return sp.collect(sp.expand((one + two) / 2 + (one - two) / 2 * tanh), V, sp.factor)


def scores(z: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Score and its slope, written out."""
    _, g, slope = _forms(z)
    known = {SCORE: slope_of(z, 1) / z, RATIO: slope_of(z, 2) / z, Z_OUT: z}
    g = g.xreplace(known)
    return written(g), written(slope.xreplace({G: g, **known}))


def _cases(parts: list[tuple[str, str]]) -> str:
    """One formula, or several by the labels that have them."""
    if len(parts) == 1:
        ((text, where),) = parts
        return text + (rf",\quad {where}" if where else "")
    rows = r" \\ ".join(rf"{text}, & {where}" for text, where in parts)
    return rf"\begin{{cases}} {rows} \end{{cases}}"


def channel_latex(form: sp.Expr, slope: bool = True) -> str:
    """LaTeX of Z, its score and, with `slope`, the slope of that, and of what these hold."""
    merged = _merged(form)
    forms = [(_forms(z), where) for z, where in merged]
    names = NAMES if slope else NAMES[:2]
    if not slope:  # derivatives of sums of tails are left to the reader
        forms = [((z, LOG_SLOPE if g == SCORE else g, s), where) for (z, g, s), where in forms]
    printer = _ChannelPrinter(z for z, _ in merged)
    lines = [
        f"{name}{AT} &= " + _cases([(printer.doprint(one[place]), where) for one, where in forms])
        for place, name in enumerate(names)
    ]
    slopes = [(z, where) for (z, g, _), where in forms if g == SCORE]
    for order, head in ((1, r"\partial_\omega"), (2, r"\partial_\omega^2")) if slopes else ():
        parts = [(printer.doprint(slope_of(z, order)), where) for z, where in slopes]
        lines.append(rf"{head} Z_{{\mathrm{{out}}}} &= {_cases(parts)}")
    lines += [f"{name} &= {ClosedPrinter({}).doprint(y)}" for y, name in printer.arguments.items()]
    text = " ".join(lines).replace(r"\left(", "(")
    meanings = [meaning for mark, meaning in MEANINGS.items() if mark in text]
    lines += [meaning.replace(" =", " &=", 1) for meaning in meanings]
    return " \\\\\n".join(lines)


class _ChannelPrinter(ClosedPrinter):
    """Densities and tails by their letters, long arguments by names."""

    def __init__(self, forms: Iterable[sp.Expr]) -> None:
        super().__init__({})
        tails = (e.args[0] for z in forms for e in sorted(z.atoms(UpperTail), key=str))
        plain = (-y if y.could_extract_minus_sign() else y for y in tails)
        long = [y for y in dict.fromkeys(plain) if sp.count_ops(y) > NAMED]
        marks = [""] if len(long) == 1 else [f"_{n}" for n in range(1, len(long) + 1)]
        self.arguments = {y: f"x{mark}" for y, mark in zip(long, marks, strict=True)}

    def stands_behind(self, factor: sp.Expr) -> bool:
        """Sums of functions alone."""
        own = isinstance(factor, NormalDensity | StandardDensity | UpperTail)
        return not own and super().stands_behind(factor)

    def first(self, factor: sp.Expr) -> tuple[int, ...]:
        """Functions after roots and powers."""
        return (4,) if isinstance(factor, sp.Function) else super().first(factor)

    def _function(self, letter: str, expr: sp.Expr, exp: str | None) -> str:
        inside = "; ".join([self._print(expr.args[0]), ", ".join(map(self._print, expr.args[1:]))])
        inside = QUOTIENT.sub(r"\1/\2", inside.removesuffix("; "))
        text = (
            rf"{letter}({inside})" if r"\frac" not in inside else rf"{letter}\left({inside}\right)"
        )
        return text if exp is None else f"{text}^{{{exp}}}"

    def _print_NormalDensity(self, expr: sp.Expr, exp: str | None = None) -> str:
        return self._function(r"\mathcal{N}", expr, exp)

    def _print_StandardDensity(self, expr: sp.Expr, exp: str | None = None) -> str:
        return self._function(r"\phi", expr, exp)

    def _print_UpperTail(self, expr: sp.Expr, exp: str | None = None) -> str:
        return self._function("H", expr, exp)

    def _print(self, expr: Any, **kwargs: Any) -> str:
        known = getattr(self, "arguments", {})
        if known and isinstance(expr, sp.Expr):
            if expr in known:
                return known[expr]
            if -expr in known:
                return f"-{known[-expr]}"
        return super()._print(expr, **kwargs)

    def _print_Symbol(self, expr: sp.Symbol, style: str = "plain") -> str:
        return LETTERS.get(expr) or super()._print_Symbol(expr, style)
