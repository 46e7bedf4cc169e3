"""A Python file (NumPy, and Numba where it is installed), and a Jupyter notebook."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from dmft.codegen.export.library import ANGLES, HOMES, Library, library, special, unknown
from dmft.codegen.export.program import INDENT, Program
from dmft.codegen.export.system import TOLERANCE, Block, System, header

IMPORTS = '''
import math
import sys

import numpy as np

try:
    from numba import njit
except ImportError:  # loops run in the interpreter then

    def njit(**options):
        """Leave a function as it is."""
        return lambda function: function


COMPILED = dict(error_model="numpy")
FAST = dict(error_model="numpy", fastmath={"reassoc", "contract"})
'''

READOUTS = ("readout", "teacher_readout")
# What Python and JAX files share: parameters, and the comparison with stored values.
NUMBERS = '''

# Declared values of the parameters; None for those without a default.
PARAMETERS = {parameters}


def numbers(given):
    """Values of all parameters; raises TypeError for unknown names."""
    unknown = sorted(set(given) - set(PARAMETERS))
    if unknown:
        raise TypeError(f"unknown parameter {{unknown[0]!r}}; known are {{sorted(PARAMETERS)}}")
    values = {{**PARAMETERS, **given}}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise TypeError(f"{{missing[0]}} has no declared value; pass {{missing[0]}}=...")
    return list(values.values())
'''

CHECK = '''

# Values of the NumPy reference of dmft at random states.
REFERENCE = [
{cases}
]


def check(tolerance={tolerance!r}):
    """Largest error at the stored states, relative to the largest entry of each block."""
    worst = 0.0
    for case in REFERENCE:
        found = {{**rhs(0.0, **case["state"], **case["given"]), **observables({observed_of})}}
        for name, wanted in {{**case["rates"], **case["observables"]}}.items():
            size = np.max(np.abs(wanted)) or 1.0
            error = np.max(np.abs(np.asarray(found[name]) - np.asarray(wanted))) / size
            worst = error if not error <= worst else worst
    return float(worst), bool(worst <= tolerance)


if __name__ == "__main__":
    error, passed = check()
    print(f"largest relative error at {{len(REFERENCE)}} stored states: {{error:.1e}}")
    sys.exit(0 if passed else 1)
'''


def python_text(system: System) -> str:
    """Text of the file."""
    return python_code(system) + checks(system)


def python_code(system: System) -> str:
    """Text of the file without its reference values."""
    calls = special(system.calls())
    unknown(calls, HOMES, "Python")
    lines = ['"""' + "\n".join(escaped(header(system))).strip(), '"""', IMPORTS]
    lines += functions(library(calls))
    lines += core("_rates", "Fill the rates.", system, system.rates)
    lines += core("_observe", "Fill the observables.", system, system.observables)
    text = "\n".join(lines).rstrip() + "\n"
    text += NUMBERS.format(parameters=table(system.defaults))
    return text + wrappers(system, "np", called)


def escaped(lines: Sequence[str]) -> list[str]:
    """Lines that may stand inside a docstring."""
    return [line.replace("\\", "\\\\").replace('"""', "'''") for line in lines]


def functions(found: Library) -> list[str]:
    """Constants and special functions."""
    lines = [f"{name} = {literal(value)}" for name, value in found.constants.items()]
    lines += [""] * bool(lines)
    for node in found.functions.values():
        copy = ast.parse(ast.unparse(node)).body[0]
        assert isinstance(copy, ast.FunctionDef)
        copy.returns = None
        for argument in copy.args.args:
            argument.annotation = None
        lines += ["", "@njit(**COMPILED)", ast.unparse(copy), ""]
    return lines


def literal(value: Any) -> str:
    """A constant."""
    if isinstance(value, np.ndarray):
        return f"np.array({value.tolist()!r})"
    return repr(value)


def table(values: dict[str, Any]) -> str:
    """A dictionary, one line for each entry where there are many."""
    return "{" + ", ".join(f"{name!r}: {value!r}" for name, value in values.items()) + "}"


def arguments(system: System, program: Program) -> list[str]:
    """Arguments of the function of a program."""
    return [*system.widths, *system.arrays, *system.names.values(), *program.outputs]


def core(name: str, summary: str, system: System, program: Program) -> list[str]:
    """The loops of a program as a function that fills its last arguments."""
    # Fields that coincide give exact zeros, which sums in another order do not.
    exact = {*ANGLES, "root_ratio", "correlation"} & system.calls()
    lines = ["", f"@njit(**{'COMPILED' if exact else 'FAST'})"]
    lines += [f"def {name}({', '.join(arguments(system, program))}):"]
    lines.append(f'{INDENT}"""{summary}"""')
    if program.needs_all_fields:
        lines.append(f"{INDENT}N = p + k")
    for array, axes in program.arrays.items():
        lines.append(f"{INDENT}{array} = np.empty(({', '.join(axes)},))")
    body = program.lines(lambda statement: ast.unparse(statement).splitlines(), "#")
    return [*lines, *(INDENT + line if line else "" for line in body), ""]


def called(system: System, name: str, program: Program) -> list[str]:
    """Lines that make the outputs and fill them."""
    lines = []
    for output, axes in program.outputs.items():
        lines.append(f"{output} = np.empty(({', '.join(axes)},))")
    names = [*system.widths, *system.arrays, *(["*par"] if system.names else []), *program.outputs]
    return [*lines, f"{name}({', '.join(names)})"]


def wrappers(system: System, module: str, fill: Any) -> str:
    """The functions `rhs` and `observables` that a reader calls."""
    return "\n".join(
        [
            *function(system, module, "rhs", system.rates, fill),
            *function(system, module, "observables", system.observables, fill),
        ]
    )


def signature(system: System, time: bool) -> str:
    """Arguments of `rhs`: the state, what stands still, parameters by name."""
    if system.written_out:
        names = [b.name for b in (*system.state, *system.constants)]
    else:
        names = ["Q", "M", "P", "readout=None", "teacher_readout=None"]
    parameters = ["**parameters"] if system.names else []
    return ", ".join([*(["t"] if time else []), *names, *parameters])


def function(system: System, module: str, name: str, program: Program, fill: Any) -> list[str]:
    """One of them."""
    rates = name == "rhs"
    lines = ["", "", f"def {name}({signature(system, rates)}):", f"{INDENT}{doc(system, rates)}"]
    body = []
    for block in (*system.state, *system.constants):
        if block.name in READOUTS:
            body.append(declared_readout(system, block, module))
            continue
        read = f"{module}.asarray({block.name}, dtype=float)"
        if module == "np":
            read = f"np.ascontiguousarray({block.name}, dtype=float)"
        if system.written_out:
            read = f"{module}.atleast_1d({read})"
        body.append(f"{block.name} = {read}")
    if not system.written_out:
        place = body.index(next(b for b in body if "readout" in b))
        body.insert(place, "p, k = M.shape")
        body = sorted(body, key=lambda line: "readout" in line)
    if system.names:
        body.append("par = numbers(parameters)")
    body += fill(system, f"_{'rates' if rates else 'observe'}", program)
    body.append(f"return {{{', '.join(returned(system, program, rates))}}}")
    return [*lines, *(INDENT + line for line in body)]


def declared_readout(system: System, block: Block, module: str) -> str:
    """The readout that is given, or the declared one."""
    values = system.readouts()[block.name]
    default = f"{module}.ones({block.axes[0]})" if values is None else f"{module}.array({values})"
    given = f"{module}.asarray({block.name}, dtype=float)"
    return f"{block.name} = {default} if {block.name} is None else {given}"


def returned(system: System, program: Program, rates: bool) -> list[str]:
    """Entries of the dictionary that is returned."""
    if not rates:
        return [f'"{name}": {name}[0]' for name in program.outputs]
    return [f'"{b.name}": d{b.name}' + "[0]" * b.alone for b in system.state]


def doc(system: System, rates: bool) -> str:
    """Docstring of a function."""
    state = ", ".join(f"{b.name} ({', '.join(b.axes)})" for b in system.state)
    still = ", ".join(f"{b.name} ({', '.join(b.axes)})" for b in system.constants)
    what = "Rates of change" if rates else (", ".join(system.observed) or "nothing").capitalize()
    text = f"{what} at the state {state}" + (f", with {still}" if still else "")
    return f'"""{text}; parameters by name."""'


def checks(system: System) -> str:
    """Reference values and the comparison."""
    rows = []
    for case in system.cases:
        state = {n: v.tolist() for n, v in case.arrays.items()}
        rates = {n: np.asarray(v).tolist() for n, v in case.rates.items()}
        entries = [
            f'"state": {state}',
            f'"given": {case.parameters}',
            f'"rates": {rates}',
            f'"observables": {case.observables}',
        ]
        rows.append("    {" + ",\n     ".join(entries) + "},")
    observed = '**case["state"], **case["given"]'
    return CHECK.format(cases="\n".join(rows), tolerance=TOLERANCE, observed_of=observed)


SOLVE = """\
import matplotlib.pyplot as plt
from scipy.integrate import solve_ivp

{start}
constants = dict({constants})
parameters = {parameters}
shapes = {{name: np.shape(value) for name, value in start.items()}}


def pack(blocks):
    return np.concatenate([np.ravel(blocks[name]) for name in start])


def unpack(y):
    sizes = [int(np.prod(shape, dtype=int)) for shape in shapes.values()]
    parts = np.split(y, np.cumsum(sizes)[:-1])
    return {{name: part.reshape(shapes[name]) for name, part in zip(start, parts)}}


def slope(t, y):
    return pack(rhs(t, **unpack(y), **constants, **parameters))


{solution}
{values} = [{shown} for y in states]
{values}[-1]"""

FLOW = """\
run = solve_ivp(slope, (0.0, {t_max}), pack(start), rtol=1e-8, atol=1e-10, method="LSODA")
times, states = run.t, run.y.T"""

STEPS = """\
times, states = np.arange({steps} + 1), [pack(start)]
for step in times[:-1]:  # a map: rhs is the increment of one step
    states.append(states[-1] + slope(step, states[-1]))"""

PLOT = """\
figure, axes = plt.subplots(figsize=(3.4, 2.4), layout="constrained")
axes.plot(times, {values})
axes.set(xlabel="{label}", ylabel="{name}"{scale})
plt.show()"""


def notebook_text(system: System) -> str:
    """Text of the file, format 4.5."""
    label = "steps" if system.equations.kind == "map" else "t"
    name = plotted(system)
    values = {"name": name, "values": "risk" if name == "risk" else "values"}
    scale = ', yscale="log"' if name == "risk" else ""
    cells = [
        ("markdown", "# Equations of motion\n\n```text\n" + "\n".join(header(system)) + "\n```"),
        ("markdown", equations_latex(system)),
        ("code", python_code(system)),
        ("code", comparison(system)),
        ("code", solution(system)),
        ("code", PLOT.format(label=label, scale=scale, **values)),
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {
        "cells": [cell(n, kind, text) for n, (kind, text) in enumerate(cells)],
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def plotted(system: System) -> str:
    """The first observable, or the first block of a rule without one."""
    return (system.observed or (system.state[0].name,))[0]


def cell(number: int, kind: str, text: str) -> dict[str, Any]:
    """One cell."""
    found: dict[str, Any] = {
        "cell_type": kind,
        "id": f"cell-{number}",
        "metadata": {},
        "source": text.splitlines(keepends=True),
    }
    if kind == "code":
        found |= {"execution_count": None, "outputs": []}
    return found


def equations_latex(system: System) -> str:
    """The equations as a notebook shows them."""
    lines = system.equations.latex().splitlines()
    return "\n".join(line for line in lines if not line.startswith("%"))


def comparison(system: System) -> str:
    """Code that compares stored values, without the end that exits."""
    text = checks(system).partition("\n\nif __name__")[0].strip()
    return f"{text}\n\n\ncheck()"


def solution(system: System) -> str:
    """Code that solves from the first stored state."""
    case = system.cases[0]
    start = {b.name: case.arrays[b.name] for b in system.state}
    lines = [f"{name} = np.array({np.asarray(v).tolist()})" for name, v in start.items()]
    lines.append(f"start = dict({', '.join(f'{n}={n}' for n in start)})")
    constants = [f"{b.name}=np.array({case.arrays[b.name].tolist()})" for b in system.constants]
    steps, name = system.equations.kind == "map", plotted(system)
    shown = f'observables(**unpack(y), **constants, **parameters)["{name}"]'
    if not system.observed:
        shown = f'np.ravel(unpack(y)["{name}"])[0]'
    return SOLVE.format(
        start="\n".join(lines), constants=", ".join(constants), parameters=case.parameters,
        shown=shown, values="risk" if name == "risk" else "values",
        solution=STEPS.format(steps=500) if steps else FLOW.format(t_max=10.0),
    )  # fmt: skip
