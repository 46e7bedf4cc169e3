r"""Fluctuations of sequence models at large d: what one step adds to the alignments.

    ds = F dt + sqrt(gamma/(d n_b)) Sigma^(1/2) dB,    Sigma = Cov[delta]

(untied L d in place of d; Ito). One sample moves w by -(gamma/d) sum_l g_l (x_l + p_l) and back to
the sphere. With u_s the same along the direction of the alignment s, r along w, and q = sum g_l^2,
which the part of the tokens across all directions is made of,

    delta_s = s (r - gamma q / (2 n_b)) - u_s

is what it adds to s in units of gamma/d, of mean F. In steps of one sample F has its terms at
order 1/d, from the next order of the normalisation (theory/sequence C.1, C.5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.equations import symbols as x
from dmft.equations.averages.nodes import noise_rule
from dmft.equations.definitions import Definition, define
from dmft.equations.noise.record import WrittenNoise, check_dimension, declared_dimension
from dmft.equations.parameter_values import Values
from dmft.equations.sequence.moments import SequenceMoments
from dmft.equations.views.latex import EquationPrinter, definition_latex
from dmft.errors import BadParameter
from dmft.gaussian.nodes.rules import NodeRule
from dmft.model import SGD, Alignment, GradientFlow, SequenceModel

# The name of what a step adds at order 1/d, as of any term.
TERM = "finite_dimension"
# Variances of directions below this are rounding.
NO_DIRECTION = 1e-13

RADIAL, SQUARE, LENGTH = sp.symbols("r q K", real=True)
LENGTH_IS = "K + {count} q is the squared length of G in the span of w, w* and the positions"


@dataclass(frozen=True)
class SequenceNoise(WrittenNoise):
    """Fluctuations of the alignments of a sequence model."""

    model: SequenceModel

    # Symbols --------------------------------------------------------------------------------

    @property
    def alignments(self) -> tuple[sp.Symbol, ...]:
        """Alignments in the order of the packed state."""
        return (*self.model.encoding.alignments, *SequenceMoments(self.model).law.semantic)

    @property
    def tokens(self) -> int:
        """Fields that the student reads: one of an untied network."""
        return self.model.length if self.model.tied else 1

    @cached_property
    def directions(self) -> tuple[Array, Array]:
        """Rows w*, b_a in orthonormal directions, and positional vectors of the tokens in them."""
        if not self.model.tied:
            return np.eye(self.model.length), np.zeros((1, self.model.length))
        gram = np.array(self.model.encoding.gram.tolist(), dtype=float)
        values, columns = np.linalg.eigh(gram[1:, 1:] - np.outer(gram[1:, 0], gram[0, 1:]))
        kept = values > NO_DIRECTION * max(1.0, float(np.max(values, initial=0.0)))
        rows = np.zeros((len(gram), 1 + int(kept.sum())))
        rows[:, 0], rows[1:, 1:] = gram[:, 0], columns[:, kept] * np.sqrt(values[kept])
        pattern = np.array(self.model.encoding.pattern.tolist(), dtype=float)
        return rows, pattern.reshape(self.model.length, -1) @ rows[1:]

    @property
    def noises(self) -> tuple[sp.Symbol, ...]:
        """Noise of each label."""
        return sp.symbols(f"xi_1:{1 + len(list(self.model.teacher.outputs))}", real=True)

    @cached_property
    def fields(self) -> tuple[tuple[sp.Symbol, ...], ...]:
        """Fields h of the student, h* of the target, and tokens along each alignment (t, s)."""
        h = sp.symbols(f"h_1:{1 + self.tokens}", real=True)
        star = sp.symbols(f"h^*_1:{1 + self.model.length}", real=True)
        along = [
            sp.Symbol(f"x_{s}_{t}", real=True)
            for t in range(1, 1 + self.tokens)
            for s in self.alignments
        ]
        return h, star, tuple(along)

    @cached_property
    def sample(self) -> tuple[Definition, ...]:
        """Slopes g_l of the loss at one sample, and what they add up to along each direction."""
        h, star, along = self.fields
        student: Sequence[sp.Expr] = list(self.model.student.outputs)
        mine: Sequence[sp.Symbol] = self.model.student.fields
        if not self.model.tied:
            student, mine = self.model.student.reduced
        to_star = dict(zip(self.model.teacher.fields, star, strict=True))
        to_h = dict(zip(mine, h, strict=True))
        labels = [
            y.xreplace(to_star) + xi
            for y, xi in zip(self.model.teacher.outputs, self.noises, strict=True)
        ]
        outputs = [f.xreplace(to_h) for f in student]
        own = int(self.algorithm.loss != "correlation")
        gaps = [own * f - y for f, y in zip(outputs, labels, strict=True)]
        size = sp.S.One
        if self.algorithm.loss == "frobenius":
            size = sp.sqrt(sp.Add(*(gap**2 for gap in gaps)))
        slopes = sp.symbols(f"g_1:{1 + self.tokens}", real=True)
        found = [
            define(
                g,
                {
                    "slope": sp.Add(*(y * _slope(f, z) for y, f in zip(gaps, outputs, strict=True)))
                    / size
                },
                "sample",
            )
            for g, z in zip(slopes, h, strict=True)
        ]
        found.append(
            define(
                RADIAL, {"r": sp.Add(*(g * z for g, z in zip(slopes, h, strict=True)))}, "sample"
            )
        )
        found.append(define(SQUARE, {"q": sp.Add(*(g**2 for g in slopes))}, "sample"))
        count = len(self.alignments)
        for n, s in enumerate(self.alignments):
            parts = [g * y for g, y in zip(slopes, along[n::count], strict=True)]
            found.append(define(_step(s), {"u": sp.Add(*parts)}, "sample"))
        return tuple(found)

    @property
    def push(self) -> sp.Expr:
        """What a sample takes off the length of w, in units of gamma/d."""
        return RADIAL - x.gamma * SQUARE / (2 * self.algorithm.batch_size)

    @cached_property
    def increments(self) -> tuple[Definition, ...]:
        """What a sample adds to each alignment, in units of gamma/d."""
        return tuple(
            define(
                sp.Symbol(f"delta_{s}", real=True), {"delta": s * self.push - _step(s)}, "sample"
            )
            for s in self.alignments
        )

    @cached_property
    def excess(self) -> tuple[Definition, ...]:
        """The next order of a step of one sample, times (gamma/d)^2; `LENGTH` is |G|^2 there."""
        if not self.terms:
            return ()
        push, half = self.push, sp.Rational(1, 2)
        return tuple(
            define(
                sp.Symbol(f"epsilon_{s}", real=True),
                {TERM: s * (3 * push**2 - LENGTH) * half - _step(s) * push},
                "sample",
            )
            for s in self.alignments
        )

    @property
    def normals(self) -> tuple[sp.Symbol, ...]:
        """Independent normal variables: tokens along each direction and w, then the noise."""
        count = self.tokens * (self.directions[0].shape[1] + 1) + len(self.noises)
        return sp.symbols(f"n_0:{count}", real=True)

    @cached_property
    def at_nodes(self) -> tuple[tuple[sp.Expr, ...], tuple[sp.Expr, ...]]:
        """Increments and next order, in the normal variables, the alignments and parameters."""
        rows, shift = self.directions
        h, star, along = self.fields
        count, normals = rows.shape[1], iter(self.normals)
        m, e = SequenceMoments(self.model).law.semantic, self.model.encoding.alignments
        scale = 1 if self.model.tied else sp.sqrt(self.model.length)
        s = sp.Matrix([*m, *e]) / scale
        v = _exact(np.linalg.pinv(rows)) * s
        rest = sp.sqrt(sp.Max(0, 1 - sp.Add(*(y**2 for y in v))))
        values: dict[sp.Expr, sp.Expr] = {}
        slopes = [d.target for d in self.sample[: self.tokens]]
        mine, push = [sp.S.Zero] * count, sp.S.Zero
        for t in range(self.tokens):
            free = [next(normals) for _ in range(count)]
            across = next(normals)
            here = [y + z for y, z in zip(free, _exact(shift[t : t + 1]), strict=True)]
            values[h[t]] = sp.Add(*(a * b for a, b in zip(v, here, strict=True))) + rest * across
            seen = _exact(rows) * sp.Matrix(here) * scale
            order = [*seen[len(m) :], *seen[: len(m)]] if self.model.tied else list(seen)
            values |= dict(zip(along[t * len(s) :], order, strict=False))
            values |= {star[t]: free[0]} if self.model.tied else dict(zip(star, free, strict=True))
            mine = [u + slopes[t] * y for u, y in zip(mine, here, strict=True)]
            push += slopes[t] * across
        deviation = sp.sqrt(x.Delta)
        values |= {xi: deviation * next(normals) for xi in self.noises}
        length = sp.Add(*(u**2 for u in mine)) + push**2 - (count + 1) * SQUARE
        defined: dict[sp.Expr, sp.Expr] = {}
        for d in self.sample:
            defined[d.target] = d.expr.xreplace(defined).xreplace(values)
        defined[LENGTH] = length.xreplace(defined)
        first, second = (
            tuple(d.expr.xreplace(defined) for d in kind) for kind in (self.increments, self.excess)
        )
        return first, second

    # As of other fluctuations -----------------------------------------------------------------

    @property
    def known_terms(self) -> tuple[str, ...]:
        """Named terms of the drift at order 1/d; of larger batches they are left out."""
        return (TERM,) if self.algorithm.batch_size == 1 else ()

    @property
    def has_cone(self) -> bool:
        """Whether the loss is the norm, whose slope is 0/0 where y = f: such nodes are left out."""
        return self.algorithm.loss == "frobenius"

    @property
    def unread(self) -> set[str]:
        """Declared parameters that are no run-time values of the covariance."""
        return {"batch_size", "readout_rate"}

    def rule(self, size: int, options: Mapping[str, Any]) -> NodeRule:
        """Nodes of the increments; `options` may contain nodes, replicas, seed."""
        return noise_rule(max(len(self.normals), 2 * self.model.length), False, options)

    def check(self, values: Values, start: Any, given: Mapping[str, Any]) -> None:
        """Refuse a dimension that is no count, or too small for the directions."""
        dim, rank = check_dimension(values, given), self.directions[0].shape[1]
        if values.widths["p"] * dim <= rank:
            raise BadParameter(
                f"dim = {dim:g} is too small for the target and {rank - 1} more directions"
            )

    def random_start(self, dim: int, seed: int) -> Alignment:
        """Alignments of a w that is uniform on the sphere."""
        rows, tied = self.directions[0], self.model.tied
        weights = dim if tied else dim * self.model.length
        draw = np.random.default_rng(seed)
        v: Array = np.asarray(draw.standard_normal(rows.shape[1]))
        s = rows @ v / np.sqrt(v @ v + draw.chisquare(weights - v.size))
        if not tied:
            return Alignment(m=s * np.sqrt(self.model.length))
        radius = float(np.sqrt(np.max(np.sum(rows[1:] ** 2, axis=1), initial=1.0)))
        e = s[1:] if len(s) > 2 else s[1] if len(s) == 2 else 0.0
        return Alignment(e, s[0], radius)

    @property
    def length_text(self) -> str:
        """What stands for the length of the gradient."""
        return LENGTH_IS.format(count=self.directions[0].shape[1] + 1)

    # Text -----------------------------------------------------------------------------------

    def latex(self, printer: EquationPrinter, known: Sequence[Definition]) -> list[str]:
        """Align lines: the stochastic equation and what a step adds."""
        batch = self.algorithm.batch_size
        size = "d" if self.model.tied else f"{self.model.length} d"
        size += "" if batch == 1 else rf" \cdot {batch}"
        names = ", ".join(printer.doprint(s) for s in self.alignments)
        lines = [
            rf"d({names}) &= F\,dt + \sqrt{{\frac{{\gamma}}{{{size}}}}}\;\Sigma^{{1/2}}\,dB_t,"
            r"\quad \Sigma = \mathrm{Cov}\bigl[\delta\bigr]"
        ]
        for d in (*self.sample, *self.increments, *self.excess):
            lines += definition_latex(d, printer)
        if self.excess:
            lines.append(rf"&\text{{{self.length_text}}}")
            lines.append(
                r"&\text{and in } F \text{ at order } 1/d\text{: } \langle \epsilon \rangle"
            )
        return lines

    def text(self) -> list[str]:
        """What a terminal shows below the equations."""
        small = [] if self.excess else ["F is that of d → ∞: its terms at order 1/d are left out."]
        return [f"Ito equation; {self.approximation}.", *small]


def _slope(f: sp.Expr, z: sp.Symbol) -> sp.Expr:
    """Derivative by a field."""
    found = sp.diff(f, z)
    if found.has(sp.DiracDelta):
        raise BadParameter(f"the student {f} jumps: the gradient of a sample does not exist")
    return found


def _step(s: sp.Symbol) -> sp.Symbol:
    return sp.Symbol(f"u_{s}", real=True)


def _exact(rows: NDArray[Any]) -> sp.Matrix:
    """A matrix of numbers, whole ones as integers."""
    whole = [[sp.Integer(round(y)) if y == round(y) else sp.Float(y, 17) for y in r] for r in rows]
    return sp.Matrix(whole) if whole else sp.zeros(0, 0)


def sequence_noise(model: SequenceModel, algorithm: SGD | GradientFlow, dim: Any) -> SequenceNoise:
    """Fluctuations of an algorithm, or a refusal."""
    dimension = declared_dimension(algorithm, dim)
    assert not algorithm.is_flow
    noise = SequenceNoise(model, algorithm, dimension)
    h, star, along = noise.fields
    own = {s.name for s in (*h, *star, *along, *noise.noises, *noise.normals)}
    own |= {d.name for d in (*noise.sample, *noise.increments, *noise.excess)} | {str(LENGTH)}
    for symbol in model.parameters:
        if symbol.name in own:
            raise BadParameter(
                f"the symbol {symbol} is reserved in equations with fluctuations; rename it"
            )
    return noise
