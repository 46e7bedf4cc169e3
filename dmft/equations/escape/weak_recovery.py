r"""`weak_recovery`: how many samples one neuron needs to see its teacher under any update field.

With (h, h*) of unit variance and overlap m, E[psi h*] - m E[psi h] is by Stein's and Mehler's
identities (1 - m^2) sum_k e_k m^(k-1)/(k-1)!. What decides is the first e_k that does not vanish:
the information exponent of the algorithm, not of the target (theory/batch_reuse D.3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.escape.facts import check_batch
from dmft.equations.escape.passage import growth_spread
from dmft.equations.update.program import is_noisy, program_of
from dmft.equations.views.explicit import Unroller
from dmft.equations.views.printer import EquationPrinter
from dmft.errors import BadParameter
from dmft.gaussian.closed.wick import hermite
from dmft.gaussian.expectation import Gaussian
from dmft.gaussian.exponents.coefficients import Coefficient
from dmft.gaussian.nodes.grid import evaluator
from dmft.gaussian.nodes.rules import NodeRule, exact_dimensions, exact_rule, tensor_rule
from dmft.model import SGD, Model, as_count, check_identity, check_unflipped
from dmft.model.algorithm import refuse
from dmft.record import InLatex, Shown
from dmft.summary import Summary, figures
from dmft.typeset.fragment import align
from dmft.validation import checked

INSTEAD = (
    "solve the equations instead: dmft.escape_time(dmft.derive(model, algorithm), start, "
    "t_max, overlap=...); dmft.learnability returns the order of several directions"
)
# A coefficient below this fraction of its scale, or below ten times its error, is zero; with an
# error above this fraction of its scale it is not known.
ZERO, ERRORS, UNKNOWN = 1e-9, 10.0, 1e-2
# Gauss-Legendre points of the passage at exponent 1.
POINTS = 12
# Coefficients that are computed: each is an average of its own.
MOST_ORDERS = 20
# Local fields of the neuron and of the teacher; the noise of the label is `symbols.xi`.
H, H_STAR = sp.symbols("h h_star", real=True)
# Accuracy that averages without closed form are computed to.
RTOL = 1e-8
# Trapezoidal nodes an axis of smooth functions of two fields, geometrically convergent.
SMOOTH_POINTS = (192, 384, 768)
# LaTeX of an update that a summary shows.
LONGEST_UPDATE = 160
# Polynomials up to this degree in the fields are averaged as formulas.
LARGEST_DEGREE = 12


# One sample ----------------------------------------------------------------------------------


def one_update(model: Model, algorithm: SGD) -> sp.Expr:
    """Psi as an expression in h, h_star and, with label noise, xi."""
    repeat = algorithm.repeat
    readouts = {
        "readout": model.student.readout or (sp.S.One,),
        "teacher_readout": model.teacher.readout or (sp.S.One,),
    }
    unroller = Unroller({"p": 1, "k": 1}, readouts)
    unroller.entries["h", (1,)], unroller.entries["h_star", (1,)] = H, H_STAR
    for d in program_of(model, algorithm, is_noisy(model)).definitions:
        unroller.define_sample(d)
        if d.name == "h_1" and getattr(repeat, "normalised", False):
            # psi/|psi| of one neuron, without the case of its zero.
            sign = sp.sign(unroller.entries["psi_0", (1,)])
            unroller.entries["h_1", (1,)] = H - x.rho * sign
    update: sp.Expr = unroller.entries["psi", (1,)]
    declared = {x.gamma: algorithm.learning_rate, x.Delta: model.label_noise}
    declared |= {x.scalar(name): value for name, value in algorithm.rule.scalars.items()}
    return rational(update.subs(declared))


def rational(expr: sp.Expr) -> sp.Expr:
    """Floats as the decimals that they print, so that polynomials stay exact."""
    return expr.xreplace({f: sp.Rational(str(float(f))) for f in expr.atoms(sp.Float)})


class SampleLaw:
    """Averages over (h, h*, xi) at one overlap m of unit fields."""

    def __init__(self, model: Model, algorithm: SGD, overlap: sp.Expr = sp.S.Zero) -> None:
        self.fields = (H, H_STAR, x.xi) if is_noisy(model) else (H, H_STAR)
        covariance = sp.eye(len(self.fields))
        covariance[0, 1] = covariance[1, 0] = overlap
        self.law = Gaussian(list(self.fields), covariance)
        self.overlap = overlap
        # Total degree of psi; oo for other smooth functions, -1 where there are kinks.
        self.degree = program_of(model, algorithm).degree(x.psi[x.j])

    def average(self, expr: sp.Expr, powers: int, factor: int = 0) -> Coefficient:
        """Average of psi^powers times a polynomial in the fields of the degree `factor`.

        A formula for polynomials that are not large; a number for everything else.
        """
        if not self.degree.is_Integer or self.degree < 0:
            return self.number(expr)
        if self.degree <= LARGEST_DEGREE:
            return Coefficient(sp.factor(self.law.expect(sp.expand(expr))), True)
        return self.number(expr, powers * int(self.degree) + factor)

    def number(self, expr: sp.Expr, degree: int | None = None) -> Coefficient:
        """A number with its error; `degree` is that of a polynomial."""
        missing = sorted(map(str, expr.free_symbols - set(self.fields)))
        if missing:
            raise BadParameter(
                "averages of this update field have no closed form: substitute numbers for "
                f"{', '.join(missing)}"
            )
        if degree is not None and exact_dimensions(degree + 2) >= len(self.fields):
            return self._on(exact_rule(len(self.fields), degree), expr)
        if self.degree == sp.oo and len(self.fields) == 2:
            for points in SMOOTH_POINTS:
                found = self._on(tensor_rule(2, points), expr)
                if found.error <= RTOL * max(1.0, abs(found.value)):
                    return found
        value = self.law.quad(expr, rtol=RTOL)
        return Coefficient(sp.Float(float(value)), False, value.error)

    def _on(self, rule: NodeRule, expr: sp.Expr) -> Coefficient:
        """Value on the nodes of a rule, its error the distance to the other rule of its group."""
        function, m, values = evaluator(expr, self.fields), float(self.overlap), []
        for nodes in (rule, *rule.groups):
            u, v, *noise = nodes.normal
            points = np.stack([m * v + np.sqrt(1.0 - m * m) * u, v, *noise])
            values.append(float(nodes.weight @ function(points)))
        return Coefficient(sp.Float(values[0]), False, abs(values[0] - values[1]))


def check_single(model: Model, algorithm: SGD, teachers: int) -> None:
    """Refuse what is not one neuron on the sphere that learns one field."""
    if model.reads_sequences:
        raise BadParameter(f"expected one neuron and one teacher field, got a sequence; {INSTEAD}")
    wide = model.student.width != 1
    several = teachers != 1 or model.teacher.width != 1
    if wide or several:
        raise BadParameter(
            f"expected one neuron and one teacher field, got widths {model.student.width} and "
            f"{model.teacher.width}; {INSTEAD}"
        )
    if not algorithm.on_sphere:
        raise BadParameter(
            'weak recovery requires constraint="sphere", because free lengths change with the '
            f"overlap; {INSTEAD}"
        )
    if algorithm.trains_readout:
        raise BadParameter(f"weak recovery is computed for fixed readouts; {INSTEAD}")


@dataclass(frozen=True, repr=False)
class WeakRecovery(InLatex, Shown):
    r"""Number of samples and time in which one unit on the sphere learns its teacher.

    Equation    dm/dt = (1 - m^2) sum_k e_k m^(k-1)/(k-1)! - gamma/(2 n_b) E[psi^2] m, at m = 0 with
                noise of variance gamma/(n_b d) E[psi^2 h*^2] per unit t
    Scaling     t = steps * gamma / d; samples/d = t n_b/gamma
    Source      theory/batch_reuse D.3

    Attributes
    ----------
    model, algorithm
    update : sympy.Expr
        Update field psi in the symbols h, h_star and xi.
    coefficients : tuple of Coefficient
        Coefficients e_1, e_2, ..., with `.value` and `.error`.
    square, cross : Coefficient
        E[psi^2] and E[psi^2 h*^2] at m = 0.

    Examples
    --------
    >>> import dmft
    >>> model, sgd = dmft.literature.phase_retrieval(1), dmft.SGD(0.02, constraint="sphere")
    >>> recovery = dmft.weak_recovery(model, sgd)
    >>> recovery.samples, recovery.coefficients[1].value, recovery.optimal_learning_rate()
    ('d log d', 4, 1/12)
    """

    model: Model
    algorithm: SGD
    update: sp.Expr
    coefficients: tuple[Coefficient, ...]
    square: Coefficient
    cross: Coefficient

    def _summary(self) -> Summary:
        first = f"to learn the direction: effective information exponent {self.exponent}"
        rows = [("samples", self.samples, first)]
        for k, e in enumerate(self.coefficients, start=1):
            fields = rf"He_{{{k - 1}}}(h)\, He_{{{k}}}(h^*)"
            meaning = rf"$\langle \psi\, {fields} \rangle$ at overlap 0"
            rows.append((f"$e_{{{k}}}$", "0" if self._vanishes(k, e) else _cell(e), meaning))
        noise = r"noise of an update $\psi$"
        rows.append((r"$\langle \psi^2 \rangle$", _cell(self.square), noise))
        deciding = self.coefficients[1].value if self.exponent == 2 else sp.S.Zero
        if self.exponent == 2:
            growth = "growth rate of a small overlap, per unit of t"
            rows.append((r"$\Lambda$", _cell(Coefficient(self.growth_rate, True)), growth))
        if self.algorithm.rule.passes == 1 and deciding.is_positive:
            largest = self.maximal_learning_rate()
            for name, rate, words in (
                ("max", largest, "learning rate above which the overlap decays"),
                ("opt", largest / 2, "learning rate with the fewest samples"),
            ):
                rows.append((rf"$\gamma_{{{name}}}$", _cell(Coefficient(rate, True)), words))
        update = EquationPrinter({H_STAR: "h^*"}).doprint(self.update)
        notes = [rf"$\psi = {update}$"] if len(update) < LONGEST_UPDATE else []
        notes.append(r"h, $h^*$: fields of the neuron and of its teacher; t = steps $\gamma$/d.")
        if self.exponent <= 2 and self.samples != "never":
            notes.append("`.time(dim, overlap)` is the time at which |m| reaches an overlap.")
        return Summary(f"Weak recovery by {self.algorithm!r}", tuple(rows), notes=tuple(notes))

    # What it says ---------------------------------------------------------------------------

    @property
    def exponent(self) -> sp.Expr:
        """Effective information exponent, the first k with e_k != 0; oo if there is none."""
        for k, e in enumerate(self.coefficients, start=1):
            if not self._vanishes(k, e):
                return sp.Integer(k)
        return sp.oo

    def _vanishes(self, k: int, e: Coefficient) -> bool:
        if not e.value.is_number:
            return bool(e.value == 0)
        scale = self._scale(k)
        return bool(abs(float(e.value)) <= max(ZERO * scale, ERRORS * e.error))

    def _scale(self, k: int) -> float:
        """How large a coefficient may be."""
        size = float(self.square.value) ** 0.5 if self.square.value.is_number else 1.0
        return size * math.sqrt(math.factorial(k) * math.factorial(k - 1))

    @property
    def samples(self) -> str:
        """Number of samples as a function of d, as text; "never" if the overlap decays."""
        k = self.exponent
        if k == sp.oo:
            return f"more than d^{len(self.coefficients) - 1}"
        deciding = self.coefficients[int(k) - 1].value
        if k % 2 == 0 and deciding.is_number and deciding < 0:
            return "never"
        return {1: "d", 2: "d log d"}.get(int(k), f"d^{int(k) - 1}")

    @property
    def growth_rate(self) -> sp.Expr:
        """Growth rate e_2 - gamma/(2 n_b) E[psi^2] of a small overlap."""
        rate = self.algorithm.learning_rate / (2 * self.algorithm.batch_size)
        return self.coefficients[1].value - rate * self.square.value

    def maximal_learning_rate(self) -> sp.Expr:
        """Learning rate above which the overlap does not grow from zero (exponent 2).

        Returns
        -------
        sympy.Expr
            2 n_b e_2 / E[psi^2].

        Raises
        ------
        BadParameter
            For other exponents.

        Examples
        --------
        >>> import dmft
        >>> model, sgd = dmft.literature.phase_retrieval(1), dmft.SGD(0.02, constraint="sphere")
        >>> dmft.weak_recovery(model, sgd).maximal_learning_rate()
        1/6
        """
        self._check_rates()
        return 2 * self.algorithm.batch_size * self.coefficients[1].value / self.square.value

    def optimal_learning_rate(self) -> sp.Expr:
        """Learning rate with the fewest samples, to the leading logarithm (exponent 2).

        Returns
        -------
        sympy.Expr
            Half of the maximal learning rate.

        Examples
        --------
        >>> import dmft
        >>> model, sgd = dmft.literature.phase_retrieval(1), dmft.SGD(0.02, constraint="sphere")
        >>> dmft.weak_recovery(model, sgd).optimal_learning_rate()
        1/12
        """
        return self.maximal_learning_rate() / 2

    def _check_rates(self) -> None:
        if self.algorithm.rule.passes > 1:
            raise BadParameter(
                "the update field of repeated steps depends on gamma: compare weak_recovery at "
                "several learning rates"
            )
        if self.exponent != 2:
            raise BadParameter(
                f"learning rates are known only at exponent 2, this one is {self.exponent}"
            )
        e = self.coefficients[1].value
        if e.is_number and e < 0:
            raise BadParameter(f"e_2 = {float(e):.6g} < 0: the overlap decays at every rate")

    # Numbers --------------------------------------------------------------------------------

    def time(self, dim: float, overlap: float, *, start: str = "random") -> float:
        r"""Mean time t at which |m| reaches an overlap.

        Equation    exponent 2: (1/Lambda) [log m + (1/2) log(d/(v_0 + s^2/(2 Lambda)))
                    + (gamma_E + log 2)/2], s^2 = gamma/n_b E[psi^2 h*^2]; exponent 1:
                    int_0^m dm/(dm/dt) of the whole equation, to leading order in d

        Parameters
        ----------
        dim : float
        overlap : float in (0, 1)
            For exponent 2 growth must be linear up to this overlap (0.3 or less), and the noise
            much smaller: if sqrt(s^2/(2 Lambda d)) is half the overlap, chains reach it a fifth
            earlier.
        start : "random" or "orthogonal"
            m_0 ~ N(0, 1/d), or m_0 = 0.

        Returns
        -------
        float

        Raises
        ------
        BadParameter
            For exponents of 3 or more, overlaps that shrink, and thresholds that are never reached.

        Examples
        --------
        >>> import dmft
        >>> model, sgd = dmft.literature.phase_retrieval(1), dmft.SGD(0.02, constraint="sphere")
        >>> round(dmft.weak_recovery(model, sgd).time(10**6, 0.1), 6)
        1.470578
        """
        self._check_numbers(dim, overlap, start)
        if self.exponent == 1:
            return self._passage(overlap)
        growth = float(self.growth_rate)
        noise = self._rate / self.algorithm.batch_size * float(self.cross.value)
        # Starts are N(0, 1/d): of the orthogonal one, whose growth is noise alone, none is left.
        grown = noise / (2 * growth) - (start == "orthogonal")
        log_start, _ = growth_spread(1, 1, dim, grown)
        return (2 * math.log(overlap) - log_start) / (2 * growth)

    def std(self) -> float:
        """Standard deviation of the time over starts and samples, for exponent 2.

        Returns
        -------
        float
            In units of t, in any dimension.

        Raises
        ------
        BadParameter
            For other exponents.

        Examples
        --------
        >>> import dmft
        >>> model, sgd = dmft.literature.phase_retrieval(1), dmft.SGD(0.02, constraint="sphere")
        >>> round(dmft.weak_recovery(model, sgd).std(), 6)
        0.315546
        """
        self._check_numbers(2.0, 0.5, "random")
        if self.exponent != 2:
            raise BadParameter(
                "at exponent 1 the spread of the times is of order d^(-1/2): use dmft.simulate"
            )
        return growth_spread(1, 1, 1.0, 0.0)[1] / (2 * float(self.growth_rate))

    def samples_per_dim(self, dim: float, overlap: float, *, start: str = "random") -> float:
        """Number of samples divided by d in the time `time`, t n_b/gamma.

        Parameters
        ----------
        dim : float
            Input dimension d.
        overlap : float in (0, 1)
            Final overlap |m|.
        start : "random" or "orthogonal"
            As in `time`.

        Returns
        -------
        float
            Samples divided by d.

        Examples
        --------
        >>> import dmft
        >>> model, sgd = dmft.literature.phase_retrieval(1), dmft.SGD(0.02, constraint="sphere")
        >>> round(dmft.weak_recovery(model, sgd).samples_per_dim(10**6, 0.1), 3)
        73.529
        """
        time = self.time(dim, overlap, start=start)
        return time * int(self.algorithm.batch_size) / self._rate

    @property
    def _rate(self) -> float:
        return float(self.algorithm.learning_rate)

    def _check_numbers(self, dim: float, overlap: float, start: str) -> None:
        if not (dim > 1 and 0 < overlap < 1):
            raise BadParameter(f"expected dim > 1 and 0 < overlap < 1, got {dim!r} and {overlap!r}")
        if start not in ("random", "orthogonal"):
            raise BadParameter(f'start must be "random" or "orthogonal", got {start!r}')
        values = [*(e.value for e in self.coefficients), self.square.value, self.cross.value]
        values.append(self.algorithm.learning_rate)
        free = sorted({s.name for v in values for s in v.free_symbols})
        if free:
            raise BadParameter(f"a time needs numbers: declare {', '.join(free)} with a value")
        if self.exponent > 2:
            raise BadParameter(
                f"at exponent {self.exponent} the noise of the samples determines a run of "
                f"{self.samples} samples, and no formula is available; {INSTEAD}"
            )
        if self.exponent == 2 and not self.growth_rate > 0:
            why = f"Lambda = {float(self.growth_rate):.6g} is not positive"
            limit = self.coefficients[1].value > 0
            raise BadParameter(
                f"{why}: the overlap decays"
                + ("; lower the learning rate" if limit else " at every learning rate")
            )

    def _passage(self, overlap: float) -> float:
        """Integral of dm / (dm/dt) along the sign of e_1."""
        sign = 1 if float(self.coefficients[0].value) > 0 else -1
        nodes, weights = np.polynomial.legendre.leggauss(POINTS)
        total = 0.0
        for node, weight in zip(nodes, weights, strict=True):
            m = overlap * (1.0 + float(node)) / 2.0
            rate = sign * self.rate(sign * m)
            if rate <= 0.0:
                raise BadParameter(
                    f"|m| settles below {m:.3g} at this learning rate, before the threshold "
                    f"{overlap:g}: lower the rate or the threshold"
                )
            total += float(weight) * overlap / 2.0 / rate
        return total

    def rate(self, overlap: float) -> float:
        """Rate dm/dt at an overlap.

        Parameters
        ----------
        overlap : float in [-1, 1]
            Overlap m.

        Returns
        -------
        float
            Rate per unit of t.

        Examples
        --------
        >>> import dmft
        >>> model, sgd = dmft.literature.phase_retrieval(1), dmft.SGD(0.02, constraint="sphere")
        >>> round(dmft.weak_recovery(model, sgd).rate(0.5), 6)
        1.32
        """
        law = SampleLaw(self.model, self.algorithm, sp.Rational(str(overlap)))
        m = law.overlap
        half = self.algorithm.learning_rate / (2 * self.algorithm.batch_size)
        body = self.update * (H_STAR - m * H) - half * m * self.update**2
        return float(law.average(body, 2).value)

    # Shown ----------------------------------------------------------------------------------

    def latex(self) -> str:
        """Return equation, coefficients and time as an amsmath ``align*`` environment."""
        batch = self.algorithm.batch_size
        noise = r"\frac{\gamma}{2}" if batch == 1 else rf"\frac{{\gamma}}{{2 \cdot {batch}}}"
        lines = [
            r"\frac{dm}{dt} &= (1 - m^2) \sum_k \frac{e_k}{(k-1)!} m^{k-1} - "
            + noise
            + r" \langle \psi^2 \rangle m",
            r"e_k &= \langle \psi\, \mathrm{He}_{k-1}(h)\, \mathrm{He}_k(h^*) \rangle_{m=0}",
        ]
        for k, e in enumerate(self.coefficients, start=1):
            lines.append(rf"e_{{{k}}} &{_equals(e)} {_shown(e, self._vanishes(k, e))}")
        lines.append(
            rf"\langle \psi^2 \rangle &{_equals(self.square)} {_shown(self.square, False)}"
        )
        return align(lines)


def _cell(value: Coefficient) -> str:
    """A coefficient in a table."""
    if value.value.is_number and (value.error or value.value.has(sp.Float)):
        return figures(float(value.value), value.error)
    return f"${sp.latex(value.value)}$"


def _shown(value: Coefficient, vanishes: bool) -> str:
    if vanishes:
        return "0"
    return sp.latex(sp.Float(value.value, 7) if value.error else value.value)


def _equals(value: Coefficient) -> str:
    return r"\approx" if value.error else "="


@checked
def weak_recovery(model: Model, algorithm: SGD, *, order: int = 3) -> WeakRecovery:
    r"""Compute the effective information exponent of an algorithm, and times of weak recovery.

    Equation    e_k = E[psi(h, y) He_{k-1}(h) He_k(h*)] over independent h, h*; dm/dt as in
                `WeakRecovery`
    Scaling     t = steps * gamma / d
    Valid for   one neuron on the sphere, a target of one field; SGD with and without repeated
                samples. Exact for polynomials (symbols stay symbols), otherwise by quadrature with
                an error estimate. Plain SGD has e_k = E[a sigma' He_{k-1}] E[y He_k]; reuse makes
                psi a nonlinear function of y, and e_k nonzero from the order of the generative
                exponent
    Source      theory/batch_reuse D.3; [arnaboldi_2024_repetita]; derivations/repeated_samples.py

    Parameters
    ----------
    model : Model
    algorithm : SGD
        Algorithm with constraint "sphere" or "sphere-gradient".
    order : int
        Number of coefficients e_1, ..., e_order.

    Returns
    -------
    WeakRecovery
        Coefficients e_k, the exponent, growth rate, samples and times.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> cubic = dmft.hermite(3, z)
    >>> model = dmft.Model(dmft.Committee(cubic, 1), dmft.MultiIndex(cubic, [z]))
    >>> reuse = dmft.SGD(0.1, constraint="sphere", repeat=dmft.Lookahead(0.1))
    >>> dmft.weak_recovery(model, reuse).exponent, int(dmft.information_exponent(cubic, z))
    (1, 3)
    """
    check_identity(model, "weak recovery is computed")
    check_unflipped(model, "weak recovery is computed")
    refuse(algorithm, "escape")
    check_batch(algorithm)
    fields = getattr(model.teacher, "fields", (None,))
    check_single(model, algorithm, len(fields))
    order = max(2, as_count(order, "order"))
    if order > MOST_ORDERS:
        raise BadParameter(f"order = {order}: at most {MOST_ORDERS} coefficients")
    update, law = one_update(model, algorithm), SampleLaw(model, algorithm)
    coefficients = tuple(
        law.average(update * hermite(k - 1, H) * hermite(k, H_STAR), 1, 2 * k - 1)
        for k in range(1, order + 1)
    )
    square = law.average(update**2, 2)
    cross = law.average(update**2 * H_STAR**2, 2, 2)
    found = WeakRecovery(model, algorithm, update, coefficients, square, cross)
    _check_known(found)
    return found


def _check_known(found: WeakRecovery) -> None:
    """Refuse coefficients that would be taken for zero and may be anything."""
    for k, e in enumerate(found.coefficients, start=1):
        if not found._vanishes(k, e):
            return
        if e.error > UNKNOWN * found._scale(k):
            raise BadParameter(
                f"e_{k} = {float(e.value):.3g} of this update has an error of {e.error:.1g} "
                "and cannot be distinguished from zero: use label_noise = 0, a smooth loss, "
                "or solve the equations"
            )
