"""A C file: right-hand side, observables, Jacobian, and a main that compares stored values."""

from __future__ import annotations

from typing import Any

import numpy as np

from dmft.codegen.export import c
from dmft.codegen.export.library import PLAIN, library, special, unknown
from dmft.codegen.export.program import INDENT, Program
from dmft.codegen.export.system import TOLERANCE, Block, System, header
from dmft.codegen.packing import MOVED
from dmft.equations.noise.derivatives import tangent
from dmft.errors import NotClosed

LAYOUT = """\
/*
{header}

Layout:
{layout}

Compile with  cc -std=c99 -O2 -ffp-contract=off -c FILE.c  (fused products perturb differences that
vanish where fields coincide); the comparison with stored values is
  cc -std=c99 -O2 -ffp-contract=off -DDMFT_TEST FILE.c -lm -o test && ./test
Functions return 0, or 1 if memory cannot be allocated. They keep no state between calls.
*/

#include <math.h>
#include <stdlib.h>
"""

TEST = """
#ifdef DMFT_TEST
#include <stdio.h>

/* Values of the NumPy reference of dmft at random states. */
{cases}

static double worst(const double *found, const double *wanted, int size)
{{
    double error = 0.0, scale = 0.0;
    for (int n = 0; n < size; n++) {{
        const double gap = fabs(found[n] - wanted[n]);
        if (!(gap <= error)) error = gap;
        if (fabs(wanted[n]) > scale) scale = fabs(wanted[n]);
    }}
    return scale > 0.0 ? error / scale : error;
}}

int main(void)
{{
    double largest = 0.0, error;
    int failed = 0;
{calls}
    printf("largest relative error at {count} stored states: %.1e\\n", largest);
    return failed || !(largest <= {tolerance!r});
}}
#endif
"""

# One entry is displaced; those of Q stay symmetric, each half of the pair.
UNIT_DISPLACEMENT = """\
        if (b < p * p) {
            unit[b] += 0.5;
            unit[b % p * p + b / p] += 0.5;
        } else {
            unit[b] = 1.0;
        }"""


def c_text(system: System) -> str:
    """Text of the file."""
    calls = special(system.calls())
    unknown(calls, PLAIN, "C")
    derivative = tangent_program(system)
    if derivative is not None:
        calls |= special(derivative.calls)
    lines = LAYOUT.format(
        header="\n".join(header(system)).replace("*/", "* /"), layout="\n".join(layout(system))
    ).splitlines()
    lines += defaults(system) + c.functions(library(calls - {"asin"}))
    if "np.sign" in str(system.calls()):
        lines += ["static double sign_of(double x) { return (x > 0.0) - (x < 0.0); }", ""]
    lines += function(system, "rhs", "Rates of change at a state.", system.rates, "rates")
    lines += function(
        system, "observables", "Observables at a state.", system.observables, "values"
    )
    if derivative is not None:
        lines += jacobian(system, derivative)
    else:
        lines += ["/* No Jacobian: derivatives of these averages have no closed form. */", ""]
    return "\n".join(lines) + test(system)


# Jacobian ----------------------------------------------------------------------------------------


def tangent_program(system: System) -> Program | None:
    """Linearised rates from the symbolic Jacobian; None where it is not closed."""
    if system.written_out:
        return None
    try:
        definitions = tangent(system.equations.definitions)
        program = system.walked(definitions, "rate")
    except NotClosed:
        return None
    return program if special(program.calls) <= set(PLAIN) else None


def jacobian(system: System, program: Program) -> list[str]:
    """Linearised rates of a displacement, and the matrix of those of unit displacements."""
    lines = function(
        system, "tangent", "Linearised rates of a displacement of the state.", program, "rates",
        moved=True,
    )  # fmt: skip
    size = " + ".join(" * ".join(b.axes) for b in system.state)
    arguments = ", ".join([*given(system), "double *matrix"])
    constants = [b.name for b in system.constants]
    passed = ", ".join(["t", "p", "k", "state", "unit", *constants, "parameters", "column"])
    return [
        *lines,
        "/* matrix[a * size + b] = d rates[a] / d state[b]; Q_jl and Q_lj are two entries. */",
        f"int jacobian({arguments})",
        "{",
        f"    const int size = {size};",
        "    double *unit = calloc(2 * (size_t) size, sizeof(double));",
        "    if (unit == NULL) return 1;",
        "    double *column = unit + size;",
        "    int failed = 0;",
        "    for (int b = 0; b < size && !failed; b++) {",
        *UNIT_DISPLACEMENT.splitlines(),
        f"        failed = tangent({passed});",
        "        for (int a = 0; a < size; a++) matrix[a * size + b] = column[a];",
        "        for (int a = 0; a < size; a++) unit[a] = 0.0;",
        "    }",
        "    free(unit);",
        "    return failed;",
        "}",
        "",
    ]


# Functions ---------------------------------------------------------------------------------------


def given(system: System, moved: bool = False) -> list[str]:
    """Arguments of a function but for the last."""
    widths = [f"int {name}" for name in system.widths]
    state = ["const double *state", *(["const double *displacement"] if moved else [])]
    constants = [f"const double *{b.name}" for b in system.constants]
    return ["double t", *widths, *state, *constants, "const double *parameters"]


def function(
    system: System, name: str, summary: str, program: Program, out: str, moved: bool = False
) -> list[str]:
    """One of the functions of the file."""
    arguments = ", ".join([*given(system, moved), f"double *{out}"])
    lines = [f"/* {summary} */", f"int {name}({arguments})", "{"]
    body = ["(void) t; (void) parameters;"]
    names = program.names
    if program.needs_all_fields:
        body.append("const int N = p + k;")
    body += views(system.state, "state", names)
    if moved:
        renamed = [Block(b.name + MOVED, b.axes) for b in system.state]
        body += views(renamed, "displacement", names)
    body += views(system.filled(program), out, names)
    for b in system.constants:
        if len(b.axes) > 1:
            body.append(c.view(f"{b.name}_rows", b.axes, b.name, "const double"))
        if b.name not in names:
            body.append(f"(void) {b.name};")
    for n, identifier in enumerate(system.names.values()):
        if identifier in names:
            body.append(f"const double {identifier} = parameters[{n}];")
    text = c.body(program, {b.name: f"{b.name}_rows" for b in system.constants if len(b.axes) > 1})
    return [*lines, *(INDENT + line if line else "" for line in [*body, *text]), "}", ""]


def views(blocks: Any, vector: str, used: set[str]) -> list[str]:
    """Pointers to the blocks of a packed vector that a function uses."""
    lines, start = [], vector
    const = "double" if vector in ("rates", "values") else "const double"
    for block in blocks:
        if block.name in used:
            lines.append(c.view(block.name, block.axes, start, const))
        start += f" + {' * '.join(block.axes)}"
    return lines


def layout(system: System) -> list[str]:
    """Lines that say what stands where."""
    shapes = [f"{b.name} ({', '.join(b.axes)})" for b in system.state]
    lines = [f"  state, rates: {', then '.join(shapes)}, each row by row"]
    for b in system.constants:
        lines.append(f"  {b.name}: ({', '.join(b.axes)})")
    lines.append(f"  parameters: {', '.join(system.names) or 'none'}")
    lines.append(f"  values: {', '.join(system.observed)}")
    return lines


def defaults(system: System) -> list[str]:
    """Declared values of the parameters."""
    values = ["NAN" if v is None else repr(v) for v in system.defaults.values()] or ["0.0"]
    return [
        "",
        "/* Declared values of the parameters; NAN for those without a default. */",
        f"const double PARAMETERS[] = {{{', '.join(values)}}};",
        "",
    ]


# Comparison --------------------------------------------------------------------------------------


def test(system: System) -> str:
    """Stored values and a main."""
    cases, calls = [], []
    for n, case in enumerate(system.cases):
        arrays = {
            "state": packed([case.arrays[b.name] for b in system.state]),
            **{b.name: np.ravel(case.arrays[b.name]) for b in system.constants},
            "parameters": np.array(list(case.parameters.values()) or [0.0]),
            "rates": packed([case.rates[b.name] for b in system.state]),
            "values": np.array(list(case.observables.values())),
        }
        for name, values in arrays.items():
            row = ", ".join(map(c.number, values)) or "0.0"
            cases.append(f"static const double case_{n}_{name}[] = {{{row}}};")
        widths = [str(w) for w in case.widths.values()]
        names = ["state", *(b.name for b in system.constants), "parameters"]
        passed = ", ".join(["0.0", *widths, *(f"case_{n}_{name}" for name in names)])
        start = 0
        size = len(arrays["rates"])
        calls += [f"    double rates_{n}[{size}], values_{n}[{len(arrays['values']) or 1}];"]
        calls += [f"    failed |= rhs({passed}, rates_{n});"]
        calls += [f"    failed |= observables({passed}, values_{n});"]
        for b in system.state:
            size = np.size(case.rates[b.name])
            calls.append(compared(f"rates_{n} + {start}", f"case_{n}_rates + {start}", size))
            start += size
        for place in range(len(arrays["values"])):
            calls.append(compared(f"values_{n} + {place}", f"case_{n}_values + {place}", 1))
    return TEST.format(
        cases="\n".join(cases), calls="\n".join(calls), count=len(system.cases), tolerance=TOLERANCE
    )


def compared(found: str, wanted: str, size: int) -> str:
    """Line that compares one block."""
    return (
        f"    error = worst({found}, {wanted}, {size});\n"
        "    if (!(error <= largest)) largest = error;"
    )


def packed(blocks: list[Any]) -> Any:
    """Blocks behind each other."""
    return np.concatenate([np.ravel(b) for b in blocks])
