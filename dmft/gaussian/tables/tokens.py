r"""Averages of sequence models: E[F(h*) G(h)] as functions of the alignments (theory/sequence A).

Fields of one token, (h*_l, h_l) ~ N((0, e_l), [[1, m], [m, 1]]), are independent of those of the
others. Polynomials are averaged exactly, functions of the mean field by Hermite coefficients of
one field, other functions of up to four tokens by tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import sympy as sp

from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.closed.wick import hermite
from dmft.gaussian.expectation import Gaussian
from dmft.gaussian.exponents.coefficients import factorials, polynomial_coefficients
from dmft.gaussian.exponents.hermite_series import hermite_expansion
from dmft.gaussian.tables.tabled import PlacedAverage
from dmft.gaussian.tables.token_grid import MOST_TOKENS
from dmft.gaussian.tables.token_table import TokenTable, token_table
from dmft.model import FIELD, Encoding, SequenceModel, token_fields

SEMANTIC = sp.Symbol("m", real=True)


class TokenPairs(sp.Atom):
    """The pairs (F, G) of an average: one object without parts, so that nothing rewrites them.

    Expanding 1 / (1 + exp(z1 (z2 - z1))), say, gives a form that overflows.
    """

    __slots__ = ("pairs",)

    def __new__(cls, pairs: Iterable[tuple[sp.Expr, sp.Expr]]) -> TokenPairs:
        """Keep the pairs in an order of their own."""
        made = sp.Atom.__new__(cls)
        made.pairs = tuple(sorted((tuple(p) for p in pairs), key=_pair_key))
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        """What a copy is made from."""
        return (self.pairs,)

    def _hashable_content(self) -> tuple[Any, ...]:
        return tuple(y for pair in self.pairs for y in pair)

    def _sympyrepr(self, printer: Any) -> str:
        return f"TokenPairs({', '.join(printer.doprint(y) for p in self.pairs for y in p)})"

    # Terms are sorted by this text: without the pairs their order would be that of hashes.
    _sympystr = _sympyrepr


def _pair_key(pair: tuple[sp.Expr, sp.Expr]) -> Any:
    return sp.default_sort_key(sp.Tuple(*pair))


class TokenAverage(PlacedAverage):
    """Sum of E[F(h*) G(h)] over pairs (F, G) at e_l = pattern_l e and m, or a derivative of it.

    F is an expression in the token fields z1, ..., zL; G too, or in the one symbol z of a
    function of the mean field sum_l h_l / sqrt(L).
    """

    def __new__(cls, *args: Any) -> TokenAverage:
        """Keep the arguments as they are."""
        return sp.Expr.__new__(cls, *args)

    @classmethod
    def of(
        cls,
        pairs: Iterable[tuple[sp.Expr, sp.Expr]],
        pattern: Sequence[sp.Expr],
        radius: sp.Expr,
        e: sp.Expr,
        m: sp.Expr,
    ) -> TokenAverage:
        """Make the average of pairs, in an order of their own."""
        zero, length = sp.S.Zero, sp.sympify(radius, strict=True)
        return cls(TokenPairs(pairs), sp.Tuple(*pattern), length, e, m, zero, zero)

    @property
    def pairs(self) -> tuple[tuple[sp.Expr, sp.Expr], ...]:
        """What is averaged."""
        found: tuple[tuple[sp.Expr, sp.Expr], ...] = self.args[0].pairs
        return found

    @property
    def place(self) -> tuple[sp.Expr, sp.Expr]:
        """Where: e and m."""
        return self.args[3], self.args[4]

    @property
    def orders(self) -> tuple[int, int]:
        """Orders of the derivative in e and in m."""
        return int(self.args[5]), int(self.args[6])

    @property
    def source(self) -> tuple[Any, ...]:
        """Arguments of `token_table`."""
        return self.pairs, tuple(self.args[1]), float(self.args[2])

    @property
    def table(self) -> TokenTable:
        """Table of the average itself, derivatives not taken."""
        return token_table(*self.source)

    def value(self, at: dict[sp.Symbol, Any]) -> float:
        """Number at numbers for the symbols of its place."""
        e, m = (float(y.subs(at)) for y in self.place)
        return float(self.table.derivative(*self.orders)(e, m))

    def number(self, at: Mapping[sp.Symbol, Any], nodes: Mapping[str, Any]) -> float:
        """Number at numbers for the symbols; no nodes are read."""
        return self.value(dict(at))

    @property
    def claimed(self) -> float:  # type: ignore[override]
        """What the table of the average itself claims; slopes count as being as good."""
        return float(self.table.bound + self.table.error)

    @property
    def free_symbols(self) -> set[sp.Symbol]:
        """Symbols of the place; the fields are averaged over."""
        return self.args[3].free_symbols | self.args[4].free_symbols

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        e, m = self.place
        head, tail = self.args[:5], self.args[5:]
        one = sp.S.One
        along_e = TokenAverage(*head, tail[0] + one, tail[1]) if e.diff(symbol) != 0 else 0
        along_m = TokenAverage(*head, tail[0], tail[1] + one) if m.diff(symbol) != 0 else 0
        return e.diff(symbol) * along_e + m.diff(symbol) * along_m

    def _eval_subs(self, old: sp.Basic, new: sp.Basic) -> sp.Expr:
        """Substitute in the place alone."""
        e, m = (y.subs(old, new) for y in self.place)
        return TokenAverage(*self.args[:3], e, m, *self.args[5:])

    def _sympystr(self, printer: Any) -> str:
        e, m = self.place
        shown = " + ".join(
            "*".join(f"({printer.doprint(y)})" for y in pair if y != 1) for pair in self.pairs
        )
        prefix = "".join(f"d/d{n} " * k for n, k in zip("em", self.orders, strict=True))
        return f"{prefix}E[{shown}]({e}, {m})"

    def _latex(self, printer: Any) -> str:
        e, m = (printer.doprint(y) for y in self.place)
        order = "".join(rf"\partial_{n}" * k for n, k in zip("em", self.orders, strict=True))
        terms = []
        for f, g in self.pairs:
            student = {z: sp.Symbol(f"h_{n}") for n, z in enumerate(self.tokens, 1)}
            teacher = {z: sp.Symbol(f"h^*_{n}") for n, z in enumerate(self.tokens, 1)}
            mean = sp.Symbol(r"\bar{h}")
            sides = [f.xreplace(teacher), g.xreplace({**student, FIELD: mean})]
            shown = [rf"\left[{printer.doprint(y)}\right]" for y in sides if y != 1]
            terms.append(r"\,".join(shown) or "1")
        return rf"{order}\mathbb{{E}}_{{{e},{m}}}\left[{' + '.join(terms)}\right]"

    @property
    def tokens(self) -> tuple[sp.Symbol, ...]:
        """Token fields."""
        return token_fields(len(self.args[1]))


@dataclass(frozen=True)
class TokenLaw:
    """Law of the fields of a sequence model; untied, they read the mean field alone."""

    length: int
    encoding: Encoding
    tied: bool = True

    @classmethod
    def of(cls, model: SequenceModel) -> TokenLaw:
        """Law of the fields of a model."""
        return cls(model.length, model.encoding, model.tied)

    @property
    def semantic(self) -> tuple[sp.Symbol, ...]:
        """Symbols of m: one, or m1, ..., mL untied."""
        if self.tied:
            return (SEMANTIC,)
        return tuple(sp.Symbol(f"m{n}", real=True) for n in range(1, self.length + 1))

    @cached_property
    def mean(self) -> sp.Expr:
        """Mean of the field sum_l h_l / sqrt(L)."""
        return sp.Add(*self.encoding.means) / sp.sqrt(self.length)

    def expect(self, terms: Iterable[tuple[sp.Expr, sp.Expr, sp.Expr]]) -> sp.Expr:
        """Sum of c E[F(h*) G(h)] over terms (c, F, G); G in the token fields or in z."""
        exact: list[sp.Expr] = []
        tables: dict[sp.Expr, dict[tuple[sp.Expr, sp.Expr], sp.Expr]] = {}
        for c, f, g in terms:
            if c == 0 or f == 0 or g == 0:
                continue
            value = self._exactly(f, g)
            if value is not None:
                exact.append(c * value)
                continue
            for weight, part in split_parameters(f, token_fields(self.length)):
                number, symbols = (c * weight).as_coeff_Mul()
                pairs = tables.setdefault(symbols, {})
                pairs[part, g] = pairs.get((part, g), sp.S.Zero) + number
        for symbols, pairs in tables.items():
            exact.append(symbols * self._by_table(pairs))
        return sp.Add(*exact)

    def _exactly(self, f: sp.Expr, g: sp.Expr) -> sp.Expr | None:
        """E[F G] where a formula is known, else None."""
        fields = token_fields(self.length)
        if not f.is_polynomial(*fields):
            return None
        if not f.has_free(*fields) and not g.has_free(*fields, FIELD):
            return f * g
        if not g.has_free(*fields):
            return self._of_mean_field(f, g)
        if not g.is_polynomial(*fields):
            return None
        if not self.tied:
            raise NotClosed(f"{g} is not a function of the mean field of an untied network")
        stars = sp.symbols(f"h^*_1:{self.length + 1}", real=True)
        cov = sp.BlockMatrix(
            [
                [sp.eye(self.length), SEMANTIC * sp.eye(self.length)],
                [SEMANTIC * sp.eye(self.length), sp.eye(self.length)],
            ]
        ).as_explicit()
        law = Gaussian([*stars, *fields], cov, [*[0] * self.length, *self.encoding.means])
        return sp.expand(law.expect(f.xreplace(dict(zip(fields, stars, strict=True))) * g))

    def _of_mean_field(self, f: sp.Expr, g: sp.Expr) -> sp.Expr | None:
        """E[F G(u)] = sum_n c*_n c_|n|(G) m^|n| / (n! L^(|n|/2)) for a polynomial F (A.5)."""
        found = polynomial_coefficients(f, token_fields(self.length))
        by_order: dict[int, list[sp.Expr]] = {}
        m = self.semantic if not self.tied else (SEMANTIC,) * self.length
        for n, c in found.items():
            weight = sp.Mul(*(y**k for y, k in zip(m, n, strict=True)))
            weight /= sp.Integer(factorials(n))
            by_order.setdefault(sum(n), []).append(c * weight)
        line = field_series(g, self.mean, max(by_order, default=0))
        if line is None:
            return None
        root = sp.sqrt(self.length)
        return sp.Add(*(line[k] / root**k * sp.Add(*ws) for k, ws in by_order.items()))

    def _by_table(self, pairs: dict[tuple[sp.Expr, sp.Expr], sp.Expr]) -> sp.Expr:
        """Node of averages that need numbers; weights go into G."""
        if not self.tied:
            raise NotClosed(
                "targets of untied networks are polynomials: their averages are finite sums"
            )
        if self.length > MOST_TOKENS:
            shown = next(iter(pairs))
            raise BadParameter(
                f"a general g is averaged for up to {MOST_TOKENS} tokens, here L = {self.length}: "
                f"E[({str(shown[0])[:60]}) ({str(shown[1])[:60]})] is not a polynomial; use a "
                "polynomial target and student, or a network of the mean field"
            )
        if self.encoding.rank > 1:
            raise BadParameter(
                "functions that are not polynomials support positional vectors along one "
                "direction: a radius or a pattern (c_1, ..., c_L) of p_l = c_l p"
            )
        sums: dict[sp.Expr, sp.Expr] = {}
        for (f, g), w in pairs.items():
            sums[f] = sums.get(f, sp.S.Zero) + w * g
        weighted = [(f, g) for f, g in sums.items() if g != 0]
        if not weighted:
            return sp.S.Zero
        zero = sp.S.Zero
        moves = self.encoding.rank == 1
        still = all(not g.free_symbols for _, g in weighted)
        e = self.encoding.alignments[0] if moves and not still else zero
        pattern = [c if e != 0 else zero for c in self._pattern]
        radius = sp.sqrt(self.encoding.gram[1, 1]) if e != 0 else sp.S.One
        m = zero if still or all(not f.free_symbols for f, _ in weighted) else SEMANTIC
        return TokenAverage.of(weighted, pattern, radius, e, m)

    @property
    def _pattern(self) -> list[sp.Expr]:
        if self.encoding.rank == 0:
            return [sp.S.Zero] * self.length
        return list(self.encoding.pattern[:, 0])


def split_parameters(f: sp.Expr, fields: Sequence[sp.Symbol]) -> list[tuple[sp.Expr, sp.Expr]]:
    """Write f as a sum of weights, free of the fields, times functions without parameters."""
    if not f.free_symbols - set(fields):
        return [(sp.S.One, f)]
    # Not deeper: an exponential must not be taken apart, where it may overflow.
    parts: dict[sp.Expr, sp.Expr] = {}
    for term in sp.Add.make_args(sp.expand_mul(f, deep=False)):
        weight, rest = term.as_independent(*fields, as_Add=False)
        parts[rest] = parts.get(rest, sp.S.Zero) + weight
    return [(weight, part) for part, weight in parts.items()]


@lru_cache(maxsize=512)
def field_series(g: sp.Expr, mean: sp.Expr, order: int) -> tuple[sp.Expr, ...] | None:
    """E[g(z + mean) He_k(z)], k = 0..order; None where a moving mean has no closed form."""
    if mean == 0:
        return (
            tuple(hermite_expansion(g, FIELD, order)) if g.has_free(FIELD) else _constant(g, order)
        )
    try:
        law = Gaussian([FIELD], [[1]], [mean])
        return tuple(sp.expand(law.expect(g * hermite(k, FIELD - mean))) for k in range(order + 1))
    except NotClosed:
        return None


def _constant(g: sp.Expr, order: int) -> tuple[sp.Expr, ...]:
    return (g, *[sp.S.Zero] * order)
