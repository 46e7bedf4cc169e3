"""What an export holds of a system: programs, arrays, parameters, reference values, a header."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.codegen.assemble import code_names
from dmft.codegen.export.program import TABLE, Program, walk
from dmft.equations.equations import Equations
from dmft.equations.reference import evaluate
from dmft.errors import BadParameter, NotClosed
from dmft.model import Alignment, Overlaps
from dmft.names import VERSION

Array = NDArray[np.float64]
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

    def __init__(self, equations: Any) -> None:
        refuse(equations)
        self.equations: Equations = equations
        self.sequence = bool(equations.blocks)

    @cached_property
    def names(self) -> dict[str, str]:
        """Identifier of each parameter."""
        return code_names(list(self.equations.parameters))

    @cached_property
    def defaults(self) -> dict[str, float | None]:
        """Declared value of each parameter, None where a run has to give it."""
        values = self.equations.parameters.items()
        return {name: None if value.free_symbols else float(value) for name, value in values}

    @cached_property
    def entries(self) -> dict[str, str]:
        """Where the numbers of a state stand that is written in them one by one."""
        return {
            str(symbol): f"{block}[{n}]"
            for block, symbols in self.equations.blocks.items()
            for n, symbol in enumerate(symbols)
        }

    @cached_property
    def state(self) -> tuple[Block, ...]:
        """Arrays of the state, in packed order."""
        if self.sequence:
            return tuple(
                Block(name, (str(len(symbols)),), len(symbols) == 1)
                for name, symbols in self.equations.blocks.items()
                if symbols
            )
        trained = (Block("readout", ("p",)),) if self.equations.algorithm.trains_readout else ()
        return (Block("Q", ("p", "p")), Block("M", ("p", "k")), *trained)

    @cached_property
    def constants(self) -> tuple[Block, ...]:
        """Arrays that stand still."""
        if self.sequence:
            return ()
        trained = self.equations.algorithm.trains_readout
        fixed = () if trained else (Block("readout", ("p",)),)
        return (Block("P", ("k", "k")), *fixed, Block("teacher_readout", ("k",)))

    @cached_property
    def rates(self) -> Program:
        """Statements of the rates."""
        return walk(self.equations.on_nodes, self.names, self.entries, "rate")

    @cached_property
    def observables(self) -> Program:
        """Statements of the observables."""
        return walk(self.equations.on_nodes, self.names, self.entries, "observable")

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the observables, the risk first of them."""
        return tuple(self.observables.outputs)

    @property
    def arrays(self) -> dict[str, tuple[str, ...]]:
        """Axes of what both programs are given."""
        return {block.name: block.axes for block in (*self.state, *self.constants)}

    def calls(self) -> set[str]:
        """Functions and tables that the programs name."""
        tables = {n for n in self.rates.names | self.observables.names if n.startswith(TABLE)}
        return self.rates.calls | self.observables.calls | tables

    # Numbers --------------------------------------------------------------------------------

    def readouts(self) -> dict[str, list[float] | None]:
        """Declared readouts; None for ones of any width."""
        result: dict[str, list[float] | None] = {}
        networks = {"readout": "student", "teacher_readout": "teacher"}
        for name, network in networks.items():
            values = getattr(getattr(self.equations.model, network), "readout", None)
            if any(v.free_symbols for v in values or ()):
                raise BadParameter(
                    f"{name} {values} has no numbers, which a file needs; declare numbers, a run "
                    "may give others"
                )
            result[name] = None if values is None else [float(v) for v in values]
        return result

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
        start: Any = self.alignment(rng) if self.sequence else self.overlaps(rng)
        given = {name: parameters[name] for name, v in self.defaults.items() if v is None}
        rates = equations.evaluate(start, **given)
        values = equations.values(start, given)
        state = equations.entries(start)
        seen = evaluate(equations.on_nodes, state, values, "observable")
        arrays = {name: np.asarray(v) for name, v in equations.begins(start, values).items()}
        arrays |= {b.name: values.arrays[b.name] for b in self.constants}
        if equations.algorithm.trains_readout and not self.sequence:
            arrays["readout"] = values.arrays["readout"]
        widths = {} if self.sequence else {"p": start.p, "k": start.k}
        numbers = {name: float(value) for name, value in seen.items()}
        chosen = {name: rates[name] for name in (b.name for b in self.state)}
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

    def alignment(self, rng: np.random.Generator) -> Alignment:
        """Alignments inside the feasible set."""
        blocks = self.equations.blocks
        sizes = {name: len(symbols) for name, symbols in blocks.items()}
        scale = 0.5 / max(1, sum(sizes.values())) ** 0.5
        parts = {name: scale * rng.uniform(0.2, 1.0, size) for name, size in sizes.items()}
        e = parts["e"] if sizes["e"] > 1 else float(parts["e"][0]) if sizes["e"] else 0.0
        return Alignment(e, parts["m"] if sizes["m"] > 1 else float(parts["m"][0]))


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
            "these equations hold averages on nodes, whose number is chosen in each run: "
            f"{equations.averages[0]}. Closed forms and tables are exported"
        )
    if type(equations).__name__ not in ("Equations", "SequenceEquations"):
        rows = type(equations).__name__ == "RowEquations"
        raise NotClosed(
            "equations of inputs with a spectrum, and of rows that an optimiser keeps, are not "
            "exported; those of Model(...) without inputs= under plain SGD are, and runs of "
            "dmft.solve go out by run.to_pandas() and run.save"
            if rows
            else f"{type(equations).__name__} are not exported; equations of the overlaps Q, M and "
            "of the alignments e, m are: export those that they come from"
        )


def header(system: System) -> list[str]:
    """Lines that say what a file is of."""
    equations = system.equations
    model, algorithm = equations.model, equations.algorithm
    lines = [
        f"Right-hand side of equations of motion ({equations.kind}), written by dmft {VERSION}.",
        "",
        f"Fingerprint:  {equations.fingerprint}",
        f"Student:      {model.student}",
        f"Target:       {model.teacher}",
        *([f"Inputs:       {model.inputs}"] if getattr(model, "inputs", None) else []),
        f"Label noise:  {model.label_noise}",
        f"Algorithm:    {algorithm}",
        f"Clock:        {equations.time_unit}",
        f"Averages:     {equations.approximation}",
        f"Sources:      {', '.join(sources(equations))}",
        "",
        "Conventions:  x ~ N(0, I_d); h = W x / sqrt(d), h* = W* x / sqrt(d); Q = W W^T / d,",
        "              M = W W*^T / d, P = W* W*^T / d; student (1/p) sum_j a_j sigma(h_j);",
        "              risk = E(f* - f)^2 / 2, without label noise.",
    ]
    if equations.kind == "map":
        lines.append("              A map: the rates are the increments of one step.")
    if system.names:
        lines += ["", "Parameters:"]
    for name, value in equations.parameters.items():
        lines.append(f"  {name} = {value}" + (" (no default)" if value.free_symbols else ""))
    return lines


def sources(equations: Equations) -> list[str]:
    """Keys of `dmft.cite` for the papers that the equations are in."""
    keys = []
    if equations.blocks:
        return ["arnaboldi_2025"]
    keys += ["saad_solla_1995", "goldt_2019"]
    if equations.algorithm.on_sphere:
        keys.append("arnaboldi_2024")
    if equations.kind == "map":
        keys.append("arnaboldi_2024")
    if getattr(equations.algorithm, "repeat", None) is not None:
        keys.append("arnaboldi_2024_repetita")
    return list(dict.fromkeys(keys))
