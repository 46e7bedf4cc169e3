"""`learned_directions`: which directions of the teacher one or two steps of descent find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations.derive import derive
from dmft.equations.restrict.unreachable import Symmetry, closing, reach, symmetries
from dmft.equations.two_time.descent import DescentEquations
from dmft.equations.two_time.short_integrals import Number, ShortIntegrals, rational
from dmft.equations.two_time.short_times import SecondStep, short_times
from dmft.errors import BadParameter
from dmft.gaussian.exponents.leap_proofs import Label
from dmft.gaussian.exponents.leaps import as_combination, canonical
from dmft.model import (
    Committee,
    GradientDescent,
    Model,
    MultiIndex,
    Overlaps,
    check_identity,
    check_unflipped,
)
from dmft.model.network import teacher_fields
from dmft.record import InLatex, Record
from dmft.summary import Summary, figures
from dmft.typeset.fragment import align
from dmft.validation import checked_or

# Overlaps below this, or below SAFETY times the error of their integral, count as zero.
THRESHOLD, SAFETY = 1e-8, 10.0
# Integrals of one or two fields reach this.
RTOL = 1e-7
# Powers of y that are tried as a witness.
POWERS = 4


@dataclass(frozen=True, eq=False)
class LearnedDirection(Record):
    """Result for one subspace of the teacher.

    Attributes
    ----------
    directions : (n, k)
        Orthonormal rows; `names` are combinations of the fields.
    step : int or None
        Step after which the overlap is finite; None if this does not happen in the requested steps.
    never : bool
        Whether a symmetry keeps the overlap at zero for any number of steps.
    overlap, error : (p, n)
        Overlap of the student with these directions after `step` (after the last step where there
        is none), before rows are divided by their lengths on the sphere, and its error.
    proof : str
        "symbolic" (closed forms and symmetries) or "numerical" (zero means below `threshold`).
    threshold : float or None
    reason : str
        The integral or the symmetry that determines the result.
    statement : str
        The reason as LaTeX.
    fields : tuple of sympy.Symbol
        Of the target.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> model = dmft.Model(dmft.Committee(sp.erf(z), 1), dmft.MultiIndex(z**2, [z]))
    >>> row = dmft.learned_directions(model, dmft.GradientDescent(0.3, 3)).table[0]
    >>> row.when, row.proof
    ('never', 'symbolic')
    """

    directions: Array
    fields: tuple[sp.Symbol, ...]
    step: int | None
    never: bool
    overlap: Array
    error: Array
    proof: str
    threshold: float | None
    reason: str
    statement: str

    @property
    def names(self) -> list[sp.Expr]:
        """Directions as combinations of the fields, largest entry one."""
        return [as_combination(v, self.fields) for v in self.directions]

    @property
    def name(self) -> str:
        """Directions in one line."""
        return ", ".join(map(str, self.names))

    @property
    def when(self) -> str:
        """Time of learning, as text: "step 2", "never" or "not yet"."""
        if self.step is not None:
            return f"step {self.step}"
        return "never" if self.never else "not yet"


@dataclass(frozen=True, eq=False)
class LearnedDirections(InLatex, Record):
    """Table of teacher directions and of the steps in which they are learned.

    Attributes
    ----------
    target, fields
        Noiseless label and its fields.
    algorithm : GradientDescent
    steps : int
    table : tuple of LearnedDirection
        Rows, in the order of learning.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> model = dmft.Model(dmft.Committee(sp.erf(z), 1), dmft.MultiIndex(z**2, [z]))
    >>> dmft.learned_directions(model, dmft.GradientDescent(0.3, 3))
    LearnedDirections(z_1: never)
    """

    target: sp.Expr
    fields: tuple[sp.Symbol, ...]
    algorithm: GradientDescent
    steps: int
    table: tuple[LearnedDirection, ...]

    @property
    def proof(self) -> str:
        """Kind of proof: "symbolic" if it is for every row, otherwise "numerical"."""
        return "symbolic" if all(r.proof == "symbolic" for r in self.table) else "numerical"

    @property
    def learned(self) -> Array:
        """Directions (n, k) with a finite overlap after the steps."""
        rows = [r.directions for r in self.table if r.step is not None]
        return np.concatenate(rows) if rows else np.zeros((0, len(self.fields)))

    def _summary(self) -> Summary:
        rows = []
        for row in self.table:
            size = (
                "0" if row.step is None else figures(np.linalg.norm(row.overlap), np.max(row.error))
            )
            rows.append((f"${', '.join(map(sp.latex, row.names))}$", row.when, size, row.proof))
        return Summary(
            f"Directions of $y = {sp.latex(self.target)}$ that {self.steps} steps of "
            f"{_words(self.algorithm)} find",
            tuple(rows),
            ("direction", "found", "overlap", "proof"),
            ("`.explain()` gives the integral or the symmetry for each row.",),
        )

    def explain(self) -> str:
        """Return the integral or the symmetry that explains each row, as text.

        Returns
        -------
        str

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> z = sp.Symbol("z", real=True)
        >>> model = dmft.Model(dmft.Committee(sp.erf(z), 1), dmft.MultiIndex(z**2, [z]))
        >>> found = dmft.learned_directions(model, dmft.GradientDescent(0.3, 3), steps=1)
        >>> print(found.explain().splitlines()[0])
        y = z1**2, 1 steps of gradient descent
        """
        lines = [f"y = {self.target}, {self.steps} steps of {_words(self.algorithm)}"]
        for r in self.table:
            zero = "" if r.threshold is None else f", zero means below {r.threshold:.1g}"
            lines.append(f"{r.name}: {r.when} ({r.proof}{zero}): {r.reason}")
        return "\n".join(lines)

    def latex(self) -> str:
        r"""Return a LaTeX align environment with one statement for each direction.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> z = sp.Symbol("z", real=True)
        >>> model = dmft.Model(dmft.Committee(sp.erf(z), 1), dmft.MultiIndex(z**2, [z]))
        >>> found = dmft.learned_directions(model, dmft.GradientDescent(0.3, 3), steps=1)
        >>> found.latex().startswith(r"\begin{align*}")
        True
        """
        return align([rf"{_names_latex(r)}:\ & {r.statement}" for r in self.table])


@checked_or(algorithm="on repeated data; dmft.learnability compares algorithms")
def learned_directions(
    model: Model, algorithm: GradientDescent, steps: int = 2, *, rtol: float = RTOL
) -> LearnedDirections:
    r"""Compute which directions are learned in the first two steps on repeated data.

    Equation    M^1 v = -eta alpha E[g^0 v.h*];  M^2 v = -eta alpha E[g^1 v.h*] where M^1 v = 0,
                g^1 at h^1 = M^1 h* + r^1 - eta g^0(h^0, y)
    Shapes      one row for each subspace, directions (n, k), overlaps (p, n)
    Scaling     d -> infinity at n = samples_per_dim * d; start M = 0, Q = 1, orthonormal teacher
    Valid for   numerical values of all parameters
    Source      theory/batch_reuse B.1, B.2

    Parameters
    ----------
    model : Model
    algorithm : GradientDescent
        Algorithm. With ``batch="fresh"`` the result holds for one-pass SGD.
    steps : 1 or 2
    rtol : float
        Relative tolerance of each integral.

    Returns
    -------
    LearnedDirections
        Record that can be printed or displayed; its attribute ``table`` contains the rows.

    Raises
    ------
    BadParameter

    Notes
    -----
    - In the second step, a direction v is generically learned if E[v.h* | y, M^1 h*] != 0.
    - "never" holds for any number of steps. It is proved by a signed permutation of the fields that
      leaves the label y unchanged.
    - Overlaps after step 1 are closed forms if these exist; overlaps after step 2 are integrals
      with an error bound.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z, z1, z2 = sp.symbols("z z1 z2", real=True)
    >>> target = dmft.MultiIndex(z1 + z2**2, [z1, z2])
    >>> model = dmft.Model(dmft.Committee(sp.erf(z / sp.sqrt(2)), 1), target)
    >>> print(dmft.learned_directions(model, dmft.GradientDescent(0.3, 3), steps=1))
    Directions of y = z_1 + z_2² that 1 steps of gradient descent find
      direction  found   overlap   proof
      z_1        step 1  0.507771  symbolic
      z_2        never   0         symbolic
    `.explain()` gives the integral or the symmetry for each row.
    """
    if steps not in (1, 2):
        raise BadParameter(
            f"steps must be 1 or 2 (closed integrals), got {steps!r}: use dmft.solve for more"
        )
    equations = derive(model, algorithm)
    assert isinstance(equations, DescentEquations)
    target, fields = _target(model)
    p, k = _width(model), len(fields)
    start = Overlaps(np.eye(p), np.zeros((p, k)))
    found = ShortIntegrals(equations, short_times(equations).definitions, start, rtol, {})
    bound = symmetries(target, fields, model.student.activation, algorithm)
    open_rows = reach(bound, k)
    open_rows = canonical(open_rows) if len(open_rows) else open_rows
    rows = _first_step(found, fields, open_rows)
    rest = _complement(open_rows, [r.directions for r in rows])
    if steps == 2 and len(rest):
        found.close(0, found.first)
        rows += _second_step(found, target, fields, rest)
    elif len(rest):
        rows += [_not_asked(found, fields, v) for v in rest]
    rows += _forbidden(bound, fields, open_rows, p)
    return LearnedDirections(target, fields, algorithm, steps, tuple(rows))


def _target(model: Model) -> tuple[sp.Expr, tuple[sp.Symbol, ...]]:
    """The noiseless label in its fields."""
    check_identity(model, "learned directions are computed")
    check_unflipped(model, "learned directions are computed")
    teacher = getattr(model, "teacher", None)
    if not isinstance(teacher, Committee | MultiIndex) or not teacher.width.is_Integer:
        raise BadParameter(
            f"learned_directions needs a teacher of known width or a MultiIndex, got {teacher!r}"
        )
    fields = teacher_fields(int(teacher.width))
    return teacher.outputs_at(fields)[0], fields


def _width(model: Model) -> int:
    width = model.student.width
    if not width.is_Integer:
        raise BadParameter(f"the student's width must be a number, got {width}")
    return int(width)


def _complement(space: Array, taken: Sequence[Array]) -> Array:
    """Rows of `space` orthogonal to what is taken."""
    used = [t for t in taken if len(t)]
    if not used or not len(space):
        return space
    inside = np.concatenate(used) @ space.T
    _, singular, right = np.linalg.svd(inside)
    rest = right[int((singular > THRESHOLD).sum()) :] @ space
    return canonical(rest) if len(rest) else rest


def _overlaps(found: ShortIntegrals, averages: list[list[Number]]) -> tuple[Array, Array]:
    """-eta alpha times averages (p, n), and the errors."""
    scale = found.scalars["learning_rate"] * found.scalars["samples_per_dim"]
    values = np.array([[float(a) for a in row] for row in averages])
    errors = np.array([[a.error for a in row] for row in averages])
    return -scale * values, scale * errors


def _first_step(
    found: ShortIntegrals, fields: tuple[sp.Symbol, ...], space: Array
) -> list[LearnedDirection]:
    """The direction of E[y h*], if the student sees it."""
    star = found.first["star"]
    overlap, error = _overlaps(found, star)
    exact = all(a.error == 0 for row in star for a in row)
    threshold = 0.0 if exact else max(THRESHOLD, SAFETY * float(error.max()))
    if np.abs(overlap).max() <= threshold or not len(space):
        return []
    # Components that are not apart from zero would turn the direction by their errors.
    clear = np.where(np.abs(overlap) > threshold, overlap, 0.0)
    direction = canonical(_rows_of(clear, threshold))
    shown, shown_error = overlap @ direction.T, error @ np.abs(direction).T
    value = float(np.linalg.norm(shown))
    name = as_combination(direction[0], fields)
    return [
        LearnedDirection(
            direction, fields, 1, False, shown, shown_error,
            "symbolic" if exact else "numerical", None if exact else threshold,
            f"|M^1 v| = eta alpha |E[g^0 v.h*]| = {value:.6g}, v = {name}",
            rf"M^1_j v = -\eta\alpha\, \langle g^0_j\, v\cdot h^* \rangle,\quad "
            rf"\lVert M^1 v \rVert = {value:.6g}",
        )
    ]  # fmt: skip


def _rows_of(overlap: Array, threshold: float) -> Array:
    """Orthonormal rows of the span of the rows of M."""
    _, singular, right = np.linalg.svd(overlap, full_matrices=False)
    rank = int((singular > max(threshold, 1e-12 * singular[0])).sum())
    result: Array = right[:rank]
    return result


def _second_step(
    found: ShortIntegrals, target: sp.Expr, fields: tuple[sp.Symbol, ...], space: Array
) -> list[LearnedDirection]:
    """The integral at t = 1 of each direction that the first step has not found."""
    step = SecondStep(found)
    rows = []
    for v in space:
        form = sp.Add(*(_exact(c) * u for c, u in zip(v, found.star, strict=True)))
        gradients = step.sample["g"][: 1 if found.exchangeable else None]
        averages = [[step.integral(g, form)] for g in gradients]
        averages *= found.p // len(gradients)
        overlap, error = _overlaps(found, averages)
        threshold = max(THRESHOLD, SAFETY * float(error.max()))
        value, noise = float(np.linalg.norm(overlap)), float(np.linalg.norm(error))
        name = as_combination(v, fields)
        seen = bool(np.abs(overlap).max() > threshold)
        size = f"= {value:.6g}" if seen else f"is below {threshold:.1g}"
        reason = f"|M^2 v| = eta alpha |E[g^1 v.h*]| {size}, v = {name}"
        witness = _witness(found, target, fields, v)
        if seen and witness:
            reason += f"; for generic students and rates too: {witness}"
        elif not seen:
            reason += (
                f"; {witness} says that a generic student or rate would find it"
                if witness
                else "; no symmetry forbids it later"
            )
        statement = (
            rf"M^2_j v = -\eta\alpha\, \langle g_j(h^1, y)\, v\cdot h^* \rangle,\quad "
            rf"\lVert M^2 v \rVert = {value:.6g} \pm {noise:.0e}"
        )
        rows.append(
            LearnedDirection(
                v[None], fields, 2 if seen else None, False, overlap, error, "numerical",
                threshold, reason, statement,
            )
        )  # fmt: skip
    return sorted(rows, key=lambda r: r.step is None)


def _exact(coefficient: float) -> sp.Expr:
    """Zero and one as they are, so that integrals keep their dimension."""
    near = round(coefficient)
    return sp.Integer(near) if abs(coefficient - near) < 1e-14 else sp.Float(coefficient, 20)


def _witness(
    found: ShortIntegrals, target: sp.Expr, fields: tuple[sp.Symbol, ...], direction: Array
) -> str | None:
    """An exact moment E[y^m v.h*] != 0, in words."""
    noise = rational(found.scalars["label_noise"])
    form = as_combination(direction, fields)
    if form.has(sp.Float):
        return None
    for power in range(2, POWERS + 1):
        value = Label(target, fields, noise).moment(power, form)
        if value is None:
            return None
        if value != 0:
            return f"E[y^{power} ({form})] = {sp.simplify(value)}"
    return None


def _not_asked(found: ShortIntegrals, fields: tuple[sp.Symbol, ...], v: Array) -> LearnedDirection:
    """What the first step leaves at zero and the second may find."""
    zero = np.zeros((found.p, 1))
    return LearnedDirection(
        v[None], fields, None, False, zero, zero, "symbolic", None,
        f"E[g^0 v.h*] = 0 for v = {as_combination(v, fields)}; a second step may find it",
        r"M^1 v = 0",
    )  # fmt: skip


def _forbidden(
    bound: Sequence[Symmetry], fields: tuple[sp.Symbol, ...], open_rows: Array, p: int
) -> list[LearnedDirection]:
    """What a symmetry keeps at zero for ever."""
    k = len(fields)
    _, singular, right = np.linalg.svd(np.concatenate([open_rows, np.zeros((1, k))]))
    rest = right[int((singular > 0.5).sum()) :]
    if not len(rest):
        return []
    rest = canonical(rest)
    result = []
    for row in rest:
        alone = closing(bound, row)
        how = alone.text(fields) if alone else "; ".join(s.text(fields) for s in bound[:3])
        shown = alone.text(fields, latex=True) if alone else r"\text{symmetries of } y"
        zero = np.zeros((p, 1))
        result.append(
            LearnedDirection(
                row[None], fields, None, True, zero, zero, "symbolic", None,
                f"M^t v = 0 at every t, because {how}",
                rf"M^t v = 0 \text{{ for all }} t, \quad {shown}",
            )
        )  # fmt: skip
    return result


def _names_latex(row: LearnedDirection) -> str:
    return r",\ ".join(sp.latex(n) for n in row.names)


def _words(algorithm: GradientDescent) -> str:
    kinds = {None: "gradient descent", "fresh": "one pass", "bernoulli": "mini-batches",
             "reshuffle": "shuffled mini-batches"}  # fmt: skip
    return kinds[algorithm.batch]
