"""The population risk of a model, and error rates on nodes of their own, after a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, overload

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike, NDArray

from dmft.arrays import Array
from dmft.equations import parameter_values
from dmft.equations import symbols as x
from dmft.equations.averages.conditioned import over_teachers
from dmft.equations.averages.expectation import Expectation, OneSample
from dmft.equations.averages.nodes import discretise, rule_of_averages
from dmft.equations.averages.passes import averages, with_values
from dmft.equations.averages.tails import check_tails, told_by_tails
from dmft.equations.definitions import Definition, define, live, used_bases
from dmft.equations.parameter_values import Values, by_block, with_nodes
from dmft.equations.reference import evaluate
from dmft.equations.restrict.admissible import check_admissible
from dmft.equations.rounding.bounds import of_one_state
from dmft.equations.sequence.risk import SequenceRisk
from dmft.equations.update.law import clusters_of, mean_definitions
from dmft.equations.update.optimiser import block_definitions
from dmft.equations.update.overlaps import risk_expression, sign_in
from dmft.equations.update.program import students_at
from dmft.equations.views.explicit import ExplicitEquations, unroll
from dmft.equations.views.explicit_risk import ExplicitRisk
from dmft.equations.views.latex import Page, risk_latex
from dmft.equations.views.printer import Notation
from dmft.errors import BadParameter
from dmft.explanation.steps import Explained, Explanation
from dmft.gaussian.closed.pair import elementary
from dmft.gaussian.nodes.quadrature import Quadrature
from dmft.gaussian.nodes.rules import (
    LATTICE_POINTS,
    MOST_TRAPEZOIDS,
    NodeRule,
    most_in_lattice,
    normal_rule,
)
from dmft.model import FIELD, Committee, Model, MultiIndex, Overlaps, SequenceModel, check_outputs
from dmft.names import BLOCK, Status
from dmft.record import InLatex, Short
from dmft.symbolic_lock import in_turn
from dmft.typeset.fragment import NOTEBOOK
from dmft.typeset.plain import TERMINAL, plain_text
from dmft.validation import checked, refuse_nodes

# Averages on nodes: the search for the points of a replica or of an axis begins here, ends here
# and multiplies by this. Those of lattices depend on the dimension.
GROWTH: dict[str, tuple[int, int, float]] = {
    "sobol": (4096, 2**16, 4),
    "gauss-hermite": (96, MOST_TRAPEZOIDS, 2),
}
# Error that it aims at, absolute for risks of order one and relative for larger ones.
QUADRATURE_TOL = 1e-5
# Characters of a line of text.
LINE = 100


@dataclass(frozen=True, repr=False)
class PopulationRisk(InLatex, Explained, Short):
    """Population risk R = E(f* - f)^2 / 2, a callable function of the overlaps.

    Attributes
    ----------
    model : Model
        Model.
    definitions : tuple of Definition
        Quantities that enter the risk, followed by the risk.

    Examples
    --------
    >>> import dmft
    >>> risk = dmft.population_risk(dmft.literature.phase_retrieval(1))
    >>> risk(Q=[[1.0]], M=[[0.0]]), risk(Q=[[1.0]], M=[[1.0]])
    (2.0, 0.0)
    """

    model: Model
    definitions: tuple[Definition, ...]

    def _in_words(self) -> str:
        return f"{self.model.student!r} against {self.model.teacher!r}"

    @property
    def expr(self) -> sp.Expr:
        """Expression: sums over units of functions of Omega and of the coefficients c."""
        return with_values(self.definitions[-1].expr, elementary)

    def explicit(
        self,
        width: int | None = None,
        teacher_width: int | None = None,
        *,
        P: Any = None,
        readout: Any = "declared",
        teacher_readout: Any = "declared",
    ) -> ExplicitRisk:
        """Return the risk in scalar symbols, at small widths (p + k <= 5).

        The result is an expression whose `.subs` accepts names, ``.subs({"M_11": 0.5})``, and whose
        `.symbols` maps names to symbols.

        Parameters
        ----------
        width, teacher_width, P, readout, teacher_readout
            As in `Equations.explicit`.

        Returns
        -------
        ExplicitRisk

        Examples
        --------
        >>> import dmft
        >>> risk = dmft.population_risk(dmft.literature.phase_retrieval(1))
        >>> risk.explicit(P=[[1]]).subs({"Q_11": 1, "M_11": 0})
        2
        """
        if _by_block(self.model):
            raise BadParameter(
                "the risk of clusters with different covariances depends on overlaps by "
                "block, which are not written out in scalars: latex() and str(...) support "
                "any number of blocks"
            )
        check_outputs(self.model, "risks are unrolled")
        given = {"readout": readout, "teacher_readout": teacher_readout}
        widths, constants = parameter_values.unrolled_at(self.model, width, teacher_width, given)
        result: ExplicitEquations = unroll(self.definitions, widths, {**constants, "P": P})
        free = result.risk.free_symbols
        return ExplicitRisk(result.risk, {n: s for n, s in result.symbols.items() if s in free})

    def subs(self, values: Mapping[Any, Any]) -> PopulationRisk:
        """Substitute values for the symbols of the model, by name or symbol.

        Parameters
        ----------
        values : mapping
            Numbers or expressions by the name or symbol of a parameter of the model.

        Returns
        -------
        PopulationRisk
            New risk.

        Raises
        ------
        BadParameter
            For names that the model does not contain. Overlaps can be substituted in `explicit()`.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> a, z = sp.symbols("a z", real=True)
        >>> risk = dmft.population_risk(dmft.Model(dmft.Committee(a*z, 1), dmft.Committee(z, 1)))
        >>> risk.subs({"a": 2})(Q=[[1.0]], M=[[0.0]])
        2.5
        """
        known = {s.name: s for s in self.model.parameters}
        swap = {}
        for key, value in values.items():
            name = getattr(key, "name", str(key))
            if name not in known:
                raise BadParameter(
                    f"{key} is not a parameter of this model, which has {sorted(known)}; pass "
                    "overlaps by calling the risk, or to explicit().subs(...)"
                )
            swap[known[name]] = sp.sympify(value, strict=True)
        student, teacher = (_at(n, swap) for n in (self.model.student, self.model.teacher))
        found: PopulationRisk = population_risk(
            replace(self.model, student=student, teacher=teacher)
        )
        return found

    def __call__(
        self,
        Q: ArrayLike,
        M: ArrayLike,
        P: ArrayLike | None = None,
        readout: ArrayLike | None = None,
        **parameters: float,
    ) -> float:
        """Risk at overlaps Q (p, p), M (p, k), P (k, k; identity by default).

        Of inputs with blocks they are unweighted overlaps by block, Q (B, p, p) and so on.

        Averages that have neither a closed form nor a table (those of tanh(z1 + z2^3), say) are
        computed on nodes, their number raised until the error is below 1e-5; the number returned
        then has ``.error`` (99 %) and ``.status``. ``nodes=``, ``replicas=``, ``seed=`` choose.
        """
        start, values, options = self._numbers(Overlaps(Q, M, P, readout), parameters)
        if self._averages:
            return self._by_nodes(start, values, options)
        return self._value(start, values)

    def error(
        self,
        Q: ArrayLike,
        M: ArrayLike,
        P: ArrayLike | None = None,
        readout: ArrayLike | None = None,
        **parameters: float,
    ) -> float:
        """Return the absolute error of the risk at given overlaps, which are treated as exact.

        It is the sum of a bound of the rounding error, the bounds of tables, and the error (99 %)
        of averages on nodes. Typical values are 1e-14 (E f^2 + E f*^2) for closed forms and 1e-11
        with tables.

        Parameters
        ----------
        Q, M, P, readout : array_like
            Overlaps (p, p), (p, k), (k, k; identity by default) and readouts (p,).
        **parameters
            Values of the model's symbols, and ``nodes=``, ``replicas=`` and ``seed=`` if averages
            are computed on nodes.

        Returns
        -------
        float

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
        >>> risk = dmft.population_risk(dmft.Model(square, square))
        >>> 0 < risk.error(Q=[[1.0]], M=[[0.0]], P=[[1.0]]) < 1e-13
        True
        """
        start, values, options = self._numbers(Overlaps(Q, M, P, readout), parameters)
        found = self._averages
        if not found:
            return self._rounding(start, values)
        rule = rule_of_averages(found, self._of_fields(start), options)
        here = parameter_values.with_nodes(values, rule.groups[0] if rule.groups else rule)
        return self._by_nodes(start, values, options).error + self._rounding(start, here)

    def _state(self, start: Overlaps) -> dict[str, NDArray[np.float64]]:
        front = BLOCK if _by_block(self.model) else ""
        return {f"{front}Q": start.Q, f"{front}M": start.M}

    def _of_fields(self, start: Overlaps) -> Overlaps:
        """Overlaps as the fields see them, of a start that `_numbers` returned."""
        return parameter_values.seen_by(self.model, start) if _by_block(self.model) else start

    def _rounding(self, start: Overlaps, values: parameter_values.Values) -> float:
        state = self._state(start)
        return float(of_one_state(self._on_nodes, state, values, "observable")["risk"].error)

    def _numbers(
        self, start: Overlaps, parameters: dict[str, float]
    ) -> tuple[Overlaps, parameter_values.Values, dict[str, Any]]:
        """Overlaps that the fields see, numbers of a call, and what chooses its nodes."""
        options = {n: parameters.pop(n) for n in parameter_values.NODE_OPTIONS if n in parameters}
        if options and not self._averages:
            refuse_nodes(sorted(options), "this risk")
        values = parameter_values.resolve(self.model, None, self._needed, start, parameters)
        if _by_block(self.model):
            return start, parameter_values.by_block(self.model, values, {}), options
        seen = parameter_values.seen_by(self.model, start)
        return seen, replace(values, arrays={**values.arrays, "P": seen.P}), options

    @cached_property
    def _averages(self) -> list[Expectation]:
        """Those that need nodes."""
        return averages(self.definitions)

    @cached_property
    def _needed(self) -> list[str]:
        """Parameters that it reads."""
        used = {n for d in self.definitions for n in used_bases(d.expr)}
        return [n for n in parameter_values.declared_parameters(self.model, None) if n in used]

    @cached_property
    def _on_nodes(self) -> tuple[Definition, ...]:
        return discretise(self.definitions)

    def _value(self, start: Overlaps, values: parameter_values.Values) -> float:
        result = evaluate(self._on_nodes, self._state(start), values, "observable")
        return float(np.asarray(result["risk"]))

    def _by_nodes(
        self, start: Overlaps, values: parameter_values.Values, options: Mapping[str, Any]
    ) -> Quadrature:
        """Raise the number of nodes until the error is small, unless the user chose it."""
        found = self._averages
        count = options.get("nodes")
        dim = start.k if over_teachers(found) else start.p + start.k

        def on(rule: NodeRule) -> float:
            return self._value(start, parameter_values.with_nodes(values, rule))

        seen = self._of_fields(start)
        system = self.definitions, self._on_nodes
        rule = rule_of_averages(found, seen, options)
        check_tails(*system, self._state(start), values, rule, "observable")
        while True:
            rule = rule_of_averages(found, seen, {**options, "nodes": count})
            rule = told_by_tails(rule, self.definitions, "observable")
            groups = [np.asarray(on(group)) for group in rule.groups]
            value = on(rule)
            error = float(rule.error(np.asarray(value), groups))
            met = error <= QUADRATURE_TOL * max(1.0, abs(value))
            lattice = (LATTICE_POINTS.get(dim, 0), most_in_lattice(dim), 1.5)
            first, most, factor = GROWTH.get(rule.kind, lattice)
            more = int(factor * (count or first))
            if met or "nodes" in options or more > most:
                break
            count = more
        status = Status.OK if met else Status.TOLERANCE_NOT_MET
        return Quadrature(value, error, status, rule.label, dim, rule.weight.size)

    def _explanation(self) -> Explanation:
        from dmft.equations.explained.risk import explain_risk

        return explain_risk(self.model, self.definitions, lambda p, k: self.explicit(p, k).expr)

    def latex(
        self, *, width: float = 246.0, notation: Notation = None, symbolic: bool = False
    ) -> str:
        """Return the risk, its coefficients and its kernels as LaTeX.

        Parameters
        ----------
        width : float
            Line width in points.
        notation : "saad-solla", "scalar", "krzakala", mapping or None
            Letters, as in `Equations.latex`.
        symbolic : bool
            Print unit readouts, P = I and the indices of single units as symbols.
        """
        return risk_latex(self.model, self.definitions, Page(width, notation, symbolic, "all"))

    def _repr_latex_(self) -> str:
        return self.latex(width=NOTEBOOK)

    def __str__(self) -> str:
        page = Page(TERMINAL)
        return plain_text(risk_latex(self.model, self.definitions, page)).strip()


def _at(network: Any, values: Mapping[sp.Symbol, sp.Expr]) -> Any:
    """A network or a target with other values of its symbols."""
    if isinstance(network, Committee):
        readout = network.readout and tuple(a.xreplace(values) for a in network.readout)
        return Committee(network.activation.xreplace(values), network.width, readout, field=FIELD)
    if isinstance(network, MultiIndex):
        return MultiIndex(network.expr.xreplace(values), network.fields)
    return network


@overload
def population_risk(model: SequenceModel) -> SequenceRisk: ...  # type: ignore[overload-overlap]
@overload
def population_risk(model: Model) -> PopulationRisk: ...
@checked
@in_turn
def population_risk(model: Model) -> PopulationRisk | SequenceRisk:
    r"""Derive the population risk R = E(f* - f)^2 / 2, without label noise.

    Equation    R = 1/2 sum_mn c_m c_n E[sigma_m(lambda_m) sigma_n(lambda_n)]; for clusters of
                inputs the weighted sum of their risks
    Shapes      Q (p, p); M (p, k); P (k, k); returns a float when called
    Scaling     f is the mean over hidden units; R contains no power of d or of a width
    Valid for   any activation, with the accuracy stated in theory/one_pass A.8
    Source      theory/one_pass A.0, theory/sequence A, theory/structured_inputs 2

    Parameters
    ----------
    model : Model
        Model with committees, a multi-index target, clusters, or sequences.

    Returns
    -------
    PopulationRisk
        Function of the overlaps: ``risk(Q=..., M=..., P=..., **parameters)`` returns a float, and
        ``risk.error(...)`` a bound of its rounding error. ``.expr`` is the expression,
        ``.explicit()`` the expression in single entries, and ``.latex()`` its LaTeX.
    SequenceRisk
        Risk of a sequence model, called as ``risk(e=..., m=...)``.

    Notes
    -----
    - The rounding error is absolute. Near the perfect solution the risk therefore loses digits and
      can be slightly negative.
    - A unit of length zero (Q_jj = 0 or P_rr = 0) is the limit of short units that are independent
      of the others. At a jump, the square is the mean of the squares on both sides.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> risk = dmft.population_risk(dmft.Model(square, square))
    >>> risk(Q=[[1.0]], M=[[0.0]], P=[[1.0]])
    2.0
    """
    if isinstance(model, SequenceModel):
        return SequenceRisk(model)
    check_admissible(model)
    definition = define(x.risk, {"risk": risk_expression(model)}, "observable")
    own = []
    if model.outputs > 1:
        from dmft.equations.update.outputs import risk_definitions

        own = risk_definitions(model)
    blocks = block_definitions(_by_block(model))
    return PopulationRisk(model, live([*blocks, *mean_definitions(model), *own, definition]))


def _by_block(model: Model) -> bool:
    """Whether fields see overlaps by block, those of clusters with covariances of their own."""
    return model.clusters is not None and model.blocks is not None


# Points of a replica of the nodes.
POINTS = 4096


@lru_cache(maxsize=16)
def definitions_on_nodes(model: Model) -> tuple[Definition, ...]:
    """What the error rate of any student is computed from, on nodes."""
    if model.outputs > 1:
        return _of_classes(model)
    total, samples = sp.S.Zero, []
    for c in clusters_of(model):
        own = (x.label, x.output_pass[0])
        for symbol, value in zip(
            own, (sign_in(model, c), students_at(x.h, model.student.activation)), strict=True
        ):
            seen = c.own(c.shifted(value))
            found = define(c.shifted(symbol, own), {symbol.name: seen}, "sample")
            samples.append(found)
        # Of a label that is drawn its mean stands here.
        wrong = (1 - x.label * sp.sign(x.output_pass[0])) / 2
        law = OneSample(sp.Integer(-1), sp.S.Zero)
        total += c.weight * Expectation(c.shifted(wrong, own), law)
    return _on_nodes(model, samples, total)


def _of_classes(model: Model) -> tuple[Definition, ...]:
    """How often the largest output is not that of the class."""
    from dmft.equations.update.outputs import (
        in_cluster,
        output_definitions,
        risk_definitions,
        wrong_class,
    )

    samples = output_definitions(model)
    each = ((c, wrong_class(model, c)) for c in clusters_of(model))
    total = sp.Add(*(c.weight * in_cluster(model, c, wrong, samples) for c, wrong in each))
    return _on_nodes(model, risk_definitions(model), total)


def _on_nodes(model: Model, samples: list[Definition], total: sp.Expr) -> tuple[Definition, ...]:
    """The error rate `total` of the definitions of a sample, and the law of its fields."""
    rate = define(x.error_rate, {"wrong": total}, "observable")
    blocks = block_definitions(model.blocks is not None)
    return discretise(live([*blocks, *mean_definitions(model), *samples, rate]))


@dataclass(frozen=True)
class ErrorRate:
    """Error rates along a run of a model whose labels are signs, on nodes."""

    model: Model

    def along(
        self, Q: Array, M: Array, constants: Mapping[str, Array], scalars: Mapping[str, float]
    ) -> tuple[Array, Array]:
        """Rates at overlaps with time first, by block if they have any, (T,); errors (99 %).

        Readouts among the constants have time first, too.
        """
        p, k = M.shape[-2:]
        rule = normal_rule(p + k, POINTS)
        front = "" if self.model.blocks is None else BLOCK
        steady = {name: constants[name] for name in (f"{front}P", "teacher_readout")}
        values = Values({"p": p, "k": k}, dict(scalars), steady)
        if front:
            values = by_block(self.model, values, {})
        found = definitions_on_nodes(self.model)

        def at(n: int, here: Values) -> float:
            state = {f"{front}Q": Q[n], f"{front}M": M[n], "readout": constants["readout"][n]}
            return float(np.asarray(evaluate(found, state, here, "observable")["error_rate"]))

        each = [with_nodes(values, group) for group in rule.groups]
        rows = np.array([[at(n, here) for here in each] for n in range(len(Q))])
        mean = rows.mean(axis=1)
        return mean, np.asarray(rule.error(mean, list(rows.T)))
