"""The record of an escape formula: expression, numbers, learning rates, validity."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.escape import passage
from dmft.equations.escape.facts import read_facts
from dmft.equations.escape.laws import Law, law_of, q_star, u_0, u_1, validity_text
from dmft.equations.escape.recovery import perfect_limit
from dmft.errors import BadParameter
from dmft.explanation.steps import Explained, Explanation
from dmft.gaussian.nodes.quadrature import AccuracyWarning
from dmft.model import FIELD, SGD, GradientFlow, Model
from dmft.model.algorithm import as_parameter
from dmft.record import InLatex, Short
from dmft.typeset.fragment import align
from dmft.typeset.plain import plain_text
from dmft.validation import checked

# From this share of the largest rate on, samples rather than the drift decide when l >= 3.
UNRELIABLE_SHARE = 0.5


@dataclass(frozen=True, repr=False)
class EscapeFormula(InLatex, Explained, Short):
    r"""Time of escape from a random start, as a formula derived from the equations of motion.

    Equation    t from u_0 to u_1, u = (1/p) sum_jr M_jr^2, by the linearised equations (information
                exponent 2), the whole logistic equation (one neuron on the sphere), or the leading
                power of the overlap
    Scaling     t = steps * gamma / (p d); u_0 = k/d for random starts
    Source      theory/one_pass F; derivations/escape_formulas.py

    Attributes
    ----------
    law : Law
    length : sympy.Expr
        Squared length q_0 = |w_j|^2/d of the student rows at the start.

    Examples
    --------
    >>> import dmft
    >>> model = dmft.literature.phase_retrieval(1)
    >>> formula = dmft.escape_formula(model, dmft.SGD(1 / 12, constraint="sphere"))
    >>> round(formula.time(1000, fraction=0.1), 10), formula.maximal_learning_rate()
    (1.1798726108, 1/6)
    """

    law: Law
    length: sp.Expr

    def _in_words(self) -> str:
        return f"information exponent {self.exponent}; {self.algorithm!r}"

    # Formulas -------------------------------------------------------------------------------

    @property
    def model(self) -> Model:
        """Model, in which a target of one field is written as a committee."""
        return self.law.facts.model

    def __reduce__(self) -> tuple[Any, ...]:
        # SymPy multiplies factors out when it reads them back: the formula is derived once more.
        return _derived, (self.model, self.algorithm, self.length)

    @property
    def algorithm(self) -> SGD | GradientFlow:
        """The algorithm."""
        return self.law.facts.algorithm

    @property
    def exponent(self) -> int:
        """Information exponent l of the model, the first order at which networks correlate."""
        return self.law.exponent

    @property
    def exact(self) -> bool:
        """Whether the formula solves the whole equation of motion."""
        return self.law.exact

    @cached_property
    def expr(self) -> sp.Expr:
        """Time t in u_0, u_1 and the declared parameters."""
        return self._declared(self.law.expr)

    @property
    def lead(self) -> str:
        """Sentence before the formula in a document."""
        flow = " of the population risk" if self.algorithm.is_flow else ""
        what = "gradient flow" if self.algorithm.is_flow else "one-pass SGD"
        return f"From a random start, {what}{flow} escapes at the time"

    @property
    def growth_rate(self) -> sp.Expr:
        """Rate Lambda at which overlaps grow on the plateau; 0 unless l = 2."""
        return self._declared(self.law.growth)

    def latex(self) -> str:
        """Return the time and its abbreviations as an amsmath ``align*`` environment."""
        names = {x.gamma: sp.Symbol("gamma"), x.Delta: sp.Symbol("Delta")}
        declared = {s: v for s, v in self._symbols().items() if not v.is_number}
        rows: list[tuple[str, sp.Expr, str, str | None]]
        rows = [("t", _one_logarithm(self.law.time), "=" if self.exact else r"\simeq", None)]
        # Constants before the learning rate: 4 - 24 gamma.
        rows += [(sp.latex(s), _by_rate(e), "=", "rev-lex") for s, e in self.law.where]
        lines = [
            f"{name} &{sign} "
            + sp.latex(e.subs(declared).subs(names), order=order, inv_trig_style="full")
            for name, e, sign, order in rows
        ]
        lines.append(r"u &= \frac{1}{p} \sum_{jr} M_{jr}^2")
        return align(lines) + "\nHere $u_0$ is $u$ at the start, $u_1$ at time $t$."

    def __str__(self) -> str:
        return plain_text(self.latex())

    def _explanation(self) -> Explanation:
        from dmft.equations.explained.escape import EscapeExplained

        return EscapeExplained(self.law, self.length, self.expr).explained()

    @property
    def validity(self) -> str:
        """Range of validity of the formula."""
        rates = None
        if not self.algorithm.is_flow:
            optimal = None if self.law.optimal is None else self.optimal_learning_rate()
            rates = self.maximal_learning_rate(), optimal, self.perfect_limit
        return validity_text(self.law, self.length, rates)

    # Learning rates -------------------------------------------------------------------------

    def maximal_learning_rate(
        self, dim: float | None = None, *, overlap: float | None = None, **parameters: Any
    ) -> sp.Expr:
        """Largest learning rate at which the run escapes.

        It holds for the declared length of the start. It contains u_0 for l >= 3 if `dim` is not
        given, and u_1 for l = 1 if `overlap` is not given. `dmft.maximal_learning_rate` is a
        different limit, the stability limit of the perfect solution.

        Parameters
        ----------
        dim : float, optional
            Input dimension d, which determines u_0 = k/d.
        overlap : float, optional
            Cosine at which the run ends, for l = 1.
        **parameters
            Values of symbols by name, ``label_noise=`` for instance.

        Returns
        -------
        sympy.Expr
            A number if no symbol remains.

        Examples
        --------
        >>> import dmft
        >>> model, sgd = dmft.literature.phase_retrieval(1), dmft.SGD(1 / 12, constraint="sphere")
        >>> dmft.escape_formula(model, sgd).maximal_learning_rate()
        1/6
        """
        return self._rate(self.law.maximal, dim, overlap, parameters)

    def optimal_learning_rate(
        self, dim: float | None = None, *, overlap: float | None = None, **parameters: Any
    ) -> sp.Expr:
        """Learning rate with the fewest steps, to the leading logarithm (l = 2) or power (l >= 3).

        For l = 1 it depends on the final overlap, and `dim` and `overlap` are required.

        Parameters
        ----------
        dim, overlap, **parameters
            As in `maximal_learning_rate`.

        Returns
        -------
        sympy.Expr

        Examples
        --------
        >>> import dmft
        >>> model, sgd = dmft.literature.phase_retrieval(1), dmft.SGD(1 / 12, constraint="sphere")
        >>> dmft.escape_formula(model, sgd).optimal_learning_rate()
        1/12
        """
        if self.exponent == 1 and self.law.maximal is not None:
            return self._fastest_drift(dim, overlap, parameters)
        return self._rate(self.law.optimal, dim, overlap, parameters)

    def steps_prefactor(self, **parameters: Any) -> sp.Expr:
        """Number of steps divided by d log(u_1/u_0), at the optimal learning rate, for exponent 2.

        Parameters
        ----------
        **parameters
            Values of symbols by name, ``label_noise=`` for instance.

        Returns
        -------
        sympy.Expr

        Raises
        ------
        BadParameter
            For other exponents, and for gradient flow.

        Examples
        --------
        >>> import dmft
        >>> model, sgd = dmft.literature.phase_retrieval(1), dmft.SGD(1 / 12, constraint="sphere")
        >>> dmft.escape_formula(model, sgd).steps_prefactor()
        3
        """
        if self.exponent != 2 or self.law.optimal is None:
            raise BadParameter(
                "the number of steps is of order d log d only for SGD at information exponent 2"
            )
        growth = self.law.growth.subs(x.gamma, self.law.optimal)
        value = self.law.facts.widths[0] / (2 * self.law.optimal * growth)
        value = self._declared(value, parameters, learning_rate=False)
        return sp.factor(value) if value.is_rational_function() else value

    def gain_from_width(self) -> sp.Expr:
        """Steps of one unit divided by the steps of p units, each at its optimal learning rate.

        Returns
        -------
        sympy.Expr
            A rational function of p and the label noise; above 1 if width reduces the time.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> D = sp.Symbol("Delta", nonnegative=True)
        >>> model = dmft.literature.phase_retrieval(1, label_noise=D)
        >>> gain = dmft.escape_formula(model, dmft.SGD(0.1, constraint="sphere")).gain_from_width()
        >>> sp.limit(gain, sp.Symbol("p", integer=True, positive=True), sp.oo)
        (Delta + 12)/(Delta + 2)
        """
        one = self._at_width(1).steps_prefactor()
        gain = one / self._at_width(x.p).steps_prefactor()
        return sp.factor(gain) if gain.is_rational_function() else gain

    def _at_width(self, width: int | sp.Expr) -> EscapeFormula:
        student = self.model.student
        value = student.readout[0] if student.readout else sp.S.One
        if value != 1 and not isinstance(width, int):
            raise BadParameter("the gain from width is given for unit readouts")
        wide = type(student)(student.activation, width, field=FIELD)
        model = Model(wide, self.model.teacher, self.model.label_noise)
        return _derived(model, self.algorithm, self.length)

    # Numbers --------------------------------------------------------------------------------

    def time(
        self,
        dim: float,
        fraction: float = 0.5,
        overlap: float | None = None,
        *,
        u: float | None = None,
        u0: float | None = None,
        reference: str = "start",
        **parameters: Any,
    ) -> float:
        r"""Time t of the deterministic equations from u_0 = k/d, with all |M_jr| equal.

        Parameters
        ----------
        dim : float
            Input dimension d.
        fraction : float in (0, 1)
            The run ends when the risk has fallen to (1 - fraction) of its reference.
        overlap : float in (0, 1], optional
            Alternative to `fraction`: the cosine |M_jr| / sqrt(Q_jj P_rr) at the end.
        u, u0 : float, optional
            Alternative to `fraction`: value of u at the end (infinite for l >= 3: until the
            leading power diverges). `u0` is a start other than k/d.
        reference : "start" or "plateau"
            Reference risk. The two differ if unconstrained lengths relax first.
        **parameters
            ``learning_rate=``, ``label_noise=``, or values of symbols by name.

        Returns
        -------
        float

        Raises
        ------
        BadParameter
            If the learning rate is not below the maximal one, and for thresholds that are reached
            before anything is learned or never.

        Examples
        --------
        >>> import dmft
        >>> model = dmft.literature.phase_retrieval(1)
        >>> formula = dmft.escape_formula(model, dmft.SGD(1 / 12, constraint="sphere"))
        >>> round(formula.time(1000, fraction=0.1), 6), round(formula.time(1000, overlap=0.1), 6)
        (1.179873, 0.577909)
        """
        values = self._values(parameters)
        start, end = self._ends(values, passage.Threshold(dim, fraction, overlap, u, u0, reference))
        self._check_rate(values, start, end)
        time = self.law.expr.subs(values).subs({u_0: start})
        return float(sp.N(time.subs(u_1, sp.oo if math.isinf(end) else end), 18))

    def steps(self, dim: float, fraction: float = 0.5, **options: Any) -> float:
        """Number of steps t p d / gamma of the algorithm; options as in `time`.

        Parameters
        ----------
        dim, fraction, **options
            As in `time`.

        Returns
        -------
        float

        Raises
        ------
        BadParameter
            For gradient flow, and as in `time`.

        Examples
        --------
        >>> import dmft
        >>> model = dmft.literature.phase_retrieval(1)
        >>> formula = dmft.escape_formula(model, dmft.SGD(1 / 12, constraint="sphere"))
        >>> round(formula.steps(1000, fraction=0.1) / formula.time(1000, fraction=0.1) / 12000, 12)
        1.0
        """
        time = self.time(dim, fraction, **options)
        known = {"overlap", "u", "u0", "reference"}
        values = self._values({n: v for n, v in options.items() if n not in known})
        if self.algorithm.is_flow:
            raise BadParameter("gradient flow has no steps: its time is that of a continuous flow")
        p = self.law.facts.widths[0].subs(values)
        return float(time * p * dim / values[x.gamma])

    def mean_time(
        self, dim: float, fraction: float = 0.5, overlap: float | None = None, **options: Any
    ) -> float:
        r"""Mean time over random starts M_jr ~ N(0, 1/d) and over the noise of the samples.

        For exponent 2, growth is linear as long as the noise matters, and u has a chi-squared
        distribution (theory/one_pass F.4). For other exponents (one unit) it is the mean first
        passage time of dm = (drift) dt + sqrt(noise/d) dW, computed by quadrature.

        Parameters
        ----------
        dim, fraction, overlap, **options
            As in `time`; ``noise=False`` neglects the noise of the samples (l = 2).

        Returns
        -------
        float

        Examples
        --------
        >>> import dmft
        >>> model, sgd = dmft.literature.phase_retrieval(1), dmft.SGD(1 / 12, constraint="sphere")
        >>> round(dmft.escape_formula(model, sgd).mean_time(1000, overlap=0.1), 3)
        0.722
        """
        return self._statistics(dim, fraction, overlap, options)[0]

    def std(
        self, dim: float, fraction: float = 0.5, overlap: float | None = None, **options: Any
    ) -> float:
        """Standard deviation of the time whose mean is `mean_time`.

        Parameters
        ----------
        dim, fraction, overlap, **options
            As in `mean_time`.

        Returns
        -------
        float

        Examples
        --------
        >>> import dmft
        >>> model, sgd = dmft.literature.phase_retrieval(1), dmft.SGD(1 / 12, constraint="sphere")
        >>> round(dmft.escape_formula(model, sgd).std(1000, overlap=0.1), 3)
        0.555
        """
        return self._statistics(dim, fraction, overlap, options)[1]

    def _statistics(
        self, dim: float, fraction: float, overlap: float | None, options: dict[str, Any]
    ) -> tuple[float, float]:
        named = {n: options.pop(n) for n in ("u", "reference", "noise") if n in options}
        values = self._values(options)
        noisy = bool(named.pop("noise", True))
        threshold = passage.Threshold(dim, fraction, overlap, **named)
        start, end = self._ends(values, threshold)
        law, facts = self.law, self.law.facts
        p, k = (int(w.subs(values)) for w in facts.widths)
        if self.exponent != 2:
            self._check_threshold(values, end)
            return passage.diffusion_passage(law, values, dim, math.sqrt(end))
        self._check_rate(values, start, end)
        grown = 0.0
        if noisy and facts.noise != 0:
            grown = passage.transient_noise(law, values, float(self.length.subs(values)))
        log_start, spread = passage.growth_spread(p, k, dim, grown)
        growth = float(law.growth.subs(values))
        # The logarithm of the start enters linearly: read off at a start that is tiny.
        tiny = sp.Float("1e-300", 30)
        from_tiny = law.expr.subs(values).subs({u_0: tiny, u_1: end})
        offset = (float(sp.log(tiny)) - log_start) / (2 * growth)
        return float(sp.N(from_tiny, 18)) + offset, spread / (2 * growth)

    # Parameters -----------------------------------------------------------------------------

    def _symbols(self) -> dict[sp.Symbol, sp.Expr]:
        """Declared values of gamma and Delta."""
        declared = {x.Delta: self.model.label_noise}
        if not self.algorithm.is_flow:
            declared[x.gamma] = self.algorithm.learning_rate
        return declared

    def _declared(
        self, expr: sp.Expr, parameters: Mapping[str, Any] = {}, learning_rate: bool = True
    ) -> sp.Expr:
        """Put declared and given parameters in their place; what is left stays a symbol."""
        values = {**self._symbols()}
        for symbol, name in ((x.gamma, "learning_rate"), (x.Delta, "label_noise")):
            if name in parameters:
                values[symbol] = sp.sympify(parameters[name], strict=True)
        if not learning_rate:
            values.pop(x.gamma, None)
        expr = expr.subs(values)
        free = {s.name: s for s in expr.free_symbols}
        return expr.subs({free[n]: v for n, v in parameters.items() if n in free})

    def _values(self, parameters: Mapping[str, Any]) -> dict[sp.Symbol, sp.Expr]:
        """Numbers of every symbol, or a refusal that names what is missing."""
        values = {symbol: self._declared(symbol, parameters) for symbol in self._symbols()}
        used = set(self.model.parameters) | set(self.length.free_symbols)
        used |= {w for w in self.law.facts.widths if w.is_Symbol}
        values |= {s: self._declared(s, parameters) for s in used}
        known = {"learning_rate", "label_noise"}
        known |= {s.name for e in (*self._symbols().values(), *used) for s in e.free_symbols}
        unknown = sorted(set(parameters) - known)
        if unknown:
            raise BadParameter(f"no parameter is called {unknown}; available: {sorted(known)}")
        missing = sorted({s.name for v in values.values() for s in v.free_symbols})
        if missing:
            given = ", ".join(f"{name}=..." for name in missing)
            raise BadParameter(f"the formula contains the symbols {missing}; pass {given}")
        if x.gamma in values and not values[x.gamma] > 0:
            raise BadParameter(f"learning_rate must be positive, got {values[x.gamma]}")
        return values

    def _rate(
        self,
        rate: sp.Expr | None,
        dim: float | None,
        overlap: float | None,
        parameters: Mapping[str, Any],
    ) -> sp.Expr:
        if self.algorithm.is_flow:
            raise BadParameter("gradient flow has no learning rate; declare dmft.SGD(...)")
        if rate is None:
            return sp.oo
        if dim is not None:
            k = self.law.facts.widths[1]
            rate = rate.subs(u_0, k / sp.sympify(dim, strict=True))
        if overlap is not None:
            rate = rate.subs(u_1, sp.sympify(overlap, strict=True) ** 2)
        return self._declared(rate, parameters, learning_rate=False)

    def _fastest_drift(
        self, dim: float | None, overlap: float | None, parameters: Mapping[str, Any]
    ) -> sp.Expr:
        """L = 1: minimise the steps t / gamma to an overlap numerically."""
        if dim is None or overlap is None:
            raise BadParameter(
                "at information exponent 1 the fastest learning rate depends on where the run "
                "ends: pass dim= and overlap="
            )
        from scipy.optimize import minimize_scalar

        limit = float(self.maximal_learning_rate(dim, overlap=overlap, **parameters))
        values = self._values({**parameters, "learning_rate": limit / 2})
        del values[x.gamma]
        steps = sp.lambdify(
            x.gamma,
            self.law.expr.subs(values).subs({u_0: 1 / sp.Float(dim), u_1: overlap**2}) / x.gamma,
        )
        found = minimize_scalar(steps, bounds=(1e-9 * limit, limit * (1 - 1e-12)), method="bounded")
        return sp.Float(found.x)

    def _ends(
        self, values: Mapping[sp.Symbol, sp.Expr], threshold: passage.Threshold
    ) -> tuple[float, float]:
        """U at the start and at the threshold."""
        k = float(self.law.facts.widths[1].subs(values))
        start = threshold.u0 if threshold.u0 is not None else k / threshold.dim
        plateau = dict(self.law.where).get(q_star, sp.S.One).subs(values)
        if not (plateau.is_real and sp.N(plateau) > 0):
            self._refuse_rate(values, self.law.maximal)
        lengths = (float(self.length.subs(values)), float(plateau))
        end = passage.threshold_overlap(self.law, values, threshold, start, lengths)
        return start, end

    def _check_rate(self, values: Mapping[sp.Symbol, sp.Expr], start: float, end: float) -> None:
        """Refuse a rate at or over the maximal one, and thresholds that are never met."""
        if not end > start:
            raise BadParameter(
                f"the threshold u = {end:.6g} is met at the start, u_0 = {start:.6g}: pass a "
                "larger threshold or a larger dim"
            )
        if self.law.maximal is not None:
            limit = self.law.maximal.subs({u_0: start, u_1: end}).subs(values)
            if not values[x.gamma] < limit:
                self._refuse_rate(values, limit)
            share = float(values[x.gamma] / limit)
            if self.exponent >= 3 and share > UNRELIABLE_SHARE:
                warnings.warn(
                    f"at {share:.2g} of the largest learning rate with an escape, the noise of "
                    "the samples determines when single runs escape (heavy tails; means of 1.3 "
                    "to 2.5 "
                    "times this at the optimal rate): use .mean_time and .std, or dmft.simulate",
                    AccuracyWarning,
                    stacklevel=3,
                )
        self._check_threshold(values, end)

    def _check_threshold(self, values: Mapping[sp.Symbol, sp.Expr], end: float) -> None:
        limit = self.law.limit.subs(values)
        if not end < limit and self.law.kind != "power":
            raise BadParameter(
                f"u settles at {float(limit):.6g} at this learning rate and noise, below the "
                f"threshold {end:.6g}: lower the learning rate or the threshold"
            )

    def _refuse_rate(self, values: Mapping[sp.Symbol, sp.Expr], limit: sp.Expr | None) -> None:
        assert limit is not None
        raise BadParameter(
            f"learning_rate = {float(values[x.gamma]):.6g} is not below the maximal learning rate "
            f"{float(limit.subs(values)):.6g}: nothing is learned from a random start; see "
            ".maximal_learning_rate() and .optimal_learning_rate()"
        )

    @property
    def perfect_limit(self) -> sp.Expr | None:
        """Largest learning rate at which the perfect solution is stable; None if not known."""
        return perfect_limit(self.model, self.algorithm)


def _one_logarithm(time: sp.Expr) -> sp.Expr:
    """Write a difference of logarithms as the logarithm of one ratio."""
    above, below = sp.fraction(sp.together(time))
    one = sp.logcombine(sp.expand(above), force=True)
    return one.replace(sp.log, lambda ratio: sp.log(sp.factor(ratio))) / below


def _by_rate(expr: sp.Expr) -> sp.Expr:
    """Collect a polynomial in the learning rate."""
    if not expr.is_polynomial(x.gamma):
        return expr
    return sp.collect(sp.expand(expr), x.gamma, _sign_first)


def _sign_first(expr: sp.Expr) -> sp.Expr:
    """A factored coefficient, its sign before its brackets."""
    found = sp.factor(expr)
    terms = sp.Add.make_args(sp.expand(expr))
    if len(terms) > 1 and all(y.could_extract_minus_sign() for y in terms):
        return sp.Mul(-1, sp.factor(-expr), evaluate=False)
    return found


def _derived(model: Model, algorithm: SGD | GradientFlow, length: sp.Expr) -> EscapeFormula:
    return EscapeFormula(law_of(read_facts(model, algorithm), length), length)


# A rate this close to the maximal one, relatively, is at it.
ROUNDING = 1e-12


@checked
def escape_formula(
    model: Model, algorithm: SGD | GradientFlow, *, length: float | sp.Expr = 1
) -> EscapeFormula:
    r"""Derive a closed form of the escape time from a random start.

    Equation    dM/dt linearised (information exponent l = 2) or to its leading power (l >= 3,
                l = 1) around M = 0, Q = q I, integrated from u_0 to u_1
    Shapes      symbolic p, k, gamma, Delta are kept
    Scaling     t = steps * gamma / (p d), rates as gamma
    Valid for   weak recovery; `.validity` of the result states its conditions.
                l = 2: any width, students whose units start to learn independently (E[sigma'] = 0,
                for example even activations), with free lengths only quadratic ones.
                l = 1 and l >= 3: one neuron on the sphere, any activation
    Source      theory/one_pass D.4, F; [arnaboldi_2023_mediocrity]; derivations/escape_formulas.py

    Parameters
    ----------
    model : Model
        Committees with equal readouts, or a target of one field. Teacher rows are orthonormal,
        P = I.
    algorithm : SGD or GradientFlow
    length : float or sympy.Expr
        Squared length q_0 = |w_j|^2 / d at the start, without constraint; 1 for random weights.

    Returns
    -------
    EscapeFormula
        Time as ``.expr``, ``.latex()`` and ``.time(dim)``, with learning rates and statistics.

    Raises
    ------
    BadParameter
        For models without such a formula (the message contains an alternative), and for learning
        rates that are not below the maximal one.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> g, D = sp.Symbol("gamma", positive=True), sp.Symbol("Delta", nonnegative=True)
    >>> p = sp.Symbol("p", integer=True, positive=True)
    >>> model = dmft.literature.phase_retrieval(p, label_noise=D)
    >>> formula = dmft.escape_formula(model, dmft.SGD(g, constraint="sphere"))
    >>> formula.optimal_learning_rate()
    p**3/(Delta*p**2 + 2*p**2 + 2*p + 8)
    """
    start = as_parameter(length, "length", positive=True)
    start = (
        sp.S.One if start.is_number and float(start) == 1.0 else start
    )  # 1.0 is another in SymPy
    if algorithm.on_sphere and start != 1:
        raise BadParameter(f"on the sphere the squared length is 1, got length = {length!r}")
    formula = _derived(model, algorithm, start)
    if not algorithm.is_flow and formula.exponent == 2:
        limit, rate = formula.maximal_learning_rate(), algorithm.learning_rate
        if limit.is_number and rate.is_number and not rate < (1 - ROUNDING) * limit:
            raise BadParameter(
                f"learning_rate = {float(rate):.6g} is not below the maximal learning rate "
                f"{float(limit):.6g}: nothing is learned from a random start; the fastest is "
                f"{float(formula.optimal_learning_rate()):.6g}"
            )
    return formula
