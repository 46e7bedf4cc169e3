"""`Experiment`: one-pass SGD in numbers and compiled activations, and what fills them in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.emit import scalar_function
from dmft.emit.quantities import KNOWN, ONLY_RATES, RISK, TIME
from dmft.errors import BadParameter
from dmft.initial_conditions import Alignment, begin_of
from dmft.model import (
    DIM_NAME,
    FIELD,
    SGD,
    Committee,
    GaussianMixture,
    Model,
    MultiIndex,
    Overlaps,
    Spectrum,
    as_count,
)
from dmft.model.algorithm import numbers_of
from dmft.model.hyperparameters import OPTIMISER
from dmft.model.loss import (
    CROSS_ENTROPY,
    LABEL,
    NAMED,
    PREDICTION,
    error_expr,
    errors_of_outputs,
    numbered,
)
from dmft.model.repetition import Clipping
from dmft.model.schedule import Schedule as Table
from dmft.model.update import OUTPUT, UpdateField
from dmft.names import ACCUMULATED, BLOCK
from dmft.simulation.clock import Clock, Schedule, Tabled
from dmft.simulation.risk_arguments import Activation, Compiled, cluster_rows, deviations
from dmft.simulation.steps.optimiser import pace
from dmft.validation import is_expression, shown

# Number of the cluster of a sample, from 0.
CLUSTER = sp.Symbol("cluster", integer=True)


@dataclass(frozen=True)
class Scale:
    """How steps are scaled."""

    kind: str  # "sign", "moment", "sum" or "norm"
    beta: float  # of the average of gradients
    forgotten: float  # 1 - beta_2 of second moments
    rate: float  # that over the time of a step
    eps: float
    kept: str  # name of what is accumulated, empty where nothing is
    initial: float | NDArray[np.float64]  # what is accumulated at the start

    def shapes(self, p: int, blocks: int | None) -> dict[str, tuple[int, ...]]:
        """Name and shape of what is accumulated."""
        shape = tuple(p for _ in ACCUMULATED.get(self.kept, ()))
        if shape and blocks is not None:
            return {f"{BLOCK}{self.kept}": (blocks, *shape)}
        return {self.kept: shape} if self.kept else {}


@dataclass(frozen=True)
class Experiment:
    """One-pass SGD with every number filled in."""

    student: Activation
    teacher: Activation
    # A row for each of several outputs.
    readout: NDArray[np.float64]
    teacher_readout: NDArray[np.float64]
    # Of the first step, where a schedule is followed.
    learning_rate: float
    label_noise: float
    batch_size: int
    constraint: int
    dim: int
    readout_rate: float = 0.0
    label_flip: float = 0.0
    # Whether the teacher is the mean of labels +1 and -1 that are drawn.
    draws_labels: bool = False
    # Length that gradients are shortened to: 0 for as they are, -1 for all of length one.
    shortened: float = 0.0
    # Of the optimiser, by the names of `dmft.model.hyperparameters`; zeros left out.
    numbers: Mapping[str, float] = field(default_factory=dict)
    # None for a rule of a user's own, which stands in the place of the student's slope.
    loss: str | sp.Expr | None = NAMED["squared"]
    # The update of a sample and its numbers, and passes over each batch; None for one gradient.
    update: Callable[..., None] | None = None
    scalars: Mapping[str, float] = field(default_factory=dict)
    passes: int = 1
    inputs: GaussianMixture | None = None
    spectrum: Spectrum | None = None
    # How steps are scaled by what was seen of gradients.
    scale: Scale | None = None
    # Rows of the clusters behind their means: laws of the fields where each has its own.
    laws: NDArray[np.float64] | None = None
    # What the learning rate follows, and its values at all steps of a run.
    schedule: Schedule | Tabled | None = None
    # Time at the start.
    begin: float = 0.0
    step_rates: NDArray[np.float64] | None = None
    # Of several outputs: each as an experiment of one, whose label is 1 for its class and 0 else;
    # the loss is then as declared.
    parts: tuple[Experiment, ...] = ()
    rules: dict[bytes, Any] = field(default_factory=dict, compare=False, repr=False)
    # Compiled quantity that steps compare with a level, in place of the risk.
    watched: Compiled | None = None

    @cached_property
    def clusters(self) -> NDArray[np.float64]:
        """Rows [probability up to this cluster, root of its scale, mean] of `common.COMMON`."""
        return cluster_rows(self.inputs, self.k, self.laws)

    @cached_property
    def deviations(self) -> NDArray[np.float64]:
        """Standard deviations of the d inputs, those in each cluster behind; none where one."""
        return deviations(self.inputs, self.spectrum, self.dim)

    @property
    def by_cluster(self) -> bool:
        """Whether the label also takes the number of the cluster."""
        return self.teacher.fields > self.k

    @property
    def p(self) -> int:
        """Student width."""
        return int(self.readout.shape[-1])

    @property
    def k(self) -> int:
        """Teacher width."""
        return int(self.teacher_readout.size)

    @cached_property
    def pull(self) -> Compiled:
        """-dl/df of the output and the label, or of the number of an output and all of both."""
        if self.parts:
            return _pull_of_outputs(self.loss, len(self.parts))
        error = sp.S.One if self.loss is None else error_expr(self.loss)
        return scalar_function(error, PREDICTION, [LABEL])

    @property
    def rule(self) -> bool:
        """Whether the update is a rule of a user's own."""
        return self.loss is None

    @property
    def sphere(self) -> bool:
        """Whether the rows keep their length."""
        return self.constraint != 0

    @property
    def time_step(self) -> float:
        """Time of one step, gamma / (p d) times the pace of the optimiser."""
        return self.learning_rate * self.time_of_rate

    @property
    def time_of_rate(self) -> float:
        """Time of one step over its learning rate."""
        return pace(self.numbers) / (self.p * self.dim)

    @property
    def follows_risk(self) -> bool:
        """Whether the learning rate does."""
        return self.schedule is not None and self.schedule.reads_risk

    def clock(self, t_max: float) -> Clock:
        """Times of the steps up to `t_max`."""
        if self.schedule is None:
            return Clock(self.time_step, begin=self.begin)
        return self.schedule.clock(self.time_of_rate, t_max, self.begin)


def without_overflow(expr: sp.Expr, loss: str | sp.Expr, count: int) -> sp.Expr:
    """The cross-entropy, or its slope, with outputs counted from the largest.

    It knows their differences alone, as labels add up to one.
    """
    outputs = numbered("f", count)
    from_largest = {f: f - sp.Max(*outputs) for f in outputs}
    return expr.xreplace(from_largest) if loss == CROSS_ENTROPY else expr


def _pull_of_outputs(loss: str | sp.Expr, count: int) -> Compiled:
    """-dl/df_o of o, outputs and labels."""
    outputs, labels = numbered("f", count), numbered("y", count)
    errors = [without_overflow(e, loss, count) for e in errors_of_outputs(loss, count)]
    number = sp.Dummy("o", real=True)
    cases = [(error, number < o + sp.S.Half) for o, error in enumerate(errors)]
    chosen = sp.Piecewise(*cases[:-1], (cases[-1][0], True))
    return scalar_function(chosen, number, [*outputs, *labels])


class Filler:
    """Values of symbols by name, remembering which ones were asked for."""

    def __init__(self, values: Mapping[str, float], dim: int) -> None:
        self.values = dict(values)
        self.dim = dim
        self.known = {"learning_rate", "label_noise", "label_flip", "readout_rate", "batch_size"}

    def scalar(self, expr: sp.Expr, name: str) -> float:
        """Value of a parameter, which may be given under its own name."""
        self.known |= {s.name for s in sp.sympify(expr, strict=True).free_symbols}
        expr = self.values.get(name, expr)
        if not is_expression(expr):
            raise BadParameter(f"{name} must be a finite number, got {shown(expr)}")
        return self.number(sp.sympify(expr, strict=True), name)

    def numbers(self, algorithm: SGD) -> dict[str, float]:
        """Numbers of the optimiser, those that are zero left out."""
        found, declared = {}, numbers_of(algorithm)
        self.known |= OPTIMISER.keys()
        for name, number in OPTIMISER.items():
            value = self.scalar(declared.get(name, sp.S.Zero), name)
            if not 0.0 <= value < number.below:
                raise BadParameter(f"{name} = {value:g} must lie in [0, {number.below:g})")
            if value:
                found[name] = value
        return found | ({"decoupled": 1.0} if getattr(algorithm, "decoupled", False) else {})

    def schedule(self) -> Schedule | Tabled | None:
        """What stands for the learning rate where that is an expression in time or risk, a table.

        Raises `BadParameter` for tables of another control.
        """
        given = self.values.get("learning_rate")
        for name, value in self.values.items():
            if isinstance(value, Table) and not name == value.control == "learning_rate":
                raise BadParameter(
                    f"{name} is given a schedule of {value.control}: simulate supports only "
                    "schedules of the learning rate"
                )
        if isinstance(given, Table):
            return Tabled(given, self.dim)
        if not isinstance(given, sp.Expr) or "t" in self.values:
            return None
        names = {s.name: s for s in given.free_symbols}
        own = {s.name: s for s in (TIME, RISK) if s.name not in self.values}
        if not own.keys() & names.keys():
            return None
        followed = {names.pop(n): s for n, s in own.items() if n in names}
        numbers = {s: sp.Float(self.symbol(s, "learning_rate"), 17) for s in names.values()}
        return Schedule(given.xreplace({**followed, **numbers}))

    def rate(
        self, declared: sp.Expr, start: Overlaps | Alignment | None, t_start: float | None
    ) -> tuple[float, Schedule | Tabled | None, float]:
        """The learning rate, that of the first step of a schedule, and the time of this step."""
        schedule = self.schedule()
        self.known |= {s.name for s in declared.free_symbols}
        if schedule is not None:  # where it follows the risk, each run tells its first rate
            begin = begin_of(start, schedule.unit, t_start, schedule.reads_time)
            return (math.nan if schedule.reads_risk else schedule.at(begin)), schedule, begin
        value = self.scalar(declared, "learning_rate")
        if value <= 0.0:
            raise BadParameter(f"learning_rate = {value:g} must be positive")
        return value, None, begin_of(start, TIME.name, t_start, follows=False)

    def shortening(self, algorithm: SGD) -> float:
        """Length that gradients are shortened to, as `Experiment.shortened`."""
        if not isinstance(algorithm.rule, Clipping):
            return 0.0
        if algorithm.rule.level is None:
            return -1.0
        level = self.scalar(algorithm.rule.level, "clip")
        if level <= 0.0:
            raise BadParameter(f"clip = {level:g} must be positive")
        return level

    def scalars(self, algorithm: SGD) -> dict[str, float]:
        """The update's own numbers, by name."""
        found = {name: self.scalar(y, name) for name, y in algorithm.rule.scalars.items()}
        self.known |= found.keys()
        if found.get("rho", 1.0) <= 0.0:
            raise BadParameter(f"rho = {found['rho']:g} must be positive")
        return found

    def batch(self, size: int | sp.Expr, dim: int) -> int:
        """Batch size as an integer: of an expression in d the nearest one."""
        given: object = self.values.get("batch_size", size)
        if isinstance(given, sp.Expr):
            value = self.number(given, "batch_size")
            if value < 1.0:
                raise BadParameter(
                    f"batch_size = {given} is {value:g} at d = {dim}: a batch has at least "
                    "one sample"
                )
            given = round(value)
        return as_count(given, "batch_size")

    def number(self, expr: sp.Expr, what: str) -> float:
        """Value of an expression, its symbols filled in."""
        symbols = {s: self.symbol(s, what) for s in expr.free_symbols}
        try:
            number = float(expr.xreplace({s: sp.Float(v, 17) for s, v in symbols.items()}))
        except TypeError as error:
            raise BadParameter(f"{what} = {expr} is not a real number") from error
        if not np.isfinite(number):
            raise BadParameter(f"{what} = {expr} is not finite")
        return number

    def symbol(self, symbol: sp.Symbol, what: str) -> float:
        """Value given to a symbol."""
        self.known.add(symbol.name)
        if symbol.name == DIM_NAME and what in ("learning_rate", "batch_size"):
            return float(self.dim)
        if symbol.name not in self.values:
            hint = ONLY_RATES if symbol.name in KNOWN else f"pass its value: {symbol}=..."
            raise BadParameter(f"{what} contains the symbol {symbol}; {hint}")
        value = self.values[symbol.name]
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise BadParameter(f"{symbol} must be a number, got {value!r}") from error

    def readout(
        self, network: Committee | MultiIndex | GaussianMixture, what: str, given: int | None
    ) -> NDArray[np.float64]:
        """Readouts of a network whose width may be left to the start (`given`)."""
        if given is None and not network.width.is_Integer:
            raise BadParameter(
                f"the {what} has symbolic width {network.width}; pass a number, or a start"
            )
        if network.readout is None or (what == "teacher" and network.outputs > 1):
            return np.ones(int(network.width) if given is None else given)
        if isinstance(network, Committee) and network.outputs > 1:
            rows = [[self.number(a, f"{what} readout") for a in row] for row in network.rows]
            return np.array(rows)
        return np.array([self.number(a, f"{what} readout") for a in network.readout])

    def teacher(self, network: Committee | MultiIndex | GaussianMixture) -> Activation:
        """Compile the activation of a committee, or a function of several fields.

        Labels of clusters are a function of the fields and of the cluster's number.
        """
        if isinstance(network, Committee):
            return self.activation(network, "teacher")
        fields = network.fields
        if isinstance(network, GaussianMixture):
            parts, read, what = network.labels or (), (*fields, CLUSTER), "label"
            cases = [(y, sp.Eq(CLUSTER, number)) for number, y in enumerate(parts)]
            expr = sp.Piecewise(*cases[:-1], (parts[-1], True))
        else:
            parts, read, what, expr = (network.expr,), fields, "teacher", network.expr
        found = self.function(expr, read, what)
        if not all(y.is_polynomial(*fields) for y in parts):
            return found
        degrees = (int(sp.Poly(y, *fields).total_degree()) for y in parts)
        return replace(found, degree=max(0, *degrees))

    def function(self, expr: sp.Expr, fields: Sequence[sp.Symbol], what: str) -> Activation:
        """Compile a function of several fields; it has no slope, as teachers do not learn."""
        first, *others = fields
        symbols = sorted(expr.free_symbols - set(fields), key=str)
        values = [self.symbol(s, what) for s in symbols]
        value = scalar_function(expr, first, [*others, *symbols])
        parameters = np.array([*([0.0] * len(others)), *values])
        return Activation(value, value, parameters, None, expr, len(fields))

    def rule(
        self, model: Model, algorithm: UpdateField, readout: NDArray[np.float64]
    ) -> Activation:
        """Compile the activation with a rule of a user's own in the place of its slope.

        Both read the label, all teacher fields and the output before the parameters.
        """
        if not np.all(readout == 1.0):
            raise BadParameter(f"custom rules are simulated at unit readouts, got {readout}")
        h, *rest = algorithm.fields
        shared = [rest[-1], *rest[:-1], OUTPUT]
        expr = model.student.activation
        rule = algorithm.written(algorithm.psi, sp.diff(expr, FIELD))
        if rule.has(sp.DiracDelta):
            raise BadParameter(f"student activation {expr} jumps: it has no slope for the rule")
        symbols = sorted(expr.free_symbols - {FIELD}, key=str)
        values = [self.symbol(s, "student activation") for s in symbols]
        return Activation(
            value=scalar_function(expr, FIELD, [*(sp.Dummy() for _ in shared), *symbols]),
            slope=scalar_function(rule, h, [*shared, *symbols]),
            parameters=np.array([*([0.0] * len(shared)), *values]),
            degree=int(sp.Poly(expr, FIELD).degree()) if expr.is_polynomial(FIELD) else None,
            expr=expr,
        )

    def activation(self, network: Committee, what: str) -> Activation:
        """Compile an activation and, for a student, its slope."""
        expr = network.activation
        symbols = sorted(expr.free_symbols - {FIELD}, key=str)
        parameters = np.array([self.symbol(s, f"{what} activation") for s in symbols])
        slope = sp.S.Zero if what == "teacher" else sp.diff(expr, FIELD)  # teachers do not learn
        if slope.has(sp.DiracDelta):
            raise BadParameter(
                f"student activation {expr} jumps, so its derivative {slope} is not a function; "
                "SGD cannot train it"
            )
        return Activation(
            value=scalar_function(expr, FIELD, symbols),
            slope=scalar_function(slope, FIELD, symbols),
            parameters=parameters,
            degree=int(sp.Poly(expr, FIELD).degree()) if expr.is_polynomial(FIELD) else None,
            expr=expr,
        )

    def check_all_used(self) -> None:
        """Refuse a value that nothing asked for."""
        unknown = sorted(set(self.values) - self.known)
        if unknown:
            from dmft.aliases import whose

            known = sorted(self.known)
            raise BadParameter(
                f"unknown parameter {unknown[0]!r}; this model has "
                f"{known}{whose(unknown[0], known)}"
            )
