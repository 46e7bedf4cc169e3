"""The sequence information exponent: the first order in which a student sees a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.exponents.record import Exponent, Witness
from dmft.gaussian.tables.token_grid import MOST_TOKENS, RULES
from dmft.gaussian.tables.token_orders import (
    Coefficients,
    overlap,
    student_coefficients,
    target_coefficients,
)
from dmft.model import Encoding, SequenceModel, as_encoding
from dmft.model.sequence import TokenFunction
from dmft.validation import checked

# Orders that are looked at where a function has no last one.
MAX_ORDER = 6
# D_k counts as zero below this part of the product of both tensors' norms (theory/sequence B).
ZERO_OVERLAP = 1e-8
# Norms of tensors below this are rounding.
ZERO_TENSOR = 1e-12
# Directions from which the largest value of an untied tensor of even order is looked for.
STARTS, ASCENT = 64, 200
NEVER = "m = 0 is attractive: a negative D_k of even order is never learned from a random start"


@dataclass(frozen=True, eq=False, repr=False)
class SequenceExponent(Exponent):
    r"""Information exponent of a target for a sequence model.

    Attributes
    ----------
    sign : int
        Sign of the coefficient D_k; 0 if there is none. For untied weights, 1 if some direction of
        the weights grows.
    overlaps : tuple of sympy.Expr
        Coefficients D_0, D_1, ..., D_k at the alignments `means` (for untied weights the norms of
        c_k(sigma) C*_k / k!).
    means : tuple of float
        Means e_l of the student's fields at which the exponent was computed.
    teacher_exponent : int or None
        Information exponent of the target itself, a lower bound.
    name, value, target, fields, witness, steps, proof, threshold
        As in `Exponent`.
    target_tensors, student_tensors : tuple of ndarray
        C*_0 .. C*_k of the target and C_0 .. C_k of the student.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> a, b = sp.symbols("a b", real=True)
    >>> product = dmft.SequenceTarget(a * b, [a, b])
    >>> exponent = dmft.sequence_information_exponent(product, dmft.Attention(2, "trace"))
    >>> int(exponent), exponent.sign, exponent.learned
    (2, -1, False)
    """

    sign: int = 0
    overlaps: tuple[sp.Expr, ...] = ()
    means: tuple[float, ...] = ()
    teacher_exponent: int | None = None
    target_tensors: tuple[Array, ...] = ()
    student_tensors: tuple[Array, ...] = ()

    @property
    def learned(self) -> bool:
        """Whether SGD from a random start leaves m = 0 (of both signs of m_0 for an odd order)."""
        return self.sign != 0 and not (self.sign < 0 and int(self) % 2 == 0)

    @property
    def tensor(self) -> Array:
        """Tensor C*_k (outputs, L, ..., L) of the target that determines the exponent."""
        if not self.target_tensors:
            raise BadParameter(f"no order of {self.target} determines the exponent")
        return self.target_tensors[-1]

    def explain(self) -> str:
        """Return the justification of the exponent, the number of samples, and what is learned."""
        where = f" at e = {list(self.means)}" if any(self.means) else ""
        if self.witness is None:
            return (
                f"{self.name} oo: no order up to {len(self.overlaps) - 1} of {self.target} "
                f"affects the risk of this student{where}; nothing is learned from these orders"
            )
        k = int(self)
        how = (
            "" if self.threshold is None else f", zero means below {self.threshold:g} of the norms"
        )
        lines = [
            f"{self.name} {k} of {self.target}{where} ({self.proof}{how}): D_{k} = "
            f"{sp.N(self.witness.value, 6)} decides, R = const - sum_k m^k D_k; the largest part "
            f"is that of He_{self.witness.index}"
        ]
        if not self.learned:
            lines.append(f"{NEVER} (D_{k} < 0)")
        else:
            lines.append(SAMPLES.get(k, SAMPLES[3]).format(k=k, power=k - 1))
        if self.sign < 0 and self.learned:
            lines.append("the sign is negative and the order odd: m grows from a negative start")
        return "\n".join(lines)

    def _repr_latex_(self) -> str:
        if self.witness is None:
            return r"$\displaystyle \infty$"
        return (
            rf"$\displaystyle {self.value}:\ D_{{{self.value}}} = {sp.latex(self.witness.value)}$"
        )


SAMPLES = {
    1: "of order d samples in dimension d (t of order one)",
    2: "of order d log d samples in dimension d at fixed gamma (d log^2 d with gamma ~ 1/log d)",
    3: "of order d^{power} samples in dimension d, gamma vanishing as d^-(({k} - 2)/2), from a "
    "start of the right sign where k is odd",
}


@checked
def sequence_information_exponent(
    target: TokenFunction,
    student: TokenFunction,
    encoding: Any = None,
    *,
    max_order: int = MAX_ORDER,
) -> SequenceExponent:
    r"""Compute the lowest order in m at which the risk of a sequence model depends on the target.

    Equation    R = const(e) - sum_k m^k D_k(e), D_k = sum_{|n|=k} <c*_n, c_n(e)> / n!;
                the exponent is min {k >= 1 : D_k != 0}. Untied: min {k : c_k(sigma) C*_k != 0}
    Shapes      int-valued result, oo if every order that was computed vanishes
    Valid for   polynomials and networks of the mean field at any length; other functions of up to
                four tokens; the trace of attention without encoding at any length, to order two.
                Exact for polynomials; otherwise zero means below 1e-8 of the norms of the tensors
    Source      theory/sequence B; derivations/sequence_sgd.py

    Parameters
    ----------
    target, student : SequenceTarget, Attention or SequenceNetwork
    encoding : as for `dmft.Model`
        Positional vectors. The exponent is evaluated at full alignment with them (e = r for an
        opposite pair of length r), and at e = 0 without an encoding.
    max_order : int
        Largest order for functions other than polynomials; all orders of polynomials are used.

    Returns
    -------
    SequenceExponent
        An integer, or oo, with `learned`, `witness` and `explain()`.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> a, b = sp.symbols("a b", real=True)
    >>> difference, trace = dmft.SequenceTarget(a - b, [a, b]), dmft.Attention(2, "trace")
    >>> dmft.sequence_information_exponent(difference, trace)
    oo
    >>> dmft.sequence_information_exponent(difference, trace, encoding=0.6)
    1
    """
    model = SequenceModel(student, target, encoding=encoding)  # checks lengths, shapes, encodings
    means = aligned_means(as_encoding(encoding, model.length))
    most = _most(target, student, max_order)
    theirs = target_coefficients(target, most)
    mine = student_coefficients(student, means, most, theirs)
    shown = target.outputs[0] if target.shape == (1, 1) else target.outputs
    facts = {
        "name": "sequence information exponent",
        "target": shown,
        "fields": target.fields,
        "means": tuple(means),
    }
    orders, threshold = _orders(theirs, mine, most)
    if model.tied:
        result = _judged(theirs, mine, orders, threshold, lambda k: overlap(theirs, mine, k), facts)
    else:
        gain = _untied(theirs, student, orders, most)
        result = _judged(theirs, mine, orders, threshold or ZERO_OVERLAP, gain, facts)
    if result.witness is None:
        _refuse_unknown(theirs, mine, student)
    return result


def _most(target: TokenFunction, student: TokenFunction, default: int) -> int:
    """Orders to compute: all of a polynomial, which has a last one, as far as nodes have them."""
    degrees = [
        max(sp.Poly(y, *f.fields).total_degree() for y in f.outputs)
        for f in (target, student)
        if f.polynomial
    ]
    known = [RULES[f.length][0] for f in (target, student) if f.length in RULES]
    return max(default, min([*degrees, *known])) if degrees else default


def _refuse_unknown(theirs: Coefficients, mine: Coefficients, student: TokenFunction) -> None:
    """Refuse to call infinite what orders that are not known may decide."""
    for one, other in ((theirs, mine), (mine, theirs)):
        beyond = range(other.order + 1, one.order + 1)
        if one.complete and not other.complete and any(one.norm(k) for k in beyond):
            raise BadParameter(
                f"no order up to {other.order} decides, and higher ones, which the target has, are "
                f"not known for {student}: use up to {MOST_TOKENS} tokens"
            )


def aligned_means(encoding: Encoding) -> list[float]:
    """Means of the fields of a student as aligned with the positional vectors as it can be."""
    if encoding.rank == 0:
        return [0.0] * encoding.length
    gram = np.array(encoding.gram.tolist(), dtype=float)[1:, 1:]
    # Of several vectors no combination is special: weights 1, 2, ... meet no symmetry.
    weights = np.arange(1.0, encoding.rank + 1)
    e = gram @ weights / np.sqrt(weights @ gram @ weights)
    pattern = np.array(encoding.pattern.tolist(), dtype=float)
    return [float(x) for x in pattern @ e]


def _orders(theirs: Coefficients, mine: Coefficients, most: int) -> tuple[range, float | None]:
    """Orders to look at, and the threshold of zero where the last one is not known."""
    last = min((c.order for c in (theirs, mine) if c.complete), default=most)
    known = (
        min(c.order for c in (theirs, mine) if not c.complete)
        if not (theirs.complete and mine.complete)
        else last
    )
    exact = theirs.exact and mine.exact
    return range(1, min(last, known) + 1), None if exact else ZERO_OVERLAP


def _judged(
    theirs: Coefficients,
    mine: Coefficients,
    orders: Sequence[int],
    threshold: float | None,
    value_of: Callable[[int], sp.Expr],
    facts: dict[str, Any],
) -> SequenceExponent:
    """Exponent of the first order that does not vanish."""
    first = _teacher_exponent(theirs)
    facts |= {"teacher_exponent": first, "threshold": threshold}
    facts["proof"] = "symbolic" if threshold is None else "numerical"
    found = [overlap(theirs, mine, 0)]
    for k in orders:
        size = theirs.norm(k) * mine.norm(k)
        value = sp.expand(value_of(k))
        vanishes = (
            bool(sp.simplify(value) == 0)
            if threshold is None
            else theirs.norm(k) < ZERO_TENSOR
            or mine.norm(k) < ZERO_TENSOR
            or abs(float(value)) < threshold * size
        )
        found.append(sp.S.Zero if vanishes else value)
        if vanishes:
            continue
        index = _largest(theirs, mine, k)
        return SequenceExponent(
            value=sp.Integer(k),
            witness=Witness(index, value),
            sign=1 if float(value) > 0 else -1,
            overlaps=tuple(found),
            target_tensors=tuple(theirs.tensor(j) for j in range(k + 1)),
            student_tensors=tuple(mine.tensor(j) for j in range(k + 1)),
            **facts,
        )
    return SequenceExponent(value=sp.oo, overlaps=tuple(found), **facts)


def _teacher_exponent(theirs: Coefficients) -> int | None:
    scale = np.sqrt(sum(theirs.norm(k) ** 2 for k in range(theirs.order + 1)))
    for k in range(1, theirs.order + 1):
        if theirs.norm(k) > ZERO_OVERLAP * scale:
            return k
    return None


def _largest(theirs: Coefficients, mine: Coefficients, k: int) -> tuple[int, ...]:
    """Multi-index with the largest part of D_k."""
    parts: dict[tuple[int, ...], float] = {}
    for y, other in zip(theirs.outputs, mine.outputs, strict=True):
        for n, c in y.items():
            if sum(n) == k and n in other:
                parts[n] = max(parts.get(n, 0.0), abs(float(c * other[n])))
    return max(parts, key=lambda n: (parts[n], n))


def _untied(
    theirs: Coefficients, student: TokenFunction, orders: Sequence[int], most: int
) -> Callable[[int], sp.Expr]:
    """What any direction of untied weights may gain, by order."""
    length = student.length
    # One index of every order.
    one = {(k, *[0] * (length - 1)): sp.S.One for k in range(most + 1)}
    found = student_coefficients(student, [0.0] * length, most, Coefficients([one], True, most))
    line = {
        k: float(next(c for n, c in found.outputs[0].items() if sum(n) == k)) * length ** (k / 2)
        for k in range(max(orders, default=0) + 1)
    }

    def value_of(k: int) -> sp.Expr:
        tensor = line[k] * theirs.tensor(k)[0] / float(sp.factorial(k))
        return sp.Float(largest_gain(tensor), 17)

    return value_of


def largest_gain(tensor: Array) -> float:
    """Value of a symmetric tensor where it is largest on the sphere; if none is positive, there.

    Matrices by their eigenvalues, vectors by their length, higher orders by ascent from several
    directions, so a lower bound of the largest value.
    """
    order = tensor.ndim
    if order == 1:
        return float(np.linalg.norm(tensor))
    if order == 2:
        return float(np.linalg.eigvalsh(tensor)[-1])
    rng = np.random.default_rng(0)
    best = -np.inf
    shift = order * float(np.linalg.norm(tensor))  # makes every step of the ascent go up
    for _ in range(STARTS):
        u = rng.standard_normal(tensor.shape[0])
        for _ in range(ASCENT):
            v = _contracted(tensor, u) + shift * u
            u = v / np.linalg.norm(v)
        best = max(best, float(_contracted(tensor, u) @ u))
    return best


def _contracted(tensor: Any, u: Any) -> Any:
    while tensor.ndim > 1:
        tensor = tensor @ u
    return tensor
