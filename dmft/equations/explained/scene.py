"""Numbers of indexed expressions at random overlaps: sums by loops, averages by quadrature.

Steps that contain neurons and averages are checked with it. Every average is an integral over all
fields by `dmft.explanation.both_sides`; closed forms, tables and the NumPy reference are not used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations import symbols as x
from dmft.equations.averages.expectation import FIELDS, At, Expectation, over_neurons
from dmft.equations.averages.nodes import discretise, rule_of_averages
from dmft.equations.averages.passes import Lowered, averages, lowered
from dmft.equations.definitions import Definition, base_name
from dmft.equations.parameter_values import Values, with_nodes
from dmft.equations.reference import evaluate
from dmft.equations.symbols import ONLY
from dmft.equations.update.law import laws_of
from dmft.errors import BadParameter
from dmft.explanation.both_sides import MOST_FIELDS, Value, gaussian_average
from dmft.gaussian.nodes.rules import NodeRule
from dmft.gaussian.tables.tabled import TableAverage
from dmft.model import FIELD, Model, Overlaps, check_outputs

Place = Mapping[sp.Symbol, int]
# Fields by position, and the label's noise, in integrands.
NOISE = sp.Symbol("xi_", real=True)
# Random values of parameters: between these.
LOW, HIGH = 0.3, 0.9
# Inputs of samples are in this dimension, and have this many blocks at most.
INPUTS, BLOCKS = 12, 3
# Overlaps of single units, by their symbols.
OVERLAPS = ("Q", "M", "P")
# Overlaps of updates of several passes, relative to those of others.
SMALL = 0.06


@dataclass(frozen=True)
class Scene:
    """Widths, overlaps and parameters at which both sides of a step are computed.

    `variances` are those of the coordinates of an input, in turn; overlaps are the totals that the
    fields see. `noise` is the share of each of these blocks in the squared length of an input.
    """

    p: int
    k: int
    start: Overlaps
    readouts: Mapping[str, Array]
    scalars: Mapping[str, float]
    definitions: Sequence[Definition] = ()
    variances: tuple[float, ...] = (1.0,)
    noise: tuple[float, ...] = (1.0,)
    known: dict[object, Value] = field(default_factory=dict, repr=False)

    def without(self, parameter: str) -> Scene:
        """The same where a parameter is zero."""
        return replace(self, scalars={**self.scalars, parameter: 0.0}, known={})

    @property
    def omega(self) -> Array:
        """Covariance of all fields."""
        Q, M, P = self.start.Q, self.start.M, self.start.P
        return np.block([[Q, M], [M.T, P]])

    @cached_property
    def frame(self) -> Array:
        """Random directions (INPUTS, p + k) of the fields of samples."""
        size = (INPUTS, self.p + self.k)
        frame, _ = np.linalg.qr(np.random.default_rng(7).normal(size=size))
        return np.asarray(frame)

    @property
    def deviations(self) -> Array:
        """Standard deviations of the coordinates of an input."""
        return np.sqrt(np.resize(self.variances, INPUTS))

    @property
    def rows(self) -> Array:
        """Rows of weights (p + k, INPUTS) that have these overlaps, those of the students first."""
        root = np.linalg.cholesky(self.omega)
        return np.asarray(root @ self.frame.T * np.sqrt(INPUTS) / self.deviations)

    def of_block(self, row: Array, e: int) -> Array:
        """A row in the coordinates of block e (counted from 0), zero in the others."""
        inside = np.resize(np.arange(len(self.variances)), INPUTS) == e
        return np.where(inside, row, 0.0)

    @cached_property
    def by_block(self) -> dict[str, Array]:
        """Overlaps of each block, its variance and its share of the length."""
        parts = [self.of_block(self.rows, e) for e in range(len(self.variances))]
        grams, p = np.stack([part @ part.T / INPUTS for part in parts]), self.p
        return {
            "block_Q": grams[:, :p, :p], "block_M": grams[:, :p, p:], "block_P": grams[:, p:, p:],
            "Gram": np.moveaxis(grams, 0, -1), "eigenvalue": np.array(self.variances),
            "noise_factor": np.array(self.noise),
        }  # fmt: skip

    def value(self, expr: sp.Expr, at: Place | None = None) -> Value:
        """Value of an expression at values of its free indices (counted from 1)."""
        at = at or {}
        key = (expr, tuple(sorted((str(s), n) for s, n in at.items())))
        if key not in self.known:
            self.known[key] = self._value(expr, at)
        return self.known[key]

    def _value(self, expr: sp.Expr, at: Place) -> Value:
        if isinstance(expr, Expectation):
            return self.average(expr, at)
        if isinstance(expr, sp.Sum):
            return self._sum(expr, at)
        if isinstance(expr, sp.Indexed):
            return self._entry(expr, at)
        if isinstance(expr, sp.Symbol):
            return self._symbol(expr, at)
        if isinstance(expr, TableAverage):
            numbers = (np.float64(self.value(a, at).value) for a in expr.numbers)
            return Value.exact(float(expr.on_arrays(*numbers)))
        if not expr.args or expr.is_number:
            return Value.exact(expr)
        return Value.of(expr, [self.value(a, at) for a in expr.args])

    def _sum(self, expr: sp.Sum, at: Place) -> Value:
        parts = [self.value(expr.function, q) for q in self._places(expr, at)]
        return Value(sum(p.value for p in parts), sum(p.size for p in parts))

    def _places(self, expr: sp.Sum, at: Place) -> list[Place]:
        """Values of the indices in all terms of a sum."""
        return list(over_neurons(expr.limits, at, {x.p: self.p, x.k: self.k}))

    def place(self, index: sp.Expr, at: Place) -> int:
        """Number of an index expression such as p + r."""
        widths = {x.p: sp.Integer(self.p), x.k: sp.Integer(self.k)}
        widths |= dict.fromkeys(ONLY, sp.S.One)
        return int(index.xreplace({**widths, **{s: sp.Integer(n) for s, n in at.items()}}))

    def _entry(self, expr: sp.Indexed, at: Place) -> Value:
        """Entry of an array of the scene, or of what is defined."""
        name = base_name(expr)
        where = tuple(self.place(i, at) - 1 for i in expr.indices)
        arrays = {"Q": self.start.Q, "M": self.start.M, "P": self.start.P, "Omega": self.omega}
        arrays |= {**self.readouts, **self.by_block}
        if name in arrays:
            return Value.exact(float(arrays[name][where]))
        for d in self.definitions:
            if d.name != name or not isinstance(d.target, sp.Indexed):
                continue
            here = self._matched(d.target.indices, where)
            if here is not None:
                return self.value(d.expr, here)
        raise BadParameter(f"{expr} is not defined where it is explained")

    def _matched(
        self, indices: Sequence[sp.Expr], where: Sequence[int]
    ) -> dict[sp.Symbol, int] | None:
        """Values of the index symbols of a target at an entry; None where it is another block."""
        found: dict[sp.Symbol, int] = {}
        for index, n in zip(indices, where, strict=True):
            running = [s for s in index.free_symbols if s in x.AXES]
            shift = self.place(index, dict.fromkeys(running, 0))
            size = {x.p: self.p, x.k: self.k, x.p + x.k: self.p + self.k}
            size[x.blocks] = len(self.variances)
            for symbol in running:
                value = n + 1 - shift
                if not 1 <= value <= size[x.AXES[symbol]]:
                    return None
                found[symbol] = value
            if not running and shift != n + 1:
                return None
        return found

    def _symbol(self, symbol: sp.Symbol, at: Place) -> Value:
        if symbol in at:
            return Value.exact(float(at[symbol]))
        for s, width in ((x.p, self.p), (x.k, self.k)):
            if symbol == s:
                return Value.exact(float(width))
        if symbol.name in self.scalars or symbol.name in OVERLAPS:
            single = getattr(self.start, symbol.name) if symbol.name in OVERLAPS else None
            return Value.exact(self.scalars[symbol.name] if single is None else single[0, 0])
        for d in self.definitions:
            if d.target == symbol:
                return self.value(d.expr, at)
        raise BadParameter(f"{symbol} has no number where it is explained")

    # Averages -------------------------------------------------------------------------------

    def average(self, expr: Expectation, at: Place) -> Value:
        """Average over all fields, by quadrature; the fields of a sample are put in."""
        if expr.law != FIELDS and not expr.law.of_sample:
            raise BadParameter(f"{expr} has a distribution that the numerical check does not cover")
        return self.integral(self.unrolled(expr.integrand, at))

    def integral(self, integrand: sp.Expr) -> Value:
        """Average of an integrand in numbered fields."""
        size = self.p + self.k
        fields = [*map(self.field, range(size)), NOISE]
        cov = np.zeros((size + 1, size + 1))
        cov[:size, :size], cov[size, size] = self.omega, 1.0
        return gaussian_average(integrand, fields, cov, np.zeros(size + 1))

    @staticmethod
    def field(position: int) -> sp.Symbol:
        """The field of a position, counted from 0."""
        return sp.Symbol(f"lambda_{position + 1}", real=True)

    def unrolled(self, expr: sp.Expr, at: Place) -> sp.Expr:
        """An integrand in numbered fields, sums written out, numbers for everything else."""
        if isinstance(expr, sp.Sum):
            return sp.Add(*(self.unrolled(expr.function, q) for q in self._places(expr, at)))
        if isinstance(expr, At):
            inside = {e: self.unrolled(e, at) for e in expr.factor.atoms(sp.Indexed)}
            return expr.factor.xreplace({**inside, FIELD: self.unrolled(expr.field, at)})
        if isinstance(expr, sp.Indexed) and expr.base in x.FIELDS:
            return self.field(self.place(x.position(expr), at) - 1)
        if expr == x.xi:
            return NOISE
        if isinstance(expr, sp.Indexed | sp.Symbol):
            random = self._of_sample(expr, at)
            return sp.Float(self.value(expr, at).value, 17) if random is None else random
        if not expr.args:
            return expr
        return expr.func(*(self.unrolled(a, at) for a in expr.args))

    def _of_sample(self, expr: sp.Expr, at: Place) -> sp.Expr | None:
        """What a random field of a sample is at the numbered fields; None of other names."""
        name = base_name(expr) if isinstance(expr, sp.Indexed) else expr.name
        for d in self.definitions:
            if d.role == "sample" and d.name == name:
                indices = getattr(expr, "indices", ())
                own = zip(d.indices, indices, strict=True)
                return self.unrolled(d.expr, {s: self.place(i, at) for s, i in own})
        return None


def scenes_of(
    model: Model,
    scalars: Mapping[str, sp.Expr],
    definitions: Sequence[Definition],
    on_sphere: bool,
    unit_teachers: bool = False,
) -> tuple[Scene, Scene]:
    """Two random scenes of a model: small widths, random overlaps, parameters and readouts.

    Where an update takes several passes, overlaps are small: powers of powers of the fields would
    lie beyond the reach of samples. Overlaps with a spectrum are the totals that the fields see.
    """
    check_outputs(model, "explanations are written")
    check_blocks(model)
    one, two = (
        _scene(model, scalars, definitions, on_sphere, unit_teachers, seed) for seed in (11, 29)
    )
    return one, two


def check_blocks(model: Model) -> None:
    """Refuse clusters with a variance in each block."""
    if model.spectrum is not None and model.clusters is not None:
        raise BadParameter(
            "explanations are available for clusters with one variance each, without a spectrum; "
            "these clusters have one for each block: explain the same model with scales of shape "
            "(C,)"
        )


def _scene(
    model: Model,
    scalars: Mapping[str, sp.Expr],
    definitions: Sequence[Definition],
    on_sphere: bool,
    unit_teachers: bool,
    seed: int,
) -> Scene:
    p, k = widths_of(model)
    rng = np.random.default_rng(seed)
    while True:
        root = rng.normal(size=(p + k, p + k + 1))
        omega = root @ root.T / (p + k + 1) + 0.25 * np.eye(p + k)
        if unit_teachers:  # P is the identity
            whitened = np.eye(p + k)
            whitened[p:, p:] = np.linalg.inv(np.linalg.cholesky(omega[p:, p:]))
            omega = whitened @ omega @ whitened.T
        if on_sphere:
            scale = np.ones(p + k)
            scale[:p] = 1 / np.sqrt(np.diag(omega)[:p])
            omega = omega * np.outer(scale, scale)
        elif any(d.role == "sample" for d in definitions):
            omega = SMALL * omega
        eigenvalues = np.linalg.eigvalsh(omega)
        if eigenvalues[0] > 0.12 * eigenvalues[-1] and np.diag(omega).max() < 1.8:
            break
    start = Overlaps(omega[:p, :p], omega[:p, p:], omega[p:, p:])
    numbers = {name: float(rng.uniform(LOW, HIGH)) for name in scalars}
    readouts = {
        "readout": _readout(model.student.readout, p, rng),
        "teacher_readout": _readout(model.teacher.readout, k, rng),
    }
    spectrum = model.spectrum
    if spectrum is None:
        return Scene(p, k, start, readouts, numbers, definitions)
    # What holds of a block holds of each: a few stand for many.
    some = np.unique(np.linspace(0, spectrum.blocks - 1, BLOCKS).astype(int))
    variances, noise = (tuple(y[some].tolist()) for y in (spectrum.eigenvalues, spectrum.noise))
    return Scene(p, k, start, readouts, numbers, definitions, variances, noise)


def _readout(declared: tuple[Any, ...] | None, width: int, rng: np.random.Generator) -> Array:
    if declared is not None and len(declared) == width and all(a.is_number for a in declared):
        return np.array([float(a) for a in declared])
    return np.ones(width) if declared is None else rng.uniform(0.5, 1.5, size=width)


def widths_of(model: Model) -> tuple[int, int]:
    """Widths at which the steps of a model are judged: its own where they are small."""
    teacher = model.teacher.width
    declared = model.student.width
    if model.teacher.activation is None:
        k = int(teacher)
        if k >= MOST_FIELDS:
            raise BadParameter(
                f"a target of {k} fields and a student have more than {MOST_FIELDS} fields, "
                "the most that the numerical check covers: explain a target of fewer fields"
            )
    else:
        k = int(teacher) if teacher.is_Integer and teacher <= 1 else 1
        # Means of clusters are written in rows of the teacher.
        rows = [n for c in laws_of(model) for n, m in enumerate(c.mean, start=1) if m != 0]
        k = max(k, *rows, 1)
    p = int(declared) if declared.is_Integer and declared <= 2 else 2
    return (p, k) if p + k <= 3 else (1, k)


# Averages on nodes are believed to this relative error at most, whatever their rule claims.
NODE_CLAIM = 2e-3
# Standard errors that scattered nodes may be off by.
DEVIATIONS = 7.0


def engine_values(
    definitions: Sequence[Definition], scene: Scene, role: Literal["rate", "observable"]
) -> dict[str, Array]:
    """Blocks that the NumPy reference gives, closed forms and tables included."""
    found = averages(definitions)
    return _on(
        rule_of_averages(found, scene.start, {}) if found else None, definitions, scene, role
    )


def engine_errors(
    definitions: Sequence[Definition], scene: Scene, role: Literal["rate", "observable"]
) -> dict[str, Array]:
    """What the nodes of these blocks claim to be off by in this scene, as runs do.

    Replicas of scattered nodes tell a standard error, coarser rules a difference.
    """
    found = averages(definitions)
    rule = rule_of_averages(found, scene.start, {})
    groups = [_on(group, definitions, scene, role) for group in rule.groups]
    errors = {}
    for name, value in _on(rule, definitions, scene, role).items():
        others = np.array([group[name] for group in groups])
        if rule.kind == "sobol":
            errors[name] = DEVIATIONS * others.std(axis=0, ddof=1) / math.sqrt(len(others))
        else:
            errors[name] = np.abs(others - value).max(axis=0, initial=0.0)
    return errors


def _on(
    rule: NodeRule | None,
    definitions: Sequence[Definition],
    scene: Scene,
    role: Literal["rate", "observable"],
) -> dict[str, Array]:
    """Blocks of the reference with averages on these nodes."""
    by_block = any(d.name == "Gram" for d in definitions)
    names = ("block_Q", "block_M") if by_block else ("Q", "M")
    known = {**scene.by_block, "Q": scene.start.Q, "M": scene.start.M, "P": scene.start.P}
    known |= scene.readouts
    # What equations define, of either kind, is theirs.
    arrays = {n: y for n, y in known.items() if n not in (*names, "Q", "M", "Gram")}
    widths = {"p": scene.p, "k": scene.k, "blocks": len(scene.variances)}
    values = Values(widths, dict(scene.scalars), arrays)
    if rule is not None:
        values, definitions = with_nodes(values, rule), discretise(definitions)
    state = {name: known[name] for name in names}
    return {name: np.asarray(v) for name, v in evaluate(definitions, state, values, role).items()}


def claim_of(definitions: Sequence[Definition]) -> tuple[float, str]:
    """Relative error of the averages as they are computed, and a sentence about it."""
    found = lowered(definitions)
    if any(a.how == "nodes" for a in found):
        return NODE_CLAIM, "averages on nodes, their error estimated in each run"
    tables = max((table_error(a) for a in found), default=0.0)
    return tables, f"averages by tables (relative error {tables:.0e})" if tables else "exact"


def table_error(found: Lowered) -> float:
    """What the tables of an average claim; 0 where it is closed or open."""
    return found.error if found.how == "value" else 0.0
