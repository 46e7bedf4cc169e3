"""Closed forms of averages over jointly Gaussian fields."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from threading import Lock
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

from dmft.errors import BadParameter, InvalidCovariance, NotClosed, ShapeMismatch
from dmft.gaussian import LISTENER, refuse
from dmft.gaussian.branch_expectation import branch_sums
from dmft.gaussian.closed.factor import Label, split_product, sum_of_products
from dmft.gaussian.closed.guard_digits import collapsed, guarded, unguarded
from dmft.gaussian.closed.pair import elementary
from dmft.gaussian.closed.polynomial import polynomial_expectation
from dmft.gaussian.closed.product import product_expectation
from dmft.gaussian.closed.switch import to_signs, without_fixed
from dmft.model import FIELD, check_covariance
from dmft.symbolic_lock import in_turn

# Kept results; the largest of ordinary use (3355 terms) takes about 3 MB.
SIZE = 512


class Memory:
    """Results by key; SymPy tells floats of different precision apart."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._known: OrderedDict[Hashable, sp.Expr] = OrderedDict()
        self._lock = Lock()

    def recall(self, key: Hashable, compute: Callable[[], sp.Expr]) -> sp.Expr:
        """The remembered value, or a computed one that is remembered from now on.

        While someone listens, computed anew and not remembered.
        """
        if LISTENER.get() is not None:
            return compute()
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known
        value = compute()
        with self._lock:
            self._known[key] = value
            if len(self._known) > self._size:
                self._known.popitem(last=False)
        return value

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._known.clear()


# Expectations of this session.
REMEMBERED = Memory()


@dataclass(frozen=True)
class ClosedLaw:
    """Law of jointly Gaussian fields as far as its averages have closed forms: see `Gaussian`."""

    fields: tuple[sp.Symbol, ...]
    cov: sp.ImmutableDenseMatrix
    mean: tuple[sp.Expr, ...]

    def __repr__(self) -> str:
        values = [f"fields={self.fields}", f"cov={self.cov.tolist()}"]
        if any(self.mean):
            values.append(f"mean={self.mean}")
        text = f"{type(self).__name__}({', '.join(values)})"
        from dmft.summary import cut

        return cut(text)

    def __init__(
        self,
        fields: Sequence[sp.Symbol],
        cov: ArrayLike | sp.MatrixBase | Sequence[Sequence[Any]],
        mean: Sequence[Any] | None = None,
    ) -> None:
        symbols = tuple(fields)
        if not symbols or not all(isinstance(x, sp.Symbol) for x in symbols):
            raise BadParameter(f"fields must be a sequence of SymPy symbols, got {fields!r}")
        if len(set(symbols)) < len(symbols):
            raise BadParameter(
                f"fields {symbols} must be distinct: repeat a field in the expression"
            )
        n = len(symbols)
        entries = _expressions(cov, "cov", (n, n))
        shift = _expressions([0] * n if mean is None else mean, "mean", (n,))
        for value in (*entries.flat, *shift.flat):
            if value.free_symbols & set(symbols):
                raise BadParameter(f"{value} contains one of the fields {symbols}")
        object.__setattr__(self, "fields", symbols)
        object.__setattr__(self, "cov", _checked(entries))
        object.__setattr__(self, "mean", tuple(shift))

    @in_turn
    def expect(self, expr: sp.Expr) -> sp.Expr:
        r"""Return the closed form of the expectation E[expr].

        Equation    E over x ~ N(mean, cov); erf and exp may contain linear combinations of fields
        Shapes      one expression in, one expression out
        Valid for   the families of `product_expectation`; exact. With symbols in cov, where the
                    average exists: E exp(x^2) = 1/sqrt(1 - 2 q) needs q < 1/2
        Source      theory/one_pass A; derivations/erf_integrals.py

        Parameters
        ----------
        expr : sympy.Expr
            Function of the fields. Other symbols are coefficients.

        Returns
        -------
        sympy.Expr
            Function of the covariance and of the coefficients.

        Raises
        ------
        NotClosed
            If there is no closed form; the message names the sub-expression and alternatives.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> x, y, a = sp.symbols("x y a", real=True)
        >>> law = dmft.Gaussian([x, y], cov=[[1, 0.5], [0.5, 1]])
        >>> law.expect(a * x * y + sp.erf((x + y) / 2) ** 2)
        0.5*a + 0.409665529398267
        """
        integrand = self._integrand(expr)
        return REMEMBERED.recall((self, integrand), lambda: self._renamed(integrand))

    def _integrand(self, expr: Any) -> sp.Expr:
        integrand = _expression(expr, "expr") if isinstance(expr, (int, float)) else expr
        if not isinstance(integrand, sp.Expr):
            raise BadParameter(f"expr must be a SymPy expression in {self.fields}, got {expr!r}")
        return integrand

    def _renamed(self, integrand: sp.Expr) -> sp.Expr:
        """The value under names of no meaning: remembered for any names of the fields."""
        self._check_integrand(integrand)
        if LISTENER.get() is not None:
            return self._expect(integrand)
        names = {x: _placeholder(i, x) for i, x in enumerate(self.fields)}
        # Floats take guard digits here and lose them at the end: what cancels between summands,
        # E(x - y)^4 of nearly parallel fields say, is right to the last digit of a double.
        image = guarded(integrand.xreplace(names))
        cov, mean = self.cov.applyfunc(guarded), tuple(map(guarded, self.mean))
        # Made without __init__: its checks have passed.
        law = ClosedLaw.__new__(ClosedLaw)
        law.__dict__.update(fields=tuple(names.values()), cov=cov, mean=mean)
        try:
            return REMEMBERED.recall((law, image), lambda: law._expect(image))
        except NotClosed:
            # Said again in the user's own symbols.
            return self._expect(integrand)

    def _expect(self, integrand: sp.Expr) -> sp.Expr:
        """The value without memory."""
        polynomial = polynomial_expectation(integrand, self.fields, self.cov, self.mean)
        if polynomial is not None:
            return unguarded(polynomial)
        return self._by_families(integrand)

    def _by_families(self, integrand: sp.Expr) -> sp.Expr:
        """Summand after summand, by the families of `product_expectation`."""
        # A coefficient may not be mistaken for the symbol of the factors, nor may the roots of
        # coefficients, whose signs are unknown, take part in the simplification.
        hidden: dict[sp.Basic, sp.Basic] = {}
        if FIELD not in self.fields:
            hidden[FIELD] = sp.Dummy("z", real=True)
        hidden |= {p: sp.Dummy("root") for p in _symbolic_roots(integrand, self.fields)}
        roots = {p: sp.Dummy("root") for p in _symbolic_roots(self.cov, ())}
        cov, integrand = self.cov.xreplace(roots), integrand.xreplace(hidden)

        def bilinear(x: Label, y: Label) -> sp.Expr:
            value = sp.Add(*[a * b * cov[i, j] for i, a in x for j, b in y])
            # The covariance has passed its check: a variance below zero is rounding of its entries.
            return sp.S.Zero if x == y and value.is_Float and value < 0 else value

        def linear(x: Label) -> sp.Expr:
            return sp.Add(*[a * self.mean[i] for i, a in x])

        def fixed(argument: sp.Expr) -> sp.Expr | None:
            polynomial = sp.Poly(argument, *self.fields)
            label = tuple((i, polynomial.coeff_monomial(x)) for i, x in enumerate(self.fields))
            varies = bilinear(label, label) != 0
            return None if varies else linear(label) + polynomial.coeff_monomial(1)

        integrand = without_fixed(integrand, self.fields, fixed)
        back = {dummy: value for value, dummy in (*hidden.items(), *roots.items())}
        signed = to_signs(integrand, self.fields)
        summands = sum_of_products(signed, self.fields)
        splits = [split_product(s, self.fields) for s in summands]
        heard = LISTENER.get()
        if heard is not None:
            heard.split(self, (integrand, signed), splits, (bilinear, linear), back)
        whole, rest = branch_sums(splits, bilinear, linear)
        if heard is not None:
            heard.summed(whole, rest)
        total = [collapsed(whole)]
        for summand, (coefficient, factors, labels) in ((summands[n], splits[n]) for n in rest):
            try:
                value = product_expectation(factors, labels, bilinear, linear, digits=None)
            except NotClosed as error:
                raise self._refusal(error, summand.xreplace(back), factors, labels) from None
            tidy = _tidy(collapsed(elementary(value)))
            total.append(coefficient * tidy)
            if heard is not None:
                heard.tidied(elementary(value), tidy)
        result = unguarded(sp.Add(*total).xreplace(back))
        if heard is not None:
            heard.joined(total, result)
        return result

    def _check_integrand(self, integrand: sp.Expr) -> None:
        """Refuse what would be read as something else than it looks like."""
        if integrand.has(sp.nan, sp.zoo, sp.oo, -sp.oo, sp.I):
            raise BadParameter(f"expr must be real and finite, got {integrand}")
        names = {x.name: x for x in self.fields}
        for symbol in sorted(integrand.free_symbols - set(self.fields), key=str):
            if symbol.name in names:
                raise BadParameter(
                    f"{symbol} in expr is not the field {symbol.name} of this law: it has the "
                    f"same name but other assumptions ({symbol.assumptions0} against "
                    f"{names[symbol.name].assumptions0}); use one symbol for both"
                )

    def _refusal(
        self,
        error: NotClosed,
        summand: sp.Expr,
        factors: Sequence[sp.Expr],
        labels: Sequence[Label],
    ) -> NotClosed:
        """Say in the user's own symbols which sub-expression is not closed."""
        named = summand
        for factor, label in zip(factors, labels, strict=True):
            if isinstance(error.expression, sp.Expr) and factor.has(error.expression):
                field = sp.Add(*[a * self.fields[i] for i, a in label])
                named = error.expression.xreplace({FIELD: field})
        return refuse(named, error.reason)


@lru_cache(maxsize=256)
def _placeholder(position: int, field: sp.Symbol) -> sp.Dummy:
    """A symbol that stands for all fields of one position and the same assumptions."""
    return _dummy(position, tuple(sorted(field.assumptions0.items())))


@lru_cache(maxsize=256)
def _dummy(position: int, assumptions: tuple[tuple[str, bool], ...]) -> sp.Dummy:
    return sp.Dummy(f"x{position + 1}", **dict(assumptions))


def _expressions(value: Any, name: str, shape: tuple[int, ...]) -> Any:
    """Object array of SymPy expressions of exactly this shape."""
    if isinstance(value, sp.MatrixBase):
        value = value.tolist()
    try:
        array = np.array(value, dtype=object)
    except ValueError as error:
        raise ShapeMismatch(f"{name} is ragged, expected shape {shape}") from error
    if array.shape != shape:
        raise ShapeMismatch(f"{name} has shape {array.shape}, expected {shape}")
    result = np.empty(shape, dtype=object)
    for index, entry in np.ndenumerate(array):
        result[index] = _expression(entry, f"{name}{list(index)}")
    return result


def _expression(entry: Any, name: str) -> sp.Expr:
    """One entry as SymPy; a number must be real and finite."""
    try:
        value = sp.sympify(entry, strict=True)
    except sp.SympifyError as error:
        raise BadParameter(f"{name} = {entry!r} is neither a number nor an expression") from error
    if not isinstance(value, sp.Expr):
        raise BadParameter(f"{name} = {entry!r} is neither a number nor an expression")
    if value.is_number and not (value.is_real and value.is_finite):
        raise InvalidCovariance(f"{name} = {entry} is not real and finite")
    return value


def _checked(entries: Any) -> sp.ImmutableDenseMatrix:
    """Symmetric matrix of the entries; every numeric principal block is positive semi-definite."""
    n = entries.shape[0]
    numeric = np.array([[e.is_number for e in row] for row in entries], dtype=bool)
    for i, j in combinations(range(n), 2):
        gap = entries[i, j] - entries[j, i]
        if gap == 0 or (numeric[i, j] and numeric[j, i]):
            continue  # check_covariance judges numbers, with its tolerance for rounding
        if sp.expand(gap) != 0:
            raise InvalidCovariance(
                f"cov is not symmetric: cov[{i},{j}] = {entries[i, j]} but "
                f"cov[{j},{i}] = {entries[j, i]}"
            )
    if numeric.all():
        check_covariance(entries.astype(np.float64), "cov")
        blocks = []
    else:
        blocks = [list(pair) for pair in combinations(range(n), min(n, 2))]
    for block in blocks:
        index = np.ix_(block, block)
        if numeric[index].all():
            check_covariance(entries[index].astype(np.float64), f"the block {block} of cov")
    upper = [[entries[min(i, j), max(i, j)] for j in range(n)] for i in range(n)]
    return sp.ImmutableDenseMatrix(upper)


def _symbolic_roots(expr: Any, fields: Sequence[sp.Symbol]) -> set[sp.Basic]:
    """Non-integer powers of symbols that do not involve the fields."""
    return {
        p
        for p in expr.atoms(sp.Pow)
        if not p.exp.is_integer and p.free_symbols and not p.has_free(*fields)
    }


def _tidy(value: sp.Expr) -> sp.Expr:
    """Put tilted covariances over one denominator where that is shorter (roots are positive)."""
    if all(p.exp.is_integer for p in value.atoms(sp.Pow) if p.free_symbols):
        return value
    fraction = sp.powsimp(sp.together(value, deep=True), force=True)
    return fraction if fraction.count_ops() <= value.count_ops() else value
