"""`export`, and what a file holds of a system: programs, arrays, parameters, a header."""

from __future__ import annotations

import importlib
import keyword
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.codegen.assemble import code_names
from dmft.codegen.export.library import TABLE
from dmft.codegen.export.program import Program, walk
from dmft.codegen.packing import layout
from dmft.equations import symbols as x
from dmft.equations.definitions import Definition
from dmft.equations.equations import Equations
from dmft.equations.parameter_values import resolve_scalars, run_parameters
from dmft.equations.reference import evaluate
from dmft.equations.two_time.descent import DescentEquations
from dmft.errors import BadParameter, NotClosed
from dmft.model import DIM_NAME, Overlaps
from dmft.names import VERSION
from dmft.validation import checked_or

# Names in files that those of scalars and measures of a rule would hide.
TAKEN = frozenset({"np", "jnp", "jax", "math", "par", "numbers", "parameters", "out", "state"})
# Random states whose rates a file keeps.
STATES = 3
# Widths of those states where the model leaves them open.
OPEN_WIDTHS = {"p": 3, "k": 2}
# Relative to the largest entry of a block.
TOLERANCE = 1e-12
# Values of parameters that have none, for the stored states.
USUAL = {"dim": 1000.0, "batch_size": 1000.0}


@dataclass(frozen=True)
class Block:
    """An array of the state or of the constants: axes in p, k or numbers; shape of what is given.

    `alone` says that a single number is given instead of a vector of length one.
    """

    name: str
    axes: tuple[str, ...]
    alone: bool = False


@dataclass(frozen=True)
class Case:
    """Numbers at one state."""

    widths: dict[str, int]
    arrays: dict[str, Array]
    parameters: dict[str, float]
    rates: dict[str, Array]
    observables: dict[str, float]


class System:
    """Equations as an export sees them."""

    def __init__(self, equations: Any, given: Mapping[str, float] | None = None) -> None:
        refuse(equations)
        self.equations: Equations = equations
        self.given = dict(given or {})
        resolve_scalars(equations.declared, (), self.given)  # refuses unknown names
        # Numbers of the state are written one by one, and widths are those of the declaration.
        self.written_out = equations.is_written_out
        own = [
            *equations.space.blocks,
            *(d.name for d in equations.definitions if d.role == "observable"),
        ]
        for name in own:
            if name in TAKEN or keyword.iskeyword(name):
                raise BadParameter(f"the name {name} is reserved in exported files; rename it")

    @cached_property
    def fixed(self) -> dict[str, sp.Expr]:
        """Letters of readouts, which a file holds as numbers."""
        model = self.equations.model
        networks = () if self.written_out else (model.student, model.teacher)
        values = [v for n in networks for v in getattr(n, "readout", None) or ()]
        letters = sorted({s.name for v in values for s in v.free_symbols})
        for name in letters:
            if name not in self.given:
                raise BadParameter(
                    f"readout {values} has no values, which a file requires: pass {name}=...; "
                    "a run may use other readouts"
                )
        return {name: sp.Float(self.given[name]) for name in letters}

    @cached_property
    def defaults(self) -> dict[str, float | None]:
        """Value of each parameter of a run, None where the run has to give it."""
        found = run_parameters(self.equations.model, self.equations.parameters, self.given)
        return {name: value for name, value in found.items() if name not in self.fixed}

    @cached_property
    def formulas(self) -> dict[str, sp.Expr]:
        """Parameters of the equations that are no parameters of a run, but follow from them."""
        declared = {**self.equations.parameters, **self.fixed}
        others = {n: v for n, v in declared.items() if n not in self.defaults}
        order = sorted(others, key=lambda name: name not in self.fixed)
        of_dim = {sp.Symbol(DIM_NAME, **s.assumptions0): x.d for v in others.values()
                  for s in v.free_symbols if s.name == DIM_NAME}  # fmt: skip
        return {name: others[name].xreplace(of_dim) for name in order}

    @cached_property
    def names(self) -> dict[str, str]:
        """Identifier of each parameter of a run."""
        return {n: self._identifiers[n] for n in self.defaults}

    @cached_property
    def _identifiers(self) -> dict[str, str]:
        return code_names([*self.defaults, *self.formulas])

    def walked(self, definitions: Sequence[Definition], role: str) -> Program:
        """Program of definitions in which formulas of parameters come first."""
        first = [
            Definition(sp.Symbol(name), (("value", value),), "intermediate")
            for name, value in self.formulas.items()
        ]
        return walk(
            [*first, *definitions], self._identifiers, self.entries,
            {b.name: b.axes for b in self.state if self.written_out}, role,
        )  # fmt: skip

    @cached_property
    def entries(self) -> dict[str, str]:
        """Where the numbers of a state stand that is written in them one by one."""
        if not self.written_out:
            return {}
        return self.equations.space.places

    @cached_property
    def state(self) -> tuple[Block, ...]:
        """Arrays of the state, in packed order."""
        if self.written_out:
            return self._blocks(self.equations.space.blocks)
        return tuple(Block(b.name, b.axes) for b in layout(self.equations.on_nodes).state)

    def _blocks(self, names: Iterable[str]) -> tuple[Block, ...]:
        shapes = {name: self.equations.space.shapes[name] for name in names}
        return tuple(
            Block(name, tuple(map(str, shape)) or ("1",), not shape)
            for name, shape in shapes.items()
            if 0 not in shape
        )

    @cached_property
    def constants(self) -> tuple[Block, ...]:
        """Arrays that stand still."""
        if self.written_out:
            return self._blocks(self.equations.space.still)
        return tuple(Block(b.name, b.axes) for b in layout(self.equations.on_nodes).constants)

    @cached_property
    def rates(self) -> Program:
        """Statements of the rates."""
        return self.walked(self.equations.on_nodes, "rate")

    @cached_property
    def observables(self) -> Program:
        """Statements of the observables."""
        return self.walked(self.equations.on_nodes, "observable")

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the observables, the risk first of them."""
        return tuple(self.observables.outputs)

    @property
    def widths(self) -> list[str]:
        """Widths that functions are given."""
        return [] if self.written_out else ["p", "k"]

    @property
    def arrays(self) -> dict[str, tuple[str, ...]]:
        """Axes of what both programs are given."""
        return {block.name: block.axes for block in (*self.state, *self.constants)}

    def filled(self, program: Program) -> list[Block]:
        """Arrays that a program fills, in the order of the state."""
        order = [f"d{b.name}" for b in self.state]
        names = [n for n in order if n in program.outputs] or list(program.outputs)
        return [Block(name, program.outputs[name]) for name in names]

    def calls(self) -> set[str]:
        """Functions and tables that the programs name."""
        tables = {n for n in self.rates.names | self.observables.names if n.startswith(TABLE)}
        return self.rates.calls | self.observables.calls | tables

    # Numbers --------------------------------------------------------------------------------

    def readouts(self) -> dict[str, list[float] | None]:
        """Declared readouts; None for ones of any width."""
        networks = {"readout": "student", "teacher_readout": "teacher"}
        declared = {n: getattr(self.equations.model, part) for n, part in networks.items()}

        def number(value: sp.Expr) -> float:
            return float(value.subs({s: self.fixed[s.name] for s in value.free_symbols}))

        return {
            name: None if network.readout is None else [number(v) for v in network.readout]
            for name, network in declared.items()
        }

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """Values of the NumPy reference at random states."""
        rng = np.random.default_rng(int(self.equations.fingerprint[:8], 16))
        return tuple(self.case(rng) for _ in range(STATES))

    def case(self, rng: np.random.Generator) -> Case:
        """Values at one random state."""
        equations = self.equations
        parameters = {
            name: USUAL.get(name, float(rng.uniform(0.2, 0.8))) if value is None else value
            for name, value in self.defaults.items()
        }
        given = parameters | {name: float(value) for name, value in self.fixed.items()}
        start: Any = equations.space.random_start(rng) or self.overlaps(rng)
        rates = equations.evaluate(start, **given)
        values = equations.values(start, given)
        state = equations.space.entries(start)
        front = getattr(equations.space, "prefix", "")
        seen = evaluate(equations.on_nodes, state, values, "observable")
        begun = equations.state(start, values)
        arrays = {b.name: np.asarray(begun[b.name]) for b in self.state if b.name in begun}
        arrays |= {b.name: values.arrays[b.name] for b in self.constants}
        widths = {} if self.written_out else {"p": start.p, "k": start.k}
        numbers = {name: float(value) for name, value in seen.items()}
        chosen = {b.name: rates[b.name.removeprefix(front)] for b in self.state}
        return Case(widths, arrays, parameters, chosen, numbers)

    def overlaps(self, rng: np.random.Generator) -> Overlaps:
        """Overlaps of random vectors, on the sphere where they stay there."""
        model = self.equations.model
        declared = {"p": model.student.width, "k": model.teacher.width}
        p, k = (
            int(w) if isinstance(w, sp.Integer) else OPEN_WIDTHS[name]
            for name, w in declared.items()
        )
        dim = p + k + 2
        students, teachers = rng.standard_normal((p, dim)), rng.standard_normal((k, dim))
        size = np.linalg.norm(students, axis=1, keepdims=True)
        students = students / size if self.equations.algorithm.on_sphere else students / dim**0.5
        teachers /= dim**0.5
        trained = self.equations.algorithm.trains_readout
        readout = rng.uniform(0.5, 1.5, p) if trained else None
        Q = students @ students.T
        if self.equations.algorithm.on_sphere:
            np.fill_diagonal(Q, 1.0)
        return Overlaps(Q, students @ teachers.T, teachers @ teachers.T, readout=readout)


def refuse(equations: Any) -> None:
    """Refuse what is not exported, by name."""
    if not isinstance(equations, Equations):
        two_time = "two-time" in (getattr(equations, y, None) for y in ("kind", "family"))
        if two_time or type(equations).__name__ == "TwoTime":
            raise NotClosed(
                "equations in two times are recursions over a whole history, with averages over "
                "sampled paths; dmft.export writes right-hand sides of one time. Solve them with "
                "dmft.solve and save the run: run.save(path)"
            )
        raise BadParameter(f"export takes dmft.Equations, got {type(equations).__name__}")
    if equations.open_kernels:
        listing = "\n  ".join(equations.open_kernels)
        raise NotClosed(f"the equations are not closed; open expectations:\n  {listing}")
    if equations.noise:
        raise NotClosed(
            "fluctuations at order 1/d are averages on nodes, which are not exported; export the "
            "drift at infinite dimension: dmft.derive(model, algorithm) without fluctuations=True"
        )
    if equations.averages:
        raise NotClosed(
            "these equations contain an average without closed form, which each run computes by "
            f"quadrature: {equations.averages[0]}. Only closed forms and tables are exported: "
            "remove the term by equations.without(...), or export the run by run.to_pandas()"
        )
    if equations.space.not_exported:
        raise NotClosed(equations.space.not_exported)


def header(system: System) -> list[str]:
    """Lines that say what a file is of."""
    equations = system.equations
    said = equations.space.conventions
    lines = [
        f"Right-hand side of equations of motion ({equations.kind}), written by dmft {VERSION}.",
        "",
        f"Fingerprint:  {equations.fingerprint}",
        *(f"{name + ':':<13} {value}" for name, value in equations.space.announced.items()),
        f"Clock:        {equations.time_unit}",
        f"Averages:     {equations.approximation}",
        f"Sources:      {', '.join(sources(equations))}",
        "",
        *(f"{'' if n else 'Conventions:':<13} {line}" for n, line in enumerate(said)),
    ]
    if equations.kind == "map":
        lines.append("              A map: the rates are the increments of one step.")
    if system.names or system.formulas:
        lines += ["", "Parameters:"]
    for name, number in system.defaults.items():
        lines.append(f"  {name}" + (" (no default)" if number is None else f" = {number!r}"))
    for name, value in system.formulas.items():
        shown = value if value.free_symbols else repr(float(value))
        lines.append(f"  {name} = {shown}, not a parameter of this file")
    return lines


def sources(equations: Equations) -> list[str]:
    """Keys of `dmft.cite` for the papers that the equations are in."""
    keys = list[str]()
    if equations.is_written_out:
        return list(equations.space.sources)
    keys += ["saad_solla_1995", "goldt_2019"]
    if equations.algorithm.on_sphere:
        keys.append("arnaboldi_2024")
    if equations.kind == "map":
        keys.append("arnaboldi_2024")
    if equations.algorithm.repeat is not None:
        keys.append("arnaboldi_2024_repetita")
    return list(dict.fromkeys(keys))


# File of this folder and function for each kind, by how a name ends; the first end counts.
KINDS = {
    "_jax.py": ("jax", "jax_text"),
    ".py": ("python", "python_text"),
    ".ipynb": ("python", "notebook_text"),
    ".c": ("c_file", "c_text"),
    ".js": ("javascript", "javascript_text"),
}


@checked_or(equations="random networks and other equations in two times are not exported")
def export(equations: Equations | DescentEquations, path: str | Path, **parameters: float) -> Path:
    """Write equations of motion to a self-contained file, in the language of its suffix.

    The file contains the equations that `build` compiles and the special functions that they
    require. Its header states the declaration, the version, the time unit, the sources and the
    layout of the arrays. The file also contains reference values at random states. Run as a script,
    it compares its results with these and returns 0 or 1.

    ============  ==============================================================================
    ``.py``       ``rhs(t, Q, M, P, **parameters) -> dict``, ``observables``, ``check``; NumPy,
                  and Numba where it is installed
    ``.ipynb``    a notebook: equations, this code, a solution by SciPy, a plot
    ``.c``        C99: ``rhs``, ``observables``, and ``tangent`` and ``jacobian`` from the symbolic
                  derivative; with ``-DDMFT_TEST`` a ``main`` that compares
    ``.js``       ES module (browsers, Node): ``rhs(t, Q, M, P, readout, teacher_readout,
                  parameters)``, ``observables``, ``check``; ``rates`` on packed vectors
    ``_jax.py``   JAX in double precision: ``rhs`` to jit and to differentiate, ``jacobian``
    ============  ==============================================================================

    Sequence models have ``rhs(t, e, m, **parameters)``. Widths are read from the arrays. The
    parameters are the same as for `dmft.solve`: the symbols in the declarations, and declared
    numbers by name, with the declared values as defaults. Readouts are written as numbers.

    Parameters
    ----------
    equations : Equations
        Ordinary differential equations or maps whose averages have closed forms or tables.
    path : str or Path
        File to write; an existing file is replaced.
    **parameters
        Default values in the file, for symbols and for declared parameters.

    Returns
    -------
    Path

    Raises
    ------
    NotClosed
        For averages on nodes, fluctuations, two-time equations, and functions that are not
        available in a language (averages of four signs and tables of pairs in C and JAX); the
        message names them.
    BadParameter
        For an unknown suffix, an unknown parameter, or a symbol in a readout without a value.

    Examples
    --------
    >>> import tempfile
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=2)
    >>> eqs = dmft.derive(dmft.Model(square, square), dmft.SGD(learning_rate=0.1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     text = dmft.export(eqs, f"{folder}/squares.js").read_text()
    >>> [line for line in text.splitlines() if line.startswith("export function rhs")]
    ['export function rhs(t, Q, M, P, readout = null, teacher_readout = null, parameters = {}) {']
    """
    if not isinstance(path, str | os.PathLike):
        raise BadParameter(f"export writes a file: path must be its name, got {path!r}")
    path = Path(path)
    kind = next((end for end in KINDS if path.name.endswith(end)), None)
    if kind is None:
        raise BadParameter(f"export writes {', '.join(KINDS)}; got {path.name!r}")
    stem, name = KINDS[kind]
    system = System(equations, parameters)
    text = getattr(importlib.import_module(f"dmft.codegen.export.{stem}"), name)(system)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadParameter(f"cannot write {path}: {error.strerror}") from error
    return path
