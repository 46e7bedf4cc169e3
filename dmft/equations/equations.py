"""`Equations`: the source of truth that is printed, evaluated and compiled."""

from __future__ import annotations

import hashlib
import math
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.equations.definitions import Definition
from dmft.equations.parameter_values import (
    NODE_OPTIONS,
    Values,
    check_concentration,
    seen_by,
    unrolled_at,
    with_nodes,
)
from dmft.equations.reference import evaluate
from dmft.equations.system import System
from dmft.equations.user_terms import PARAMETERS
from dmft.errors import BadParameter
from dmft.initial_conditions import Alignment, Overlaps
from dmft.model import check_outputs
from dmft.model.hyperparameters import REGISTRY
from dmft.names import VERSION
from dmft.record import Short
from dmft.symbolic_lock import in_turn
from dmft.validation import refuse_nodes

if TYPE_CHECKING:
    from dmft.equations.views.explicit import ExplicitEquations
    from dmft.equations.views.printer import Notation
    from dmft.explanation.steps import Explanation
    from dmft.gaussian.nodes.rules import NodeRule

Kernels = Literal["auto", "all", "none"]
Form = Literal["closed", "structured"]
# Width in points of what a notebook shows.
NOTEBOOK = 560.0
# What the steps and samples of a map are counted with.
CLOCK = ("learning_rate", "dim", "batch_size")


@final
@dataclass(frozen=True, repr=False)
class Equations(Short, System):
    """Equations of motion of overlaps or alignments, as ordered symbolic definitions.

    `with_term`, `without` and `replace` return equations with changed terms, and `diff` compares
    two systems. For inputs with a spectrum, Q (B, p, p) and M (B, p, k) have a leading axis of
    blocks. Additional rows of an optimiser add state variables such as velocity_M. The state of a
    sequence model contains one number for each alignment.

    Attributes
    ----------
    kind : "ode", "map" or "sde"
    definitions : tuple of Definition
        Covariance Omega, coefficients c, intermediate quantities, rates of M and Q, and the risk.
    model, algorithm
        Model and algorithm of the derivation.
    scaling : str
        Limit of the derivation, such as "high-dimensional" (see `dmft.derive`).
    time_unit : str
        Definition of t.
    dim : sympy.Expr or None
        Input dimension, if the equations depend on it.
    noise : Noise or None
        Fluctuations at order 1/d, for equations of the kind "sde".
    derived : tuple of Definition
        The original definitions, if terms have been changed (`changes`).
    extra : tuple of sympy.Symbol
        Parameters that the user's terms introduced.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> eqs = dmft.derive(dmft.Model(square, square), dmft.GradientFlow())
    >>> eqs.explicit().rhs[sp.Symbol("M_11", real=True)].has(sp.Symbol("P_11", positive=True))
    True
    """

    def _in_words(self) -> str:
        return (
            f"{self.kind} of {', '.join(n for n in self.terms if n != 'risk')}; {self.time_unit}; "
            f"{self.algorithm!r}"
        )

    @property
    def has_cone(self) -> bool:
        """Whether rates jump where the output passes the label, as under the norm |f - y|."""
        return self.model.reads_sequences and bool(self.averages)

    @property
    def bounds_rounding(self) -> bool:
        """Whether the rounding of their closed forms is bounded along runs."""
        return not (self.is_written_out or self.averages or self.error)

    # What they hold -------------------------------------------------------------------------

    @cached_property
    def on_nodes(self) -> tuple[Definition, ...]:
        """The computed form: averages as sums over nodes, tangential drifts on the sphere."""
        definitions = self.definitions
        if self.is_written_out:  # averages hold their own nodes
            return definitions
        if self.algorithm.on_sphere:
            from dmft.equations.noise.projection import projected

            definitions = projected(definitions)
        if not self.averages:
            return definitions
        from dmft.equations.averages.nodes import discretise

        return discretise(definitions, alone=bool(self._sums))

    @cached_property
    def _sums(self) -> tuple[NDArray[np.float64], ...]:
        """Sums of error functions in stochastic equations without nodes, longest first."""
        if not (self.noise and self.averages) or self.is_written_out:
            return ()
        from dmft.equations.averages.neighbour import sums_alone

        return sums_alone(self.averages)

    @cached_property
    @in_turn
    def fingerprint(self) -> str:
        """Hash of the symbolic content and of the library version."""
        text = "|".join(
            f"{d.role}:{sp.srepr(d.target)}:{name}:{sp.srepr(e)}"
            for d in self.definitions
            for name, e in d.terms
        )
        return hashlib.blake2b(
            (text + self.signature + VERSION).encode(), digest_size=12
        ).hexdigest()

    @property
    def signature(self) -> str:
        """Text of everything besides the definitions that determines the numbers and the code.

        It includes parameters that no definition contains, because code finds parameters by
        position.
        """
        text = ",".join(self.parameters) + (self.noise.signature if self.noise else "")
        encoding = getattr(self.model, "encoding", None)  # gives the feasible set
        return text if encoding is None else text + sp.srepr(encoding.gram)

    @property
    def approximation(self) -> str:
        """How the averages are computed, as text; "exact" if all have closed forms.

        "exact" means up to rounding. If the rounding error exceeds 1e-10 of the size of the terms
        of a rate or of the risk at ordinary overlaps (variances from 0.01 to 100), the text
        contains the size of the error.
        """
        if self.is_written_out:
            tables = (
                f"averages by tables, error at most {self.error:.0e}" if self.error else "exact"
            )
            found = "averages over nodes" if self.averages else tables
            return f"drift {found}; {self.noise.approximation}" if self.noise else found
        parts = self._of_averages
        if self.noise:
            return "; ".join([*(parts or ["drift exact"]), self.noise.approximation])
        return self.space.approximation("; ".join(parts) or "exact", self.error)

    @cached_property
    def _of_averages(self) -> list[str]:
        """How averages over overlaps are computed; nothing where they are exact."""
        tabled, parts = self.error, list[str]()
        if tabled == math.inf:
            parts.append(
                "averages of one and two fields by quadrature, only in the NumPy reference, "
                "because no table resolves a factor (error not known)"
            )
        elif tabled:
            parts.append(f"averages of one and two fields by tables (relative error {tabled:.0e})")
        polynomial = [0 <= a.law.degree < sp.oo for a in self.averages]
        if self.averages and all(polynomial):
            parts.append("averages of polynomials by Gauss-Hermite rules, exact in few dimensions")
        elif self._sums:
            from dmft.equations.averages.neighbour import NOISE_TERMS

            parts.append(
                f"averages without closed form with sums of {NOISE_TERMS} error functions instead "
                "of the activations"
            )
        elif self.averages:
            parts.append("averages without closed form on nodes, their error estimated in each run")
        elif not tabled:
            from dmft.equations.rounding.conditioning import cancellation_in_words

            parts += cancellation_in_words(self)
        return parts

    @cached_property
    def error(self) -> float:
        """Error bound of tabulated averages relative to sqrt(E F^2 E G^2); 0 for closed forms.

        The error of averages on nodes depends on the state: `evaluate_error`, `Trajectory.error`.
        """
        if self.is_written_out:
            from dmft.gaussian.tables.tabled import PlacedAverage

            placed = {a for d in self.definitions for a in d.expr.atoms(PlacedAverage)}
            return float(sum(a.claimed for a in placed))
        if self.open_kernels:
            return 0.0
        return max((a.error for a in self.lowered), default=0.0)

    # Views ----------------------------------------------------------------------------------

    def evaluate(self, start: Overlaps, **parameters: float) -> dict[str, NDArray[np.float64]]:
        """Evaluate the rates at given overlaps with NumPy, without compiling.

        A unit of length zero (Q_jj = 0 or P_rr = 0) is treated as the limit Q_jj -> 0+ with the
        rest of its row and column equal to zero. Its field has either sign with probability 1/2.
        The slope at a kink is therefore the mean of both slopes (1/2 for ReLU), and its square is
        the mean of both squares.

        If a number is not finite in double precision, an `AccuracyWarning` is issued. An infinite
        average that is computed by quadrature, for example of exp(z^2), raises an error.
        `evaluate_error` returns the error of the result.

        Parameters
        ----------
        start : Overlaps
            Q (p, p), M (p, k), P (k, k) and readouts at which the rates are computed.
        **parameters
            Run-time values: ``learning_rate=``, ``label_noise=`` and symbols by name; by default
            the declared values. ``nodes=``, ``replicas=`` and ``seed=`` select the quadrature nodes
            of averages without closed form.

        Returns
        -------
        dict
            ``{"Q": dQ/dt (p, p), "M": dM/dt (p, k)}``, and ``"readout"`` (p,) if it is trained. For
            a map the values are the increments in one step. For an sde they are the drift, and the
            dict also contains ``"Sigma"``, the covariance of the change due to one sample over
            (Q, M) packed in C order, and ``"covariance"``, the covariance of (Q, M) per unit of t,
            Sigma gamma/(p d n_b).

        Examples
        --------
        >>> import dmft
        >>> sgd = dmft.SGD(0.05, constraint="sphere")
        >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), sgd)
        >>> start = dmft.Overlaps([[1.0]], [[0.1]])
        >>> rates = eqs.evaluate(start)
        >>> rates["M"].shape, rates["Q"].item()  # on the sphere lengths stay
        ((1, 1), 0.0)
        """
        values = self.values(start, parameters)
        if not (self.averages or self.noise):
            return self.space.packed(
                evaluate(self.on_nodes, self.space.entries(start), values, "rate")
            )
        return self._on_rule(start, values, self.rule(start, parameters))

    def _on_rule(
        self, start: Overlaps, values: Values, rule: NodeRule
    ) -> dict[str, NDArray[np.float64]]:
        """Rates with the averages on the nodes of a rule."""
        if rule.groups:
            from dmft.equations.averages.tails import check_tails

            check_tails(self.definitions, self.on_nodes, self.space.entries(start), values, rule)
        here = with_nodes(values, rule)
        rates = evaluate(self.on_nodes, self.space.entries(start), here, "rate")
        if self.noise:
            rates = self.noise.add_to(rates, self.space.entries(start), here, rule)
        return self.space.packed(rates)

    def state(
        self, start: Overlaps | Alignment, values: Values | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """State at a start, by name.

        With the numbers of a run (`values`) it includes trained readouts and accumulators.
        """
        found = self.space.state(start)
        if values is None:
            return found
        names = [d.name for d in self.definitions if d.role == "rate"]
        return found | {name: values.arrays[name] for name in names if name in values.arrays}

    def evaluate_error(
        self, start: Overlaps, **parameters: float
    ) -> dict[str, NDArray[np.float64]]:
        """Absolute error of the rates that `evaluate` returns and of the compiled rates.

        The error is the sum of a bound of the rounding error of closed forms (with Q, M, P and the
        parameters as exact numbers), the error bounds of tables, and the estimated error (99 %) of
        averages on nodes. It is usually about 1e-14 of the size of the terms, and larger if closed
        forms cancel.

        Parameters
        ----------
        start : Overlaps
            As in `evaluate`.
        **parameters
            As in `evaluate`.

        Returns
        -------
        dict of str to ndarray
            One bound for each entry of the result of `evaluate`.

        Examples
        --------
        >>> import dmft
        >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), dmft.SGD(0.05))
        >>> start = dmft.Overlaps([[1.0]], [[0.1]])
        >>> error = eqs.evaluate_error(start)
        >>> bool(error["M"].item() < 1e-13)
        True
        """
        values = self.values(start, parameters)
        rule = self.rule(start, parameters) if self.averages or self.noise else None
        groups = rule.groups if rule is not None else ()
        # Rounding is the same on all nodes: those of one group tell it.
        here = with_nodes(values, groups[0] if groups else rule) if rule is not None else values
        from dmft.equations.rounding.bounds import of_one_state

        found = of_one_state(self.on_nodes, self.space.entries(start), here, "rate")
        errors = {name: bound.error for name, bound in found.items()}
        if self.noise:
            errors = self.noise.add_rounding(errors, self.space.entries(start), here)
        errors = self.space.packed(errors)
        if rule is not None and groups:
            value = self._on_rule(start, values, rule)
            rates = [self._on_rule(start, values, group) for group in groups]
            for name, rate in value.items():
                errors[name] = errors[name] + rule.error(rate, [r[name] for r in rates])
            if self._sums:
                from dmft.gaussian.nodes.rules import spread

                shorter = [rule.with_mixture(y) for y in self._sums[1:]]
                rates = [self._on_rule(start, values, other) for other in shorter]
                for name, rate in value.items():
                    errors[name] = errors[name] + spread("mixture", rate, [r[name] for r in rates])
        return self.noise.shared(errors) if self.noise else errors

    def rule(self, start: Overlaps, options: Mapping[str, Any]) -> NodeRule:
        """Nodes at the widths of a start; reads the options `nodes`, `replicas` and `seed`."""
        if self.noise:
            shared = self.noise.rule(_fields(start), options)
            if self._sums:
                return shared.with_mixture(self._sums[0])
            from dmft.equations.averages.neighbour import mixtures_of, of_neighbour

            near = mixtures_of(self.averages)
            return shared.with_mixture(of_neighbour(near)) if near else shared
        if self.is_written_out:
            chosen = {n: options[n] for n in NODE_OPTIONS if options.get(n) is not None}
            return self.space.rule(self.averages, chosen)
        from dmft.equations.averages.nodes import rule_of_averages
        from dmft.equations.averages.tails import told_by_tails

        options = {"label_noise": self.declared.get("label_noise", 0), **options}
        found = rule_of_averages(self.averages, seen_by(self.model, start), options)
        return told_by_tails(found, self.definitions, "rate")

    def values(self, start: Overlaps, parameters: dict[str, Any]) -> Values:
        """Numbers of a run: parameters (replaced by the given ones), widths and constant arrays.

        Raises `BadParameter` for unknown names, and for symbols without a value.
        """
        needed = list(self.parameters)
        # The learning rate also sets the clock, where the equations themselves do not need it.
        if not self.algorithm.is_flow and (
            self.algorithm.learning_rate.is_number or "learning_rate" in parameters
        ):
            needed.append("learning_rate")
        if self.kind == "map":
            needed += CLOCK
        given = {name: v for name, v in parameters.items() if name not in NODE_OPTIONS}
        chosen = self.averages or (self.noise and not self.noise.exact(_fields(start)))
        if not chosen and len(given) < len(parameters):
            refuse_nodes(sorted(set(parameters) - set(given)), "these equations")
        values = self.space.values(list(dict.fromkeys(needed)), start, given, self.declared)
        values = self.space.with_constants(values, self.definitions, start)
        if self.kind == "map":
            check_concentration(values.scalars, start.p)
        if self.noise:
            self.noise.check(values, start, given)
        on_nodes = self.averages or (self.noise and not self.noise.closed)
        if on_nodes:
            values = with_nodes(values, self.rule(start, parameters))
            if self.model.reads_sequences:
                from dmft.equations.sequence.alignments import check_observables

                check_observables(self.definitions, self.space.entries(start), values)
        return values

    def explicit(
        self,
        width: int | None = None,
        teacher_width: int | None = None,
        *,
        P: Any = None,
        readout: Any = "declared",
        teacher_readout: Any = "declared",
    ) -> ExplicitEquations:
        """Return scalar equations for each entry of the state, at small widths (p + k <= 5).

        Parameters
        ----------
        width, teacher_width : int, optional
            p and k; by default the widths of the model.
        P : (k, k) nested sequence, optional
            Teacher overlaps; symbols by default.
        readout, teacher_readout : sequence, None or "declared"
            Fixed readouts. None keeps symbols; by default the readouts of the model are used.

        Returns
        -------
        ExplicitEquations
            SymPy expressions of the rates, by the symbol of each entry of the state.

        Raises
        ------
        BadParameter
            For more than five units, and widths that are not numbers.

        Examples
        --------
        >>> import dmft
        >>> sgd = dmft.SGD(0.05, constraint="sphere")
        >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), sgd)
        >>> flow = eqs.explicit(P=[[1]])
        >>> sorted(map(str, flow.rhs))
        ['M_11', 'Q_11']
        """
        from dmft.equations.views.explicit import unroll

        if self.is_written_out:
            return unroll(self.definitions, {"p": 1, "k": 1}, {})
        if self.space.not_unrolled:
            raise BadParameter(self.space.not_unrolled)
        check_outputs(self.model, "equations are unrolled")
        trained = self.algorithm.trains_readout
        given = {"readout": readout, "teacher_readout": teacher_readout}
        widths, constants = unrolled_at(self.model, width, teacher_width, given, trained)
        kept: dict[str, ExplicitEquations] = self.__dict__.setdefault("_written_out", {})
        key = f"{widths} {constants} {P}"
        if key in kept:
            return kept[key]
        result = unroll(self.definitions, widths, {**constants, "P": P})
        if self.noise:
            result = self.noise.unrolled(result, widths, {**constants, "P": P})
        declared_now = {PARAMETERS[n]: v for n, v in self.parameters.items() if n in PARAMETERS}
        return kept.setdefault(key, result.put(declared_now))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_written_out"}

    def explain(
        self, block: str = "M", term: str | None = None, *, depth: int | None = None
    ) -> Explanation:
        """Explain the derivation of a rate, or of one of its terms, from one step of the algorithm.

        Parameters
        ----------
        block : "M", "Q" or "readout"
        term : str, optional
            A name in `terms`, such as "sgd_noise".
        depth : int, optional
            Level of detail; all steps by default.

        Returns
        -------
        Explanation
            Steps that display in terminals and notebooks; ``.latex()`` returns an appendix.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
        >>> eqs = dmft.derive(dmft.Model(square, square), dmft.SGD(0.1))
        >>> [step.rule for step in eqs.explain("Q", "sgd_noise", depth=0).steps]
        ['square', 'linearity', 'values']
        """
        from dmft.equations.explained.rates import explain_rate

        return explain_rate(self, block, term).to_depth(depth)

    def latex(
        self,
        kernels: Kernels = "auto",
        *,
        width: float = 246.0,
        notation: Notation = None,
        symbolic: bool = False,
        form: Form | None = None,
        numbered: bool = False,
    ) -> str:
        r"""Return the equations as LaTeX: `align*` environments with sentences between them.

        Parameters
        ----------
        kernels : "auto", "all" or "none"
            Which Gaussian averages are given in closed form below the equations.
        width : float
            Line width in points, in an article of 11 pt; 246 is the width of one of two columns.
        notation : "saad-solla", "scalar", "krzakala", mapping or None
            Letters of the quantities, for example ``{"M": "R", "learning_rate": r"\eta"}``. Factors
            and the unit of time do not change.
        symbolic : bool
            Print unit readouts, P = I, zero noise and the indices of single units as symbols.
        form : "closed", "structured" or None
            "closed" evaluates all averages, inserts constraints (Q = 1 on the sphere) and
            simplifies. "structured" prints sums of Gaussian averages, for all widths. The default
            is "closed" for single units and for polynomials on the sphere if the result is short.
        numbered : bool
            Number the equations of motion and the risk, as `dmft.latex` does.

        Returns
        -------
        str
            Text that compiles with amsmath; `dmft.latex` writes a document of it.

        Examples
        --------
        >>> import dmft
        >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), dmft.SGD(0.05))
        >>> text = eqs.latex()
        >>> text.count(r"\begin{align*}") == text.count(r"\end{align*}") > 0
        True
        """
        from dmft.equations.views.latex import Page, equations_latex

        page = Page(width, notation, symbolic, kernels, form, "" if numbered else "*")
        if self.family == "rule":
            from dmft.equations.rules.latex import rule_latex

            return rule_latex(self, page)
        return equations_latex(self, page)

    def _repr_latex_(self) -> str:
        # A notebook shows comment lines as text: leave out the first one.
        return self.latex(width=NOTEBOOK).split("\n", 1)[1]

    def __str__(self) -> str:
        from dmft.typeset.plain import CHARACTERS, TERMINAL, in_letters, plain_text

        body = plain_text(self.latex(width=TERMINAL, kernels="none"))
        # A terminal shows the names that `without` takes, for all terms.
        body = re.sub(r"\nTerms in this order: [^.]*\.(?=\n|$)", "", body)
        clock = in_letters(self.time_unit, {n: one.latex for n, one in REGISTRY.items()})
        lines = [f"Equations of motion ({self.kind}); {clock}", body]
        rates = [d for d in self.definitions if d.role == "rate" and d.terms]
        names = (f"{d.name} ({', '.join(name for name, _ in d.terms)})" for d in rates)
        lines += textwrap.wrap(f"Terms: {', '.join(names)}", CHARACTERS)
        lines += self.noise.text() if self.noise else []
        inputs = getattr(self.model, "inputs", None)
        lines += [f"Inputs: {inputs}"] if hasattr(inputs, "eigenvalues") else []
        if self.is_written_out and "Outputs of student" not in body:
            lines.append(self.space.networks)
        return "\n".join(lines)


def _fields(start: Any) -> int:
    """Number p + k of fields; nodes of sequences do not depend on a start."""
    return start.p + start.k if isinstance(start, Overlaps) else 0
