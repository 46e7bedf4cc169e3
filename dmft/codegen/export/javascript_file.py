"""A JavaScript file: an ES module without dependencies, for browsers and Node."""

from __future__ import annotations

import ast
import json
from typing import Any

import numpy as np

from dmft.codegen.export import javascript as js
from dmft.codegen.export.library import AVERAGES, HOMES, Library, library, special, unknown
from dmft.codegen.export.program import Program
from dmft.codegen.export.python import READOUTS
from dmft.codegen.export.syntax import INDENT
from dmft.codegen.export.system import TOLERANCE, System, header

# All but those that work on slices of tables.
REFUSED = set(AVERAGES)
HOME = HOMES | dict.fromkeys(("erf", "erfc"), "dmft.codegen.export.error_function")

HEAD = """\
/*
{header}

In a browser   import {{ rhs }} from "./FILE.js";
In Node        the same, or require("./FILE.js") from version 20.19 on;
               node FILE.js  compares with stored values (exit code 0 or 1).
*/
"""

NUMBERS = """
// Declared values of the parameters; null where a run has to give one.
export const PARAMETERS = {parameters};

function numbers(given) {{
    for (const name of Object.keys(given)) {{
        if (!(name in PARAMETERS)) {{
            const known = Object.keys(PARAMETERS);
            throw new TypeError(`unknown parameter ${{name}}; known are ${{known}}`);
        }}
    }}
    const values = {{ ...PARAMETERS, ...given }};
    for (const [name, value] of Object.entries(values)) {{
        if (value === null) throw new TypeError(`${{name}} has no declared value`);
    }}
    return Object.values(values);
}}

// Rows of a block as one vector, and back.
const packed = (block) => (typeof block === "number" ? [block] : Array.from(block).flat());
function rows(vector, start, ...shape) {{
    const [first, ...rest] = shape;
    if (first === undefined) return vector[start];
    if (rest.length === 0) return Array.from(vector.slice(start, start + first));
    const found = [];
    for (let n = 0; n < first; n++) found.push(rows(vector, start + n * rest[0], rest[0]));
    return found;
}}
"""

CHECK = """
// Values of the NumPy reference of dmft at random states.
export const REFERENCE = {cases};

// Largest error at the stored states, relative to the largest entry of each block.
export function check() {{
    let worst = 0;
    for (const { state, given, rates, observed } of REFERENCE) {{
        const found = {{
            ...rhs(0, ...Object.values(state), given),
            ...observables(...Object.values(state), given),
        }};
        for (const [name, wanted] of Object.entries({{ ...rates, ...observed }})) {{
            const a = packed(found[name]), b = packed(wanted);
            const size = Math.max(...b.map(Math.abs)) || 1;
            for (let n = 0; n < b.length; n++) {{
                const error = Math.abs(a[n] - b[n]) / size;
                if (!(error <= worst)) worst = error;
            }}
        }}
    }}
    return worst;
}}

// Run as a script by Node.
const script = typeof process !== "undefined" && process.argv ? process.argv[1] : undefined;
if (script !== undefined && typeof import.meta.url === "string"
    && decodeURI(import.meta.url) === "file://" + script) {{
    const worst = check();
    console.log(`largest relative error at ${{REFERENCE.length}} stored states: ${{worst}}`);
    process.exitCode = worst <= {tolerance!r} ? 0 : 1;
}}
""".replace("{ state, given, rates, observed }", "{{ state, given, rates, observed }}")


def javascript_text(system: System) -> str:
    """Text of the file."""
    lines = [HEAD.format(header="\n".join(header(system)).replace("*/", "* /"))]
    lines += js.functions(functions_of(system))
    lines += core(system, "rates", "Rates, packed, into `out`", system.rates)
    lines += core(system, "observe", "Observables into `out`", system.observables)
    parameters = json.dumps(system.defaults)
    text = "\n".join(lines) + NUMBERS.format(parameters=parameters)
    return text + wrappers(system) + CHECK.format(cases=cases(system), tolerance=TOLERANCE)


def functions_of(system: System) -> Library:
    """Special functions, error functions included where something calls them."""
    calls = system.calls()
    named = special(calls) - {"asin"}
    unknown(named, set(HOMES) - REFUSED, "JavaScript")
    found = library(named, HOME)
    text = " ".join([*calls, *(ast.unparse(f) for f in found.functions.values())])
    errors = {name for name in ("erf", "erfc") if f"math.{name}" in text.replace("(", " ").split()}
    needed = library(errors, HOME)
    both = {**needed.functions, **found.functions}
    return Library(both, {**needed.constants, **found.constants})


def core(system: System, name: str, summary: str, program: Program) -> list[str]:
    """The loops of a program, from packed vectors to a packed vector."""
    constants = [b.name for b in system.constants]
    arguments = ", ".join([*system.widths, "state", *constants, "parameters", "out"])
    layout = ", ".join(f"{b.name} ({', '.join(b.axes)})" for b in system.state)
    lines = [
        *([f"let {name}_room = null;"] if program.arrays else []),
        f"// {summary}; state: {layout}, row by row.",
        f"export function {name}({arguments}) {{",
    ]
    body = []
    if program.needs_all_fields:
        body.append("const N = p + k;")
    body += views(system.state, "state", program)
    body += views(system.filled(program), "out", program)
    for n, identifier in enumerate(system.names.values()):
        if identifier in program.names:
            body.append(f"const {identifier} = parameters[{n}];")
    body += workspace(name, system.widths, program)
    text = js.body(program, {b.name: b.axes for b in (*system.state, *system.constants)})
    return [*lines, *(INDENT + line if line else "" for line in [*body, *text]), "}", ""]


def workspace(name: str, widths: list[str], program: Program) -> list[str]:
    """Lines that make the arrays of a program, once for all calls of the same widths."""
    if not program.arrays:
        return []
    room = f"{name}_room"
    changed = " || ".join([f"{room} === null", *(f"{room}.{w} !== {w}" for w in widths)])
    made = [f"{n}: new Float64Array({' * '.join(axes)})" for n, axes in program.arrays.items()]
    return [
        f"if ({changed}) {{",
        f"    {room} = {{ {', '.join([*widths, *made])} }};",
        "}",
        f"const {{ {', '.join(program.arrays)} }} = {room};",
    ]


def views(blocks: Any, vector: str, program: Program) -> list[str]:
    """Parts of a packed vector."""
    lines, start = [], "0"
    for block in blocks:
        size = " * ".join(block.axes)
        end = size if start == "0" else f"{start} + {size}"
        if block.name in program.names:
            lines.append(f"const {block.name} = {vector}.subarray({start}, {end});")
        start = end
    return lines


def wrappers(system: System) -> str:
    """The functions `rhs` and `observables` of nested arrays."""
    state = [b.name for b in system.state]
    constants = [b.name for b in system.constants]
    order = [*state, *constants]
    if not system.written_out:  # as in the Python file
        order = ["Q", "M", "P", "readout", "teacher_readout"]
    defaults = [f"{n} = null" if n in READOUTS else n for n in order]
    arguments = ", ".join([*defaults, "parameters = {}"])
    lines = []
    for name, fill in (("rhs", "rates"), ("observables", "observe")):
        rates = name == "rhs"
        what = "Rates of change" if rates else "Observables"
        lines += ["", f"// {what} as an object; arrays are nested, parameters by name."]
        lines.append(f"export function {name}({'t, ' if rates else ''}{arguments}) {{")
        body = []
        if not system.written_out:
            body.append("const p = M.length, k = M[0].length;")
        body += [readout(system, b) for b in order if b in READOUTS]
        joined = ", ".join(f"...packed({b})" for b in state)
        body.append(f"const state = Float64Array.from([{joined}]);")
        size = "state.length" if rates else str(len(system.observed))
        body.append(f"const out = new Float64Array({size});")
        passed = [*system.widths, "state"]
        passed += [f"Float64Array.from(packed({c}))" for c in constants]
        body.append(f"{fill}({', '.join([*passed, 'numbers(parameters)', 'out'])});")
        body.append(f"return {{ {', '.join(returned(system, rates))} }};")
        lines += [*(INDENT + line for line in body), "}"]
    return "\n".join(lines) + "\n"


def readout(system: System, name: str) -> str:
    """A line that puts the declared readout where none is given."""
    values = system.readouts()[name]
    axis = "p" if name == "readout" else "k"
    default = f"Array({axis}).fill(1)" if values is None else json.dumps(values)
    return f"{name} = {name} ?? {default};"


def returned(system: System, rates: bool) -> list[str]:
    """Entries of the object that is returned."""
    if not rates:
        return [f"{name}: out[{n}]" for n, name in enumerate(system.observed)]
    found, start = [], "0"
    for b in system.state:
        shape = [] if b.alone else list(b.axes)
        found.append(f"{b.name}: rows({', '.join(['out', start, *shape])})")
        start = f"{start} + {' * '.join(b.axes)}".removeprefix("0 + ")
    return found


def cases(system: System) -> str:
    """Stored values."""
    rows = []
    for case in system.cases:
        order = ["Q", "M", "P", "readout", "teacher_readout"]
        own = [b.name for b in (*system.state, *system.constants)]
        names = own if system.written_out else order
        rows.append(
            {
                "state": {n: np.asarray(case.arrays[n]).tolist() for n in names},
                "given": case.parameters,
                "rates": {n: np.asarray(v).tolist() for n, v in case.rates.items()},
                "observed": case.observables,
            }
        )
    return "[\n" + ",\n".join(INDENT + json.dumps(row) for row in rows) + ",\n]"
