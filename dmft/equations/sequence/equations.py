"""Equations of motion of the alignments of a sequence model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.averages.joint_average import check_finite, joint_rule, value_at
from dmft.equations.rounding.scalar import bounded_number, exactly
from dmft.equations.sequence.changes import ChangesOfSequences
from dmft.equations.sequence.moments import SequenceMoments
from dmft.equations.sequence.risk import SequenceRisk, number, place
from dmft.equations.values import NODE_OPTIONS, declared_parameters, resolve_scalars
from dmft.errors import BadParameter
from dmft.gaussian.nodes.rules import NodeRule
from dmft.gaussian.tables.tokens import TokenAverage
from dmft.model import SGD, Alignment, GradientFlow, SequenceModel
from dmft.names import VERSION

Array = NDArray[np.float64]
Terms = tuple[tuple[str, sp.ImmutableDenseMatrix], ...]

# Intermediates: s . grad R, E|J^T (g - g*)|^2 and E||J||^2.
PULL, NOISE, SLOPE = (sp.Symbol(name, real=True) for name in ("pull", "noise", "slope"))
INTERMEDIATE_LATEX = {PULL: r"\rho", NOISE: r"\mathcal{N}", SLOPE: r"\mathcal{J}"}
TIME = "t = steps * learning_rate / d"
TIME_UNTIED = "t = steps * learning_rate / (L d)"


@dataclass(frozen=True)
class SequenceEquations(ChangesOfSequences):
    r"""Closed equations of the alignments e and m on the sphere.

    Attributes
    ----------
    kind : "ode"
    model, algorithm
        What they were derived from.
    rates : tuple
        For the blocks e and m, named terms as columns of their components; they hold the
        intermediates of `definitions`.
    definitions : tuple of (symbol, expression)
        pull = s . grad R, noise = E|J^T (g - g*)|^2, slope = E||J||_F^2.
    scaling, time_unit : str
    observed : sympy.Expr or None
        What a run calls its risk, where that is not 1/2 E|g - g*|^2: E|g - g*| under that loss.
    derived : tuple
        Rates and definitions as derived, where terms were changed since (`changes`).
    extra : tuple of sympy.Symbol
        Parameters that came with a user's terms.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> a, b = sp.symbols("a b", real=True)
    >>> target = dmft.SequenceTarget((a + b) / sp.sqrt(2), [a, b])
    >>> model = dmft.Model(dmft.SequenceNetwork(sp.Max(0, a), 2), target)
    >>> dmft.derive(model, dmft.GradientFlow()).explicit()
    {m: 1/2 - m**2/2}
    >>> sorted(dmft.derive(model, dmft.SGD(0.5)).terms["m"])
    ['label_noise', 'learning', 'sgd_noise', 'sphere']
    """

    kind: str
    model: SequenceModel
    algorithm: SGD | GradientFlow
    rates: tuple[tuple[str, Terms], ...]
    definitions: tuple[tuple[sp.Symbol, sp.Expr], ...]
    scaling: str
    time_unit: str
    observed: sp.Expr | None = None
    derived: tuple[Any, ...] = field(default=(), repr=False)
    extra: tuple[sp.Symbol, ...] = ()

    @property
    def blocks(self) -> dict[str, tuple[sp.Symbol, ...]]:
        """Symbols of the components of e and m."""
        return {"e": self.model.encoding.alignments, "m": SequenceMoments(self.model).law.semantic}

    @property
    def risk(self) -> SequenceRisk:
        """Population risk 1/2 E|g - g*|^2."""
        return SequenceRisk(self.model)

    @property
    def observable(self) -> sp.Expr:
        """What a run calls its risk."""
        return self.risk.expr if self.observed is None else self.observed

    def explicit(self) -> dict[sp.Symbol, sp.Expr]:
        """Rate of each alignment, intermediates put in."""
        inside = dict(self.definitions)
        rates = {}
        for block, terms in self.rates:
            for n, symbol in enumerate(self.blocks[block]):
                total = sp.Add(*(column[n] for _, column in terms))
                rates[symbol] = total.xreplace(inside)
        return rates

    @property
    def declared(self) -> dict[str, sp.Expr]:
        """All parameters with their declared values, those of a user's terms as their symbols."""
        declared = declared_parameters(self.model, self.algorithm)
        return declared | {s.name: s for s in self.extra}

    @cached_property
    def parameters(self) -> dict[str, sp.Expr]:
        """Scalar parameters that the equations and the risk read, with their declared values."""
        read = [self.observable, *(expr for _, expr in self.definitions)]
        read += [column for _, terms in self.rates for _, column in terms]
        used = {s.name for expr in read for s in expr.free_symbols}
        return {name: value for name, value in self.declared.items() if name in used}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the symbolic content and of the library version."""
        parts = [f"{s}:{sp.srepr(expr)}" for s, expr in self.definitions]
        parts += [
            f"{block}:{name}:{sp.srepr(column)}"
            for block, terms in self.rates
            for name, column in terms
        ]
        parts += [sp.srepr(self.observable), sp.srepr(self.model.encoding.gram), VERSION]
        return hashlib.blake2b("|".join(parts).encode(), digest_size=12).hexdigest()

    @property
    def averages(self) -> tuple[TokenAverage, ...]:
        """Averages that are read from tables."""
        found: set[TokenAverage] = self.observable.atoms(TokenAverage)
        for _, expr in self.definitions:
            found |= expr.atoms(TokenAverage)
        return tuple(sorted(found, key=sp.default_sort_key))

    @property
    def on_nodes(self) -> bool:
        """Whether averages are sums over nodes: those of the norm as a loss."""
        return self.observable.has(Expectation)

    def rule(self, options: Mapping[str, Any]) -> NodeRule:
        """Nodes of the averages; `options` may hold nodes, replicas, seed."""
        chosen = {name: options[name] for name in NODE_OPTIONS if options.get(name) is not None}
        return joint_rule(self.model.length, **chosen)

    @property
    def approximation(self) -> str:
        """Exact, or what the tables leave out, in words."""
        if self.on_nodes:
            return "averages over nodes"
        if not self.averages:
            return "exact"
        bound = sum(node.table.bound + node.table.error for node in self.averages)
        return f"averages by tables, error at most {bound:.0e}"

    # Numbers --------------------------------------------------------------------------------

    def scalars(self, parameters: Mapping[str, Any]) -> dict[str, float]:
        """Numbers of the parameters of a run."""
        needed = dict.fromkeys(self.parameters)
        if self.on_nodes:
            parameters = {k: v for k, v in parameters.items() if k not in NODE_OPTIONS}
        if isinstance(self.algorithm, SGD) and (
            self.algorithm.learning_rate.is_number or "learning_rate" in parameters
        ):
            needed["learning_rate"] = None  # it also sets the clock
        return resolve_scalars(self.declared, needed, parameters)[0]

    def state(self, start: Alignment) -> dict[str, Array]:
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

    def evaluate(self, start: Alignment, **parameters: Any) -> dict[str, Array]:
        """Rates of e and m at a start, from the symbolic expressions.

        Returns
        -------
        dict
            ``"e"`` and ``"m"`` of the shapes of the start's blocks. Under the norm as a loss
            ``nodes=``, ``replicas=`` and ``seed=`` choose the nodes; `evaluate_error` tells the
            error.
        """
        rule = self.rule(parameters) if self.on_nodes else None
        return self._rates(start, parameters, rule)

    def evaluate_error(self, start: Alignment, **parameters: Any) -> dict[str, Array]:
        """Absolute error of what `evaluate` returns.

        A bound of rounding and what tables claim, or the spread (99 %) of averages on nodes. Slopes
        of a table count as being as good as the table.
        """
        if not self.on_nodes:
            return self._rounding(start, parameters)
        value = self.evaluate(start, **parameters)
        rule = self.rule(parameters)
        groups = [self._rates(start, parameters, group) for group in rule.groups]
        return {name: rule.error(v, [g[name] for g in groups]) for name, v in value.items()}

    def _rounding(self, start: Alignment, parameters: Mapping[str, Any]) -> dict[str, Array]:
        """Bounds of the rates by tables and closed forms."""
        state = self.state(start)
        known = {s: exactly(v) for s, v in self._numbers(state, parameters).items()}
        for symbol, expr in self.definitions:
            known[symbol] = bounded_number(expr, known)
        result = {}
        for block, terms in self.rates:
            count = len(self.blocks[block])
            errors = [
                float(bounded_number(sp.Add(*(column[n] for _, column in terms)), known).error)
                for n in range(count)
            ]
            shape = state[block].shape
            result[block] = np.array(errors).reshape(shape) if count else np.zeros(shape)
        return result

    def _numbers(
        self, state: Mapping[str, Array], parameters: Mapping[str, Any]
    ) -> dict[sp.Symbol, float]:
        """Numbers of the alignments and of the parameters."""
        values: dict[sp.Symbol, float] = dict(place(self.model, state["e"], state["m"]))
        named = {s.name: s for s in (x.gamma, x.Delta, *self.model.parameters, *self.extra)}
        return values | {named[k]: v for k, v in self.scalars(parameters).items() if k in named}

    def _rates(
        self, start: Alignment, parameters: Mapping[str, Any], rule: NodeRule | None
    ) -> dict[str, Array]:
        state = self.state(start)
        values = self._numbers(state, parameters)
        if rule is not None:
            check_finite(self.observable, values, rule)
        for symbol, expr in self.definitions:
            if isinstance(expr, Expectation):
                values[symbol] = value_at(expr, values, rule)
            else:
                values[symbol] = number(expr, values)
        result = {}
        for block, terms in self.rates:
            count = len(self.blocks[block])
            rate = [
                number(sp.Add(*(column[n] for _, column in terms)), values) for n in range(count)
            ]
            shape = state[block].shape
            result[block] = np.array(rate).reshape(shape) if count else np.zeros(shape)
        return result

    # Text -----------------------------------------------------------------------------------

    def latex(self) -> str:
        r"""LaTeX of the equations (an amsmath `align*` environment)."""
        from dmft.equations.sequence.latex import equations_latex

        return equations_latex(self)

    def _repr_latex_(self) -> str:
        return self.latex().split("\n", 1)[1]

    def __str__(self) -> str:
        lines = [f"Equations of motion ({self.kind}); {self.time_unit}"]
        for block, terms in self.rates:
            for n, symbol in enumerate(self.blocks[block]):
                parts = [f"{column[n]}  [{name}]" for name, column in terms]
                lines.append(f"  d{symbol}/dt = " + " + ".join(parts))
        lines += [f"  {symbol} = {expr}" for symbol, expr in self.definitions]
        return "\n".join([*lines, f"  {self.risk}"])


def derive_sequence(model: SequenceModel, algorithm: SGD | GradientFlow) -> SequenceEquations:
    r"""Equations of the alignments s = (m, e) under spherical one-pass SGD or gradient flow.

    Equation    ds/dt = -(G - s s^T) grad R - gamma/(2 n_b) (N + Delta J) s,
                N = E|J^T (g - g*)|^2, J = E||dg/dh||_F^2; untied G = L on the m_l
    Scaling     t = steps gamma / d (untied gamma / (L d)), d -> infinity at fixed gamma
    Source      sequence.md C.2, C.4; derivations/sequence_sgd.py

    Raises
    ------
    BadParameter, NotClosed
    """
    check_algorithm(algorithm)
    if isinstance(algorithm, SGD) and algorithm.loss == "frobenius":
        raise BadParameter('loss = "frobenius" has equations of its own: dmft.derive gives them')
    check_symbols(model)
    risk = SequenceRisk(model)
    moments = risk.moments
    squared = not (isinstance(algorithm, SGD) and algorithm.loss == "correlation")
    loss = risk.expr if squared else -moments.cross
    s = sp.Matrix(risk.alignments)
    gradient = sp.Matrix([sp.diff(loss, y) for y in s])
    gram = model.encoding.gram if model.tied else model.length * sp.eye(model.length)
    definitions = [(PULL, (s.T * gradient)[0])]
    terms: dict[str, sp.Matrix] = {"learning": -gram * gradient, "sphere": PULL * s}
    if isinstance(algorithm, SGD):
        weight = x.gamma / (2 * algorithm.batch_size)
        terms["sgd_noise"] = -weight * NOISE * s
        terms["label_noise"] = -weight * x.Delta * SLOPE * s
        noise = moments.target_noise
        if squared:
            noise += moments.own_noise - 2 * moments.cross_noise
        definitions += [(NOISE, noise), (SLOPE, moments.jacobian_square)]
    cut = len(moments.law.semantic)
    parts = {"e": slice(cut, None), "m": slice(0, cut)}
    rates = tuple(
        (
            block,
            tuple((name, sp.ImmutableDenseMatrix(y[where, :])) for name, y in terms.items()),
        )
        for block, where in parts.items()
    )
    return SequenceEquations(
        kind="ode",
        model=model,
        algorithm=algorithm,
        rates=rates,
        definitions=tuple(definitions),
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
    if algorithm.repeat is not None or algorithm.trains_readout:
        raise BadParameter("sequence models have one-pass SGD: no repeat, no readout_rate")
    if isinstance(algorithm.batch_size, sp.Expr):
        raise BadParameter(
            f"batch_size = {algorithm.batch_size} grows with the dimension; sequence models take a "
            "number"
        )
