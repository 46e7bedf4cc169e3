"""A Jupyter notebook: declaration, equations, code, a solution and a plot."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from dmft.codegen.export.python import checks, python_code
from dmft.codegen.export.system import System, header

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
risk = [observables(**unpack(y), **constants, **parameters)["risk"] for y in states]
risk[-1]"""

FLOW = """\
run = solve_ivp(slope, (0.0, {t_max}), pack(start), rtol=1e-8, atol=1e-10, method="LSODA")
times, states = run.t, run.y.T"""

STEPS = """\
times, states = np.arange({steps} + 1), [pack(start)]
for step in times[:-1]:  # a map: rhs is the increment of one step
    states.append(states[-1] + slope(step, states[-1]))"""

PLOT = """\
figure, axes = plt.subplots(figsize=(3.4, 2.4), layout="constrained")
axes.plot(times, risk)
axes.set(xlabel="{label}", ylabel="risk", yscale="log")
plt.show()"""


def notebook_text(system: System) -> str:
    """Text of the file, format 4.5."""
    label = "steps" if system.equations.kind == "map" else "t"
    cells = [
        ("markdown", "# Equations of motion\n\n```text\n" + "\n".join(header(system)) + "\n```"),
        ("markdown", equations_latex(system)),
        ("code", python_code(system)),
        ("code", comparison(system)),
        ("code", solution(system)),
        ("code", PLOT.format(label=label)),
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {
        "cells": [cell(n, kind, text) for n, (kind, text) in enumerate(cells)],
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def cell(number: int, kind: str, text: str) -> dict[str, Any]:
    """One cell."""
    found: dict[str, Any] = {
        "cell_type": kind, "id": f"cell-{number}", "metadata": {},
        "source": text.splitlines(keepends=True),
    }  # fmt: skip
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
    steps = system.equations.kind == "map"
    return SOLVE.format(
        start="\n".join(lines), constants=", ".join(constants), parameters=case.parameters,
        solution=STEPS.format(steps=500) if steps else FLOW.format(t_max=10.0),
    )  # fmt: skip
