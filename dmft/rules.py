r"""Vectors of learning rules: write a step in vectors, and `dmft.derive` derives its equations.

Rows are vectors of length O(sqrt(d)), such as weights. Views are the inputs x of one step,

    x^a = sum_r c^a_r X_r / sqrt(d) + G^a,    E G^a G^b^T = scale_a scale_b cov_ab I,

and ``row @ view`` is the field X . x / sqrt(d), a real SymPy symbol. A step is a linear combination
of views with coefficients psi and rows with coefficients Phi, and denotes

    w <- w + (g / sqrt(d)) sum_a psi_a x^a + (g / d) sum_l Phi_l X_l.

Examples
--------
>>> import sympy as sp, dmft
>>> from dmft.rules import Rows, View, fixed
>>> w, B, x = Rows("w"), fixed("B"), View("x")
>>> hebb = dmft.UpdateField({w: sp.sign(B @ x) * x}, learning_rate=1)
>>> rates = dmft.derive(hebb).evaluate(dmft.Overlaps([[1.0]], [[0.0]]))
>>> round(float(rates["M"][0, 0]), 12)
0.797884560803
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import sympy as sp

from dmft.errors import BadParameter
from dmft.laws import Discrete, Law, as_covariance
from dmft.validation import shown

# In the order in which things are declared: a latent may depend on the fields of earlier views.
_COUNT = itertools.count()
# Rows and views that were unpickled are not those of this process with the same numbers.
_PROCESS = secrets.token_hex(8)


def expression(value: object, what: str) -> sp.Expr:
    """A real, finite expression, or a refusal."""
    if isinstance(value, Vector):
        raise BadParameter(f"{what} = {value} is a vector; expected an expression in its fields")
    try:
        found = sp.sympify(value, strict=True)
    except (sp.SympifyError, TypeError, ValueError, AttributeError) as error:
        raise BadParameter(f"{what} must be an expression, got {shown(value)}") from error
    if isinstance(found, sp.MatrixBase | sp.MatrixExpr):
        raise BadParameter(
            f"{what} is a matrix: covariances of views and clusters are numbers in blocks of "
            "coordinates (fractions=); the equations do not close if matrices do not commute"
        )
    if not isinstance(found, sp.Expr) or found.has(sp.I, sp.oo, -sp.oo, sp.zoo, sp.nan):
        raise BadParameter(f"{what} must be a real, finite expression, got {shown(value)}")
    return found


class Vector:
    """Linear combination of rows and views.

    Attributes
    ----------
    terms : mapping of Row or View to sympy.Expr
        Nonzero coefficients.
    """

    # SymPy leaves products with a vector to the vector.
    _op_priority = 100.0

    def __init__(self, terms: Mapping[Vector, sp.Expr]) -> None:
        self._terms = {vector: c for vector, c in terms.items() if c != 0}

    @property
    def terms(self) -> dict[Vector, sp.Expr]:
        """Nonzero coefficients."""
        return self._terms

    def __repr__(self) -> str:
        return " + ".join(f"({c})*{v!r}" for v, c in self.terms.items()) or "0"

    def __add__(self, other: object) -> Vector:
        if isinstance(other, int) and other == 0:  # the first of `sum`
            return self
        if not isinstance(other, Vector):
            raise BadParameter(f"{self} + {shown(other)}: a vector and a number cannot be added")
        one, two, zero = self.terms, other.terms, sp.S.Zero
        return Vector({v: one.get(v, zero) + two.get(v, zero) for v in (*one, *two)})

    __radd__ = __add__

    def __neg__(self) -> Vector:
        return self * sp.Integer(-1)

    def __sub__(self, other: Any) -> Vector:
        return self + (-other)

    def __rsub__(self, other: Any) -> Vector:
        return -self + other

    def __mul__(self, other: object) -> Vector:
        if isinstance(other, Vector):
            raise BadParameter(
                f"{self} * {other}: a step is linear in its vectors. The field of a row and a view "
                "is row @ view, the overlap of two rows gram(a, b)"
            )
        factor = expression(other, "the coefficient of a vector")
        return Vector({vector: c * factor for vector, c in self.terms.items()})

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Vector:
        return self * (1 / expression(other, "a divisor"))

    def __pow__(self, other: object) -> Vector:
        return self * self

    def __matmul__(self, other: object) -> sp.Expr:
        if not isinstance(other, Vector):
            raise BadParameter(f"@ takes two vectors, got {shown(other)}")
        pairs = itertools.product(self.terms.items(), other.terms.items())
        return sp.Add(*(c * e * _inner(a, b) for (a, c), (b, e) in pairs))

    def _sympy_(self) -> sp.Expr:
        raise BadParameter(
            f"a function of the vector {self} acts on its coordinates: its averages depend on the "
            "law of the coordinates, not on overlaps, so the equations do not close; write "
            "functions of fields, row @ view"
        )


def _inner(a: Vector, b: Vector) -> sp.Expr:
    """Field of a row and a view, or overlap of two rows."""
    if isinstance(a, Row) and isinstance(b, Row):
        return gram(a, b)
    if isinstance(a, View) and isinstance(b, View):
        raise BadParameter(
            f"{a} @ {b}: kernels between views are not fields of rows. At leading order x.x'/d is "
            "the number cov (write it), and x.x'/sqrt(d) of independent views does not change "
            "any overlap on this time scale"
        )
    row, view = (a, b) if isinstance(b, View) else (b, a)
    assert isinstance(row, Row)
    assert isinstance(view, View)
    return Field(row, view)


class Declared(Vector):
    """A row or a view: copies of it are the same vector.

    Attributes
    ----------
    number : float
        Place in the order of declaration.
    """

    number: float
    process: str

    @property
    def terms(self) -> dict[Vector, sp.Expr]:
        """Itself, once."""
        return {self: sp.S.One}

    @property
    def mark(self) -> tuple[str, float]:
        """What tells it from all others."""
        return self.process, self.number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Declared) and self.mark == other.mark

    def __hash__(self) -> int:
        return hash(self.mark)


class Row(Declared):
    """Vector of length O(sqrt(d)), such as weights, a teacher or a direction of the inputs."""

    def __init__(self, name: str, is_fixed: bool) -> None:
        self.name, self.is_fixed = name, is_fixed
        self.number, self.process = next(_COUNT), _PROCESS

    def __repr__(self) -> str:
        return self.name

    def __getitem__(self, index: int) -> Row:
        if index not in (0, -1):
            raise IndexError(f"{self.name} is one row, got the index {index}")
        return self


class _Symbol(sp.Symbol):
    """A real symbol that is the same only where its `key` is."""

    key: tuple[Any, ...]

    def __new__(cls, name: str, key: tuple[Any, ...]) -> Any:
        """A symbol of this name."""
        made = sp.Symbol.__xnew__(cls, name, real=True)
        made.key = key
        return made

    def _hashable_content(self) -> tuple[Any, ...]:
        return (*super()._hashable_content(), *(getattr(y, "mark", y) for y in self.key))

    def __getnewargs_ex__(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self.name, self.key), {}


class Field(_Symbol):
    """row . view / sqrt(d)."""

    def __new__(cls, row: Any, view: Any, block: int | None = None) -> Any:
        """The field of a row and a view, or its part in one block of coordinates."""
        if isinstance(row, str):  # copied or unpickled
            return super().__new__(cls, row, view)
        own = () if block is None else (block,)
        return super().__new__(
            cls, "_".join(map(str, (row.name, view.name, *own))), (row, view, *own)
        )

    @property
    def row(self) -> Row:
        """The row."""
        found: Row = self.key[0]
        return found

    @property
    def view(self) -> View:
        """The view."""
        found: View = self.key[1]
        return found

    @property
    def block(self) -> int | None:
        """Its block of coordinates; None for all of them."""
        return self.key[2] if len(self.key) > 2 else None

    def _latex(self, printer: Any) -> str:
        row, view = printer._print(sp.Symbol(self.row.name)), self.view.letter(printer)
        return rf"\lambda^{{{view}}}_{{{row}}}"


class Gram(_Symbol):
    """a . b / d of two rows."""

    def __new__(cls, a: Any, b: Any) -> Any:
        """The overlap, in the order in which the rows were declared."""
        if isinstance(a, str):
            return super().__new__(cls, a, b)
        first, second = sorted((a, b), key=lambda row: row.number)
        return super().__new__(cls, f"gram_{first.name}_{second.name}", (first, second))

    def _latex(self, printer: Any) -> str:
        return f"G_{{{' '.join(printer.doprint(sp.Symbol(row.name)) for row in self.key)}}}"


def gram(a: Row, b: Row) -> sp.Expr:
    """Return the overlap a . b / d of two rows, an order parameter, as a symbol.

    Parameters
    ----------
    a, b : Row

    Returns
    -------
    sympy.Symbol
    """
    for row in (a, b):
        if not isinstance(row, Row):
            raise BadParameter(f"gram takes two rows, got {shown(row)}")
    found: sp.Expr = Gram(a, b)
    return found


class Rows(tuple[Row, ...]):
    """Declare trained rows: `UpdateField` must have a step for each of them.

    Parameters
    ----------
    name : str
    n : int

    Examples
    --------
    >>> from dmft.rules import Rows
    >>> w = Rows("w", 2)
    >>> w[0], Rows("v")
    (w1, v)
    """

    __slots__ = ()

    def __new__(cls, name: str, n: int = 1) -> Any:
        """The rows, called name1, name2, ... where there are several."""
        return _rows(cls, name, n, False)

    def __matmul__(self, other: object) -> Any:
        raise BadParameter(f"({', '.join(map(str, self))}) are several rows: use rows[0] @ {other}")


def fixed(name: str, n: int = 1) -> Any:
    """Declare constant rows: teachers, directions of the inputs, means.

    Parameters
    ----------
    name : str
    n : int

    Returns
    -------
    Row or Rows

    Examples
    --------
    >>> from dmft.rules import fixed
    >>> fixed("B", 2)[1]
    B2
    """
    return _rows(Rows, name, n, True)


def _rows(cls: type, name: str, n: object, is_fixed: bool) -> Any:
    _check_name(name)
    if isinstance(n, sp.Expr) and not n.is_Integer:
        raise BadParameter(
            f"n = {n} must be a number here: rules of rows that are written one by one are not "
            "derived at a symbolic width, as dmft.Model(...) under dmft.SGD is"
        )
    if isinstance(n, bool) or int(n) != n or n < 1:  # type: ignore[call-overload,operator]
        raise BadParameter(f"n = {shown(n)} must be a positive integer")
    if n == 1:
        return Row(name, is_fixed)
    return tuple.__new__(cls, (Row(f"{name}{i}", is_fixed) for i in range(1, int(n) + 1)))  # type: ignore[call-overload]


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        raise BadParameter(f"a name must be an identifier, got {shown(name)}")


class Random(_Symbol):
    """Random number of one step: a coordinate of an input, a mask, label noise, an action.

    Parameters
    ----------
    name : str
    law : dmft.laws.Law
        Law of the number. Probabilities of a `Discrete` law may be expressions in the fields of
        earlier views.

    Examples
    --------
    >>> import dmft
    >>> from dmft.rules import Random
    >>> Random("c", dmft.laws.Rademacher()).law.variance
    1.0
    """

    def __new__(cls, name: str, law: Any) -> Any:
        """Another variable in each call, of any name."""
        if isinstance(law, tuple):
            return super().__new__(cls, name, law)
        _check_name(name.replace("[", "").replace("]", ""))
        if not isinstance(law, Law):
            raise BadParameter(f"the law of {name} must be one of dmft.laws, got {shown(law)}")
        held = law.values if isinstance(law, Discrete) else tuple(vars(law).values())
        for number in held:
            if sp.sympify(number, strict=True).atoms(_Symbol):
                raise BadParameter(
                    f"{number} in the law of {name} depends on fields: only the probabilities of a "
                    "Discrete law may; write other latents as expressions in fields"
                )
        return super().__new__(cls, name, (law, next(_COUNT), _PROCESS))

    @property
    def law(self) -> Law:
        """Its law."""
        found: Law = self.key[0]
        return found

    @property
    def number(self) -> int:
        """Its place in the order of declaration."""
        return int(self.key[1])

    def _hashable_content(self) -> tuple[Any, ...]:
        return (*sp.Symbol._hashable_content(self), *self.key[1:])


class View(Declared):
    """Input of a step: Gaussian noise, plus random coordinates along rows.

    Parameters
    ----------
    name : str
    adds : mapping of Row to expression
        Random coordinates along rows, which are added to the Gaussian noise. The rows may be
        trained.
    replaces : mapping of Row to expression
        Coordinates along fixed rows, which replace the Gaussian noise along these rows.
        Coefficients contain numbers, `Random` symbols and fields of earlier views.
    scale : expression, or sequence of them by block
        Factor of the noise, which may contain the same.
    fractions : sequence of expressions, optional
        Fractions of the coordinates in blocks. Overlaps of starts and runs then have a leading axis
        of blocks.

    Examples
    --------
    >>> import dmft
    >>> from dmft.rules import Random, View, fixed
    >>> spike = View("x", replaces={fixed("u"): Random("c", dmft.laws.Normal(variance=3.0))})
    >>> spike.name
    'x'
    """

    def __init__(
        self,
        name: str,
        adds: Mapping[Row, Any] | None = None,
        replaces: Mapping[Row, Any] | None = None,
        scale: Any = 1,
        fractions: Sequence[Any] = (1,),
    ) -> None:
        _check_name(name.replace("[", "").replace("]", ""))
        self.name, self.number, self.process = name, next(_COUNT), _PROCESS
        self.fractions = tuple(expression(y, f"a fraction of {name}") for y in fractions)
        count = len(self.fractions)
        if sum(self.fractions).is_number and abs(sum(self.fractions) - 1) > 1e-9:
            raise BadParameter(f"fractions = {list(self.fractions)} of {name} must add up to 1")
        self.adds, self.replaces = _latents(adds, name), _latents(replaces, name)
        every = list(scale) if isinstance(scale, list | tuple) else [scale] * count
        if len(every) != count:
            raise BadParameter(f"{name} has {len(every)} scales for {count} blocks")
        self.scales = tuple(expression(y, f"the scale of {name}") for y in every)
        self.group: tuple[View, ...] = (self,)
        self.covs: tuple[sp.MatrixBase, ...] = (sp.eye(1),) * count
        if count > 1 and self.replaces:
            raise BadParameter(
                f"{name}: coordinates are replaced in inputs of one block; use adds="
            )
        both = set(self.adds) & set(self.replaces)
        if both:
            raise BadParameter(f"{name}: {both.pop()} is added and replaced; choose one")
        for row in self.replaces:
            if not row.is_fixed:
                raise BadParameter(
                    f"{name} replaces its coordinate along {row}, which may move: the law of the "
                    'inputs would depend on what is learned; use adds=, or fixed("'
                    f'{row}")'
                )
        known = [*self.adds.values(), *self.replaces.values(), *self.scales]
        for field in {f for c in known for f in c.atoms(Field)}:
            assert isinstance(field, Field)
            if field.view.number >= self.number:
                raise BadParameter(f"{name}: latents depend on earlier views, got {field}")

    def __repr__(self) -> str:
        return self.name

    def letter(self, printer: Any) -> str:
        """LaTeX of its name; copies are numbered."""
        return str(printer.doprint(sp.Symbol(self.name.replace("[", "_").replace("]", ""))))

    @property
    def latents(self) -> dict[Row, sp.Expr]:
        """Coordinates along rows, added and replaced."""
        return {**self.adds, **self.replaces}


def _latents(given: Mapping[Row, Any] | None, name: str) -> dict[Row, sp.Expr]:
    if given is not None and not isinstance(given, Mapping):
        raise BadParameter(f"{name}: adds= and replaces= are {{row: latent}}, got {shown(given)}")
    for row in given or {}:
        if not isinstance(row, Row):
            raise BadParameter(f"{name}: latents are along rows, got {shown(row)}")
    return {row: expression(c, f"the latent along {row}") for row, c in (given or {}).items()}


def views(
    names: str,
    cov: Any,
    adds: Mapping[Row, Any] | Sequence[Mapping[Row, Any]] | None = None,
    replaces: Mapping[Row, Any] | Sequence[Mapping[Row, Any]] | None = None,
    scale: Any = 1,
    fractions: Sequence[Any] = (1,),
) -> tuple[View, ...]:
    """Return views that share their random coordinates and have jointly Gaussian noise.

    Parameters
    ----------
    names : str
        Names, separated by spaces.
    cov : (n, n) nested sequence, or one for each block
        Covariance of the noise of the views: numbers or expressions in parameters.
    adds, replaces, scale, fractions
        As in `View`; `adds` and `replaces` may be lists of one mapping for each view. If a second
        view keeps each coordinate with probability q and sets it to zero otherwise, its latent
        along a replaced row is q c + sqrt(q (1 - q)) xi with xi ~ N(0, 1).

    Returns
    -------
    tuple of View

    Examples
    --------
    >>> from dmft.rules import views
    >>> clean, noisy = views("x n", cov=[[1, 1], [1, 2]])
    >>> noisy
    n
    """
    known = names.split()
    own = [y if isinstance(y, list | tuple) else [y] * len(known) for y in (adds, replaces)]
    if {len(known)} != set(map(len, own)):
        raise BadParameter(
            f"adds= and replaces= of {names!r} must be a mapping, or a list of one mapping for each"
            " view"
        )
    every = tuple(View(n, a, r, scale, fractions) for n, a, r in zip(known, *own, strict=True))
    given = list(cov) if len(fractions) > 1 else [cov]
    if len(given) != len(fractions):
        raise BadParameter(f"cov has {len(given)} matrices for {len(fractions)} blocks")
    matrices = tuple(as_covariance(one, len(every)) for one in given)
    for view in every:
        view.group, view.covs = every, matrices
    return every


def copies(view: View, count: int) -> tuple[View, ...]:
    """Return independent copies of a view, with independent copies of its random coordinates.

    Parameters
    ----------
    view : View
    count : int

    Returns
    -------
    tuple of View

    Examples
    --------
    >>> from dmft.rules import View, copies
    >>> copies(View("x"), 2)
    (x[0], x[1])
    """
    if not isinstance(view, View):
        raise BadParameter(f"copies takes a View, got {shown(view)}")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise BadParameter(f"the number of copies must be a positive integer, got {shown(count)}")
    place = view.group.index(view)
    deviations = [sp.sqrt(matrix[place, place]) for matrix in view.covs]

    def copied(n: int) -> View:
        known = [*view.latents.values(), *view.scales]
        own = {
            r: Random(f"{r.name}[{n}]", r.law)
            for c in known
            for r in sorted(c.atoms(Random), key=str)
        }
        adds, replaces = (
            {row: c.xreplace(own) for row, c in part.items()} for part in (view.adds, view.replaces)
        )
        scales = [s.xreplace(own) * y for s, y in zip(view.scales, deviations, strict=True)]
        return View(f"{view.name}[{n}]", adds, replaces, scales, view.fractions)

    return tuple(copied(n) for n in range(count))


class Mean(sp.Expr):
    """Average over one step, a coefficient that is a number at given overlaps.

    Its arguments are what is averaged, and values of random numbers.
    """

    is_commutative = True
    is_real = True

    @classmethod
    def of(cls, expr: sp.Expr, given: Sequence[tuple[sp.Symbol, sp.Expr]] = ()) -> Mean:
        """The average given values of random numbers."""
        found: Mean = cls(expr, sp.Tuple(*(sp.Tuple(*pair) for pair in given)))
        return found

    def _latex(self, printer: Any) -> str:
        known = ", ".join(f"{printer._print(r)} = {printer._print(v)}" for r, v in self.args[1])
        inside = printer._print(self.args[0])
        return rf"\left\langle {inside} \right\rangle" + (f"_{{{known}}}" if known else "")

    def _sympystr(self, printer: Any) -> str:
        known = ", ".join(f"{r} = {v}" for r, v in self.args[1])
        return f"E[{printer._print(self.args[0])}{' | ' if known else ''}{known}]"


def mean(expr: Any) -> sp.Expr:
    """Return the average of an expression over one step, for use as a coefficient.

    Parameters
    ----------
    expr : sympy.Expr
        Expression in fields, random numbers and parameters.

    Returns
    -------
    sympy.Expr
    """
    return Mean.of(expression(expr, "an average"))
