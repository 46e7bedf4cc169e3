"""Equations as an ES module of JavaScript without dependencies, for browsers and Node."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dmft.codegen.export.library import AVERAGES, HOMES, Library, library, special, unknown
from dmft.codegen.export.program import INDENT, Printer, Program
from dmft.codegen.export.python import READOUTS
from dmft.codegen.export.system import TOLERANCE, System, header
from dmft.errors import NotClosed

NAMES = ("sqrt", "exp", "log", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh")
MATH = {f"math.{name}": f"Math.{name}" for name in (*NAMES, "tanh", "asinh", "ceil")}
MATH |= {
    "math.erf": "erf", "math.erfc": "erfc", "math.copysign": "copysign", "asin": "Math.asin",
    "math.isnan": "Number.isNaN", "math.isfinite": "Number.isFinite", "abs": "Math.abs",
    "pow": "Math.pow", "min": "Math.min", "max": "Math.max", "int": "Math.trunc",
    "np.sign": "Math.sign",
}  # fmt: skip
NUMBERS = {"math.pi": "Math.PI", "math.inf": "Infinity", "math.nan": "NaN"}
HELPERS = {
    "copysign": "const copysign = (size, sign) =>\n"
    "    sign < 0 || Object.is(sign, -0) ? -Math.abs(size) : Math.abs(size);",
    "room": "const room = (first, ...rest) =>\n    rest.length === 0 ? new Float64Array(first)\n"
    "        : Array.from({ length: first }, () => room(...rest));",
}


class JavaScriptPrinter(Printer):
    """Prints JavaScript; arrays in `flat`, by name with their axes, are vectors row by row."""

    language = "JavaScript"
    functions = MATH
    equal, different = "===", "!=="
    counter = "let "

    def __init__(self, flat: Mapping[str, Sequence[str]]) -> None:
        self.flat = flat
        self.declared: set[str] = set()

    def _Constant(self, node: ast.Constant) -> tuple[str, int]:
        value = node.value
        return (str(value).lower() if isinstance(value, bool) else repr(value)), 7

    def _Attribute(self, node: ast.Attribute) -> tuple[str, int]:
        name = ast.unparse(node)
        if name in NUMBERS:
            return NUMBERS[name], 7
        if node.attr == "size":
            return f"{self.text(node.value, 7)}.length", 7
        raise NotClosed(f"{name} in JavaScript")

    def _Tuple(self, node: ast.Tuple) -> tuple[str, int]:
        return f"[{', '.join(map(self.text, node.elts))}]", 7

    def _Starred(self, node: ast.Starred) -> tuple[str, int]:
        return f"...{self.text(node.value)}", 7

    def _BinOp(self, node: ast.BinOp) -> tuple[str, int]:
        if isinstance(node.op, ast.FloorDiv):
            return f"Math.floor({self.text(node.left, 5)} / {self.text(node.right, 6)})", 7
        return super()._BinOp(node)

    def call(self, name: str, arguments: list[str], node: ast.Call) -> str:
        """Calls; arrays are made by `room`."""
        if name == "np.empty":
            sizes = arguments[0].removeprefix("[").removesuffix("]")
            return f"room({sizes})"
        return super().call(name, arguments, node)

    def entry(self, array: ast.expr, inside: Sequence[ast.expr]) -> str:
        """Entry, row or part of an array."""
        name = array.id if isinstance(array, ast.Name) else ""
        if isinstance(inside[0], ast.Slice):
            part = inside[0]
            assert part.lower is not None
            if part.upper is None:  # rows of a nested array, which both share
                return f"{name}.slice({self.text(part.lower)})"
            return f"{name}.subarray({self.text(part.lower)}, {self.text(part.upper)})"
        if isinstance(array, ast.Attribute) and array.attr == "shape":
            rows = "[0]" * inside[0].value if isinstance(inside[0], ast.Constant) else ""  # type: ignore[operator]
            return f"{self.text(array.value, 7)}{rows}.length"
        if name not in self.flat or len(inside) == 1:
            return super().entry(array, inside)
        place = self.text(inside[0])
        for axis, index in zip(self.flat[name][1:], inside[1:], strict=True):
            place = f"({place})" if " + " in place else place
            place = f"{place} * {axis} + {self.text(index, 4)}"
        return f"{name}[{place}]"

    def each(self, name: str, values: ast.expr) -> str:
        """Header of a loop over the entries of a constant."""
        return f"for (const {name} of {self.text(values)}) {{"

    def assign(self, node: ast.Assign) -> list[str]:
        """Assign; tuples are taken apart."""
        value = self.text(node.value)
        targets = []
        for target in node.targets:
            new = isinstance(target, ast.Name) and target.id not in self.declared
            targets.append(("let " if new else "") + self.text(target))
            if isinstance(target, ast.Name):
                self.declared.add(target.id)
        return [f"{' = '.join(targets)} = {value};"]

    def function(self, node: ast.FunctionDef) -> list[str]:
        """Lines of a special function."""
        arguments = [a.arg for a in node.args.args]
        stored = {
            y.id for y in ast.walk(node) if isinstance(y, ast.Name) and isinstance(y.ctx, ast.Store)
        }
        loops = {ast.unparse(s.target) for s in ast.walk(node) if isinstance(s, ast.For)}
        local = sorted(stored - set(arguments) - loops)
        self.declared = {*arguments, *stored}
        first, *body = node.body
        is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        head = self.statement(first) if is_text else []
        body = body if is_text else node.body
        lines = [*head, f"function {node.name}({', '.join(arguments)}) {{"]
        lines += [f"{INDENT}let {', '.join(local)};"] * bool(local)
        return [*lines, *self.block(body, 1), "}", ""]


def constant(name: str, value: Any) -> str:
    """Definition of a constant."""
    return f"const {name} = {literal(value)};"


def literal(value: Any) -> str:
    """A number, a vector or nested rows."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return f"new Float64Array([{', '.join(repr(float(v)) for v in value)}])"
    if isinstance(value, np.ndarray | tuple | list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int) else repr(float(value))


def functions(found: Library) -> list[str]:
    """Lines of constants and special functions."""
    lines = [constant(name, value) for name, value in found.constants.items()]
    for node in found.functions.values():
        lines += JavaScriptPrinter({}).function(node)
    text = "\n".join(lines)
    return [h for name, h in HELPERS.items() if f"{name}(" in text] + lines


def body_lines(program: Program, given: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines that run a program; `given` are the axes of arrays that the function was given."""
    printer = JavaScriptPrinter({**program.arrays, **program.outputs, **given})
    return program.lines(printer.statement, "//")


# All but those that work on slices of tables.
REFUSED = set(AVERAGES)
HOME = HOMES | dict.fromkeys(("erf", "erfc"), "dmft.codegen.export.library")

HEAD = """\
/*
{header}

In a browser   import {{ rhs }} from "./FILE.js";
In Node        the same, or require("./FILE.js") from version 20.19 on;
               node FILE.js  compares with stored values (exit code 0 or 1).
*/
"""

PARAMETERS = """
// Declared values of the parameters; null for those without a default.
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
    lines += functions(functions_of(system))
    lines += core(system, "rates", "Rates, packed, into `out`", system.rates)
    lines += core(system, "observe", "Observables into `out`", system.observables)
    parameters = json.dumps(system.defaults)
    text = "\n".join(lines) + PARAMETERS.format(parameters=parameters)
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
    text = body_lines(program, {b.name: b.axes for b in (*system.state, *system.constants)})
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
