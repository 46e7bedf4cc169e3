"""Equations of motion of the alignments of a sequence model: a state and a law of `Equations`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.checks import shown
from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.averages.joint_average import check_finite, joint_rule
from dmft.equations.changes.user_terms import Indices, TermCheck, named_symbols, users_of
from dmft.equations.definitions import Definition, define, live
from dmft.equations.equations import Equations
from dmft.equations.sequence.fluctuations import SequenceNoise
from dmft.equations.sequence.moments import SequenceMoments
from dmft.equations.sequence.risk import SequenceRisk, place
from dmft.equations.values import (
    NODE_OPTIONS,
    Values,
    declared_parameters,
    resolve_scalars,
    with_nodes,
)
from dmft.equations.views.explicit import ExplicitEquations, unroll
from dmft.equations.views.latex import EquationPrinter
from dmft.errors import BadParameter
from dmft.gaussian.nodes.rules import NodeRule
from dmft.gaussian.tables.tabled import PlacedAverage
from dmft.model import SGD, Alignment, GradientFlow, SequenceModel

Array = NDArray[np.float64]

TIME = "t = steps * learning_rate / d"
TIME_UNTIED = "t = steps * learning_rate / (L d)"


@dataclass(frozen=True, repr=False)
class SequenceEquations(Equations):
    r"""Closed equations of the alignments e and m on the sphere; all else is as in `Equations`.

    The state is a number for each alignment, and the definitions are in these: the slopes of the
    loss, pull = s . grad L, noise = E|J^T (g - g*)|^2, slope = E||J||_F^2, rates, risk and overlap.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> a, b = sp.symbols("a b", real=True)
    >>> target = dmft.SequenceTarget((a + b) / sp.sqrt(2), [a, b])
    >>> model = dmft.Model(dmft.SequenceNetwork(sp.Max(0, a), 2), target)
    >>> print(dmft.derive(model, dmft.GradientFlow()).explicit())
    dm/dt = 1/2 - m**2/2
    >>> sorted(dmft.derive(model, dmft.SGD(0.5)).terms["m"])
    ['label_noise', 'learning', 'sgd_noise', 'sphere']
    """

    family: ClassVar[str] = "sequence"
    start_type: ClassVar[type] = Alignment
    instead: ClassVar[Mapping[str, str]] = {
        "fixed points": "those of a sequence model are the minima of its risk, "
        "dmft.landscape(model)",
        "linear noise": "paths of a sequence model spread as dmft.solve(equations, start, t_max, "
        "paths=..., dt=...) says",
    }
    model: SequenceModel
    noise: SequenceNoise | None = None  # type: ignore[assignment]

    # What they hold -------------------------------------------------------------------------

    @property
    def blocks(self) -> dict[str, tuple[sp.Symbol, ...]]:
        """Symbols of the components of e and m."""
        return {"e": self.model.encoding.alignments, "m": SequenceMoments(self.model).law.semantic}

    @property
    def risk(self) -> SequenceRisk:
        """Population risk 1/2 E|g - g*|^2."""
        return SequenceRisk(self.model)

    @property
    def terms(self) -> dict[str, dict[str, sp.Expr]]:
        """Rates by block and by named term: expressions, or columns of their components."""
        single, found = self.rate_terms, {}
        for block, symbols in self.blocks.items():
            rows = [single[str(s)] for s in symbols]
            names = dict.fromkeys(name for row in rows for name in row)
            parts = {n: [row.get(n, sp.S.Zero) for row in rows] for n in names}
            found[block] = {
                n: y[0] if len(y) == 1 else sp.ImmutableDenseMatrix(y) for n, y in parts.items()
            }
        return {block: terms for block, terms in found.items() if self.blocks[block]}

    @cached_property
    def on_nodes(self) -> tuple[Definition, ...]:
        """What is computed: the definitions as they stand, averages at their own nodes."""
        return self.definitions

    @cached_property
    def error(self) -> float:
        """What the tables claim, added up; 0 for closed forms."""
        found = {a for d in self.definitions for a in d.expr.atoms(PlacedAverage)}
        return float(sum(a.claimed for a in found))

    @property
    def approximation(self) -> str:
        """Exact, or what tables and nodes leave out, in words."""
        tables = f"averages by tables, error at most {self.error:.0e}" if self.error else "exact"
        found = "averages over nodes" if self.averages else tables
        return f"drift {found}; {self.noise.approximation}" if self.noise else found

    @property
    def has_cone(self) -> bool:
        """Where the loss is the norm |f - y|, which averages on nodes are taken of."""
        return bool(self.averages)

    @property
    def bounds_rounding(self) -> bool:
        """No: alignments are not arrays of overlaps."""
        return False

    @property
    def outputs(self) -> int:
        """Number of outputs, each with a noise of its own."""
        return len(list(self.model.teacher.outputs))

    @property
    def signature(self) -> str:
        """Text of what decides the numbers besides the definitions: the feasible set."""
        return super().signature + sp.srepr(self.model.encoding.gram)

    @cached_property
    def gram(self) -> sp.ImmutableDenseMatrix:
        """Gram matrix of w and of what it is aligned with: w*, positional vectors."""
        s = sp.Matrix([*self.blocks["m"], *self.blocks["e"]])
        inner = sp.Matrix(self.model.encoding.gram)
        if not self.model.tied:
            s, inner = s / sp.sqrt(self.model.length), sp.eye(self.model.length)
        return sp.ImmutableDenseMatrix(sp.BlockMatrix([[sp.eye(1), s.T], [s, inner]]))

    def explicit(self, *args: Any, **kwargs: Any) -> ExplicitEquations:
        """Rate of each alignment, what was defined put in; parameters stay symbols."""
        return unroll(self.definitions, {"p": 1, "k": 1}, {})

    # Numbers --------------------------------------------------------------------------------

    def scalars(self, parameters: Mapping[str, Any]) -> dict[str, float]:
        """Numbers of the parameters of a run."""
        needed = dict.fromkeys(self.parameters)
        if self.averages or self.noise:
            parameters = {k: v for k, v in parameters.items() if k not in NODE_OPTIONS}
        if isinstance(self.algorithm, SGD) and (
            self.algorithm.learning_rate.is_number or "learning_rate" in parameters
        ):
            needed["learning_rate"] = None  # it also sets the clock
        return resolve_scalars(self.declared, needed, parameters)[0]

    def values(self, start: Any, parameters: dict[str, Any]) -> Values:
        """Numbers of a run from this start; p counts the rows of weights, tied one."""
        length, rank = self.model.length, self.model.encoding.rank
        rows = 1 if self.model.tied else length
        widths = {"p": rows, "k": 1, "tokens": length, "directions": max(rank, 1)}
        values = Values(widths, self.scalars(parameters), {})
        if self.noise:
            self.noise.check(values, parameters)
        elif not self.averages:
            return values
        values = with_nodes(values, self.rule(start, parameters))
        numbers = {**values.scalars, **self.entries(start)}
        for d in self.definitions:
            if d.role == "observable" and isinstance(d.expr, Expectation):
                at = {s: numbers[str(s)] for s in d.expr.free_symbols}
                check_finite(d.expr, at, values.arrays)
        return values

    def rule(self, start: Any, options: Mapping[str, Any]) -> NodeRule:
        """Nodes of the averages; `options` may hold nodes, replicas, seed."""
        if self.noise:
            return self.noise.rule(options)
        chosen = {name: options[name] for name in NODE_OPTIONS if options.get(name) is not None}
        return joint_rule(self.model.length, **chosen)

    def state(self, start: Any) -> dict[str, Array]:
        """State blocks of a start: e () or (r,), m () tied or (L,) untied.

        Raises
        ------
        InvalidCovariance, ShapeMismatch, BadParameter
        """
        if not isinstance(start, Alignment):
            raise BadParameter(
                "the start of a sequence model is a dmft.Alignment(e=..., m=...), got "
                f"{type(start).__name__}"
            )
        position, semantic = self.model.alignments(start.e, start.m)
        rank = self.model.encoding.rank
        e = position if rank > 1 else position[0] if rank else 0.0
        return {"e": np.asarray(e, dtype=np.float64), "m": semantic}

    def entries(self, start: Any) -> Mapping[str, Array]:
        """Each alignment by its own name."""
        self.state(start)
        values = place(self.model, start.e, start.m)
        return {str(s): np.asarray(value) for s, value in values.items()}

    def packed(self, found: dict[str, Array]) -> dict[str, Array]:
        """Blocks e and m, of the shapes of a start, from numbers by alignment."""
        tied, single = self.model.tied, self.model.encoding.rank < 2
        result = dict(found)
        for (block, symbols), alone in zip(self.blocks.items(), (single, tied), strict=True):
            rows = [result.pop(str(s)) for s in symbols]
            result[block] = np.array(rows if not alone else rows[0] if rows else 0.0)
        return result

    # Terms of a user ------------------------------------------------------------------------

    @property
    def symbols(self) -> dict[str, Any]:
        """What a term may be written in: alignments, intermediates and parameters by name."""
        return named_symbols(self._written_in.values(), ())

    @property
    def indices(self) -> Indices:
        """None: the alignments are written out one by one."""
        return Indices(dict.fromkeys(self.terms, ()))

    @property
    def _written_in(self) -> dict[str, sp.Symbol]:
        defined = (d.target for d in self.definitions if d.role in ("intermediate", "rate"))
        return {s.name: s for s in defined} | self._scalars

    def _check(self, block: str, first: str) -> TermCheck:
        taken = frozenset(("e", "m", *(d.name for d in self.definitions)))
        return TermCheck(block, (), {}, self._written_in, taken, users_of(self.declared))

    def _with_changed(self, block: str, name: str, given: object) -> Self:
        """Change the term of each component of a block."""
        found, symbols = self, self.blocks[block]
        parts = [None] * len(symbols) if given is None else self._parts(block, given)
        for s, part in zip(symbols, parts, strict=True):
            found = super(SequenceEquations, found)._with_changed(str(s), name, part)
        return found

    def _parts(self, block: str, given: Any) -> list[sp.Expr]:
        """Components of a term, one for each alignment of a block."""
        many = isinstance(given, sp.MatrixBase | Sequence) and not isinstance(given, str)
        parts = list(given) if many else [given]
        symbols = self.blocks[block]
        if len(parts) != len(symbols):
            raise BadParameter(
                f"a term of {block} has {len(symbols)} components, those of "
                f"{', '.join(map(str, symbols))}; got {shown(given)}"
            )
        return parts

    def block_latex(self, block: str) -> str:
        """A block as LaTeX."""
        return block if block in self.blocks else super().block_latex(block)

    # Text -----------------------------------------------------------------------------------

    def names(self, sigma: str = "", star: str = "") -> dict[sp.Expr, str]:
        """None: functions are written out."""
        return {}

    def functions_latex(self, printer: EquationPrinter) -> list[str]:
        """None: functions are written out."""
        return []

    @property
    def networks(self) -> str:
        """Student and target."""
        return f"student {self.model.student}, target {self.model.teacher}"

    def functions_text(self) -> str:
        """Student and target."""
        return self.networks

    def held(self, start: Any) -> Mapping[str, Array | None]:
        """Nothing: tokens and encodings are those of the model."""
        return {}


def derive_sequence(model: SequenceModel, algorithm: SGD | GradientFlow) -> SequenceEquations:
    r"""Equations of the alignments s = (m, e) under spherical one-pass SGD or gradient flow.

    Equation    ds/dt = -(G - s s^T) grad L - gamma/(2 n_b) (N + Delta J) s,
                N = E|J^T (g - g*)|^2, J = E||dg/dh||_F^2; untied G = L on the m_l
    Scaling     t = steps gamma / d (untied gamma / (L d)), d -> infinity at fixed gamma
    Source      theory/sequence C.2, C.4; derivations/sequence_sgd.py

    Raises
    ------
    BadParameter, NotClosed
    """
    check_algorithm(algorithm)
    if isinstance(algorithm, SGD) and algorithm.loss == "frobenius":
        raise BadParameter('loss = "frobenius" has equations of its own: dmft.derive gives them')
    risk = SequenceRisk(model)
    slopes = {s: x.slope_of(s) for s in risk.alignments}
    check_symbols(model, slopes.values())
    moments = risk.moments
    squared = not (isinstance(algorithm, SGD) and algorithm.loss == "correlation")
    loss = risk.expr if squared else -moments.cross
    definitions = [
        define(slope, {"gradient": sp.diff(loss, s)}, "intermediate") for s, slope in slopes.items()
    ]
    along = sp.Add(*(s * slope for s, slope in slopes.items()))
    definitions.append(define(x.pull_along, {"radial": along}, "intermediate"))
    if isinstance(algorithm, SGD):
        noise = {"target": moments.target_noise}
        if squared:
            noise |= {"own": moments.own_noise, "cross": -2 * moments.cross_noise}
        definitions += [
            define(x.update_square, noise, "intermediate"),
            define(x.jacobian_square, {"gradient": moments.jacobian_square}, "intermediate"),
        ]
    gram = model.encoding.gram if model.tied else model.length * sp.eye(model.length)
    drift = -gram * sp.Matrix(list(slopes.values()))
    rates = {
        s: {"learning": drift[n], "sphere": x.pull_along * s, **noise_terms(algorithm, s)}
        for n, s in enumerate(slopes)
    }
    return sequence_equations(model, algorithm, definitions, rates, risk.expr)


def noise_terms(algorithm: SGD | GradientFlow, s: sp.Symbol) -> dict[str, sp.Expr]:
    """What the noise of the samples and of the labels takes from an alignment on the sphere."""
    if not isinstance(algorithm, SGD):
        return {}
    weight = x.gamma / (2 * algorithm.batch_size) * s
    noise = {"sgd_noise": -weight * x.update_square}
    return {**noise, "label_noise": -weight * x.Delta * x.jacobian_square}


def sequence_equations(
    model: SequenceModel,
    algorithm: SGD | GradientFlow,
    definitions: Sequence[Definition],
    rates: Mapping[sp.Symbol, Mapping[str, sp.Expr]],
    risk: sp.Expr,
) -> SequenceEquations:
    """Equations from what the rates are computed from, their terms, and what a run calls risk."""
    encoding, m = model.encoding, SequenceMoments(model).law.semantic
    empty = {d.target: sp.S.Zero for d in definitions if not d.terms}
    length = sp.Abs(m[0]) if model.tied else sp.sqrt(sp.Add(*(y**2 for y in m)) / model.length)
    whole = [
        *(d for d in definitions if d.terms),
        *(define(s, rates[s], "rate") for s in (*encoding.alignments, *m)),
        define(x.risk, {"risk": risk}, "observable"),
        define(x.overlap, {"overlap": length}, "observable"),
    ]
    whole = [
        define(d.target, {name: y.xreplace(empty) for name, y in d.terms}, d.role) for d in whole
    ]
    return SequenceEquations(
        kind="ode",
        definitions=live(whole),
        model=model,
        algorithm=algorithm,
        scaling="high-dimensional" if isinstance(algorithm, SGD) else "gradient-flow",
        time_unit=TIME if model.tied else TIME_UNTIED,
    )


RESERVED = frozenset(
    {"e", "m", "pull", "noise", "slope"} | {f"{name}{n}" for name in "em" for n in range(1, 100)}
)


def check_symbols(model: SequenceModel, others: Iterable[sp.Symbol] = ()) -> None:
    """Refuse parameters that have a name of the equations, or of the `others` that they hold."""
    names = RESERVED | {s.name for s in others}
    for symbol in model.parameters:
        if symbol.name in names:
            raise BadParameter(f"the symbol {symbol} is reserved by the equations; rename it")
    declared_parameters(model, None)  # refuses the names of keywords


def check_algorithm(algorithm: SGD | GradientFlow) -> None:
    """Refuse what is not defined for sequence models."""
    if not isinstance(algorithm, SGD | GradientFlow):
        raise BadParameter(
            f"sequence models are learned by dmft.SGD or dmft.GradientFlow, got {algorithm!r}"
        )
    if isinstance(algorithm, GradientFlow):
        return
    if not algorithm.is_plain or algorithm.trains_readout:
        raise BadParameter(
            "sequence models have one-pass SGD: no repeat, no update of one's own, no readout_rate"
        )
    if isinstance(algorithm.batch_size, sp.Expr):
        raise BadParameter(
            f"batch_size = {algorithm.batch_size} grows with the dimension; sequence models take a "
            "number"
        )
