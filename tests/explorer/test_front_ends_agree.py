"""One declaration file through every front end: solve, exports, the static page, the server.

Each integrates for itself: Runge-Kutta of fixed steps around the exported right-hand sides in
Python, JavaScript and C, the integrator of the static page in Node, and HTTP requests. Letters are
moved on the page and with `--set`.
"""

import argparse
import json
import re
import runpy
import shutil
import subprocess
import sys
import threading
import urllib.request

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.cli.commands import derived, session_of, solved
from dmft.cli.main import override
from dmft.cli.toml import read_declaration
from dmft.explorer.server import Server
from dmft.explorer.static import static_text

CASES, STEPS = 50, 200
SAME = {"rtol": 1e-6, "atol": 1e-9}
ACTIVATIONS = (
    "erf(z/sqrt(2))", "erf(b*z)", "z + b*z**2", "He(2, z)", "He(3, z)/3", "relu(z)", "b*z**3/3",
)  # fmt: skip
TARGETS = ("z1*z2", "He(2, z1) + b*z2", "z1**2/2 + z2**2")


def file_of(case):
    """A random declaration, and its letters."""
    rng = np.random.default_rng([28, case])
    pick = lambda *options: options[rng.integers(len(options))]  # noqa: E731
    letters = {}

    def value(name, low, high):
        """A number, a letter or a formula in letters."""
        number, form = round(float(rng.uniform(low, high)), 3), rng.integers(3)
        if form == 0:
            return str(number)
        letters[name] = number
        return f'"{name}"' if form == 1 else f'"{name}/2"'

    if case % 8 == 7:
        student = f'kind = "sequence"\nactivation = "{pick("z**2", "z + z**2")}"\nlength = 2'
        teacher = 'fields = ["u", "v"]\nexpression = "b*u*v"'
        start = 'kind = "alignment"\nm = 0.3' + (encoding := pick("", "\ne = 0.2"))
        model, algorithm = "encoding = 1.0\n" if encoding else "", 'kind = "sgd"\n'
    else:
        teacher = pick("committee", "target")
        width = pick(1, 2, 3)
        student = f'activation = "{pick(*ACTIVATIONS)}"\nwidth = {width}'
        if pick(True, False):
            row = [value("c", 0.5, 1.5), *["1"] * (width - 1)]
            student += f"\nreadout = [{', '.join(row)}]"
        if teacher == "committee":
            teacher = f'activation = "{pick(*ACTIVATIONS)}"\nwidth = {pick(1, 2)}'
        else:
            teacher = f'fields = ["z1", "z2"]\nexpression = "{pick(*TARGETS)}"'
        sphere = pick(True, False, False)
        start = f'kind = "random"\ndim = {pick(50, 1000)}\nseed = {rng.integers(9)}'
        start += "\nnormalised = true" * sphere
        model, algorithm = "", f'kind = "{pick("sgd", "sgd", "gradient-flow")}"\n'
        if sphere:
            algorithm += 'constraint = "sphere"\n'
        elif pick(True, False):
            algorithm += f"weight_decay = {value('zeta', 0.05, 0.2)}\n"
        if "sgd" in algorithm and pick(True, False, False):
            algorithm += 'loss = "correlation"\n'
        if "sgd" in algorithm and pick(True, False, False):
            algorithm += "batch_size = 4\n"
    again = ""
    if "sgd" in algorithm:
        algorithm += f"learning_rate = {value('gamma', 0.1, 0.4)}\n"
        again = pick("", "", "learning_rate = 0.25\n")
    if pick(True, False):
        model += f"label_noise = {value('D', 0.1, 0.5)}\n"
    if "b*" in student + teacher:
        letters["b"] = round(float(rng.uniform(0.3, 0.9)), 3)
    t_max = round(float(rng.uniform(0.1, 0.3)), 2)
    tables = {
        "student": student, "teacher": teacher, "model": model, "algorithm": algorithm,
        "parameters": "\n".join(f"{n} = {v}" for n, v in letters.items()), "start": start,
        "solve": f"{again}t_max = {t_max}\npoints = 5",
    }  # fmt: skip
    return "\n".join(f"[{name}]\n{text}" for name, text in tables.items()), letters


def risk_of_solve(declared):
    return solved(declared, argparse.Namespace(no_progress=True)).risk[-1]


def facts(declared):
    """Start and readouts as numbers, from the declaration."""
    start, model = declared.start(), declared.model
    if isinstance(start, dmft.Alignment):
        kept = [name for name, symbols in derived(declared).space.blocks.items() if symbols]
        return {name: np.atleast_1d(getattr(start, name)) for name in kept}, []
    readouts = []
    for network, width in ((model.student, start.p), (model.teacher, start.k)):
        row = [sp.sympify(a) for a in network.readout or (1,) * width]
        letters = {s: declared.parameters[s.name] for a in row for s in a.free_symbols}
        readouts.append(np.array([float(a.subs(letters)) for a in row]))
    return {"Q": start.Q, "M": start.M}, [start.P, *readouts]


def stepped(rates, state, t_max):
    """Classical Runge-Kutta."""
    h = t_max / STEPS
    for _ in range(STEPS):
        a = rates(state)
        b = rates([s + h / 2 * x for s, x in zip(state, a, strict=True)])
        c = rates([s + h / 2 * x for s, x in zip(state, b, strict=True)])
        d = rates([s + h * x for s, x in zip(state, c, strict=True)])
        state = [
            s + h / 6 * (w + 2 * x + 2 * y + z)
            for s, w, x, y, z in zip(state, a, b, c, d, strict=True)
        ]
    return state


def risk_of_python(path, declared, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "numba", None)
        file = runpy.run_path(str(path))
    state, constants = facts(declared)
    names = list(state)
    P = dict(zip(("P",), constants, strict=False))

    def rates(y):
        found = file["rhs"](0.0, **dict(zip(names, y, strict=True)), **P)
        return [np.reshape(found[name], np.shape(s)) for name, s in zip(names, y, strict=True)]

    end = stepped(rates, list(state.values()), declared.options["solve"]["t_max"])
    return float(file["observables"](**dict(zip(names, end, strict=True)), **P)["risk"])


LOOP = """
let y = {state}, h = {t_max} / {steps};
function rates(y) {{
    const out = new Float64Array(y.length);
    m.rates({given}, values, out);
    return out;
}}
const moved = (y, h, k) => Float64Array.from(y, (v, n) => v + h * k[n]);
for (let step = 0; step < {steps}; step++) {{
    const a = rates(y), b = rates(moved(y, h / 2, a)), c = rates(moved(y, h / 2, b));
    const d = rates(moved(y, h, c));
    y = Float64Array.from(y, (v, n) => v + h / 6 * (a[n] + 2 * b[n] + 2 * c[n] + d[n]));
}}
const seen = new Float64Array(9);
m.observe({given}, values, seen);
console.log(seen[0]);
"""


def risk_of_javascript(path, declared):
    state, constants = facts(declared)
    packed = lambda a: f"Float64Array.from({np.ravel(a).tolist()})"  # noqa: E731
    widths = [str(n) for n in state["M"].shape] if constants else []
    given = ", ".join([*widths, "y", *map(packed, constants)])
    text = 'import * as m from "./file.mjs";\nconst values = Object.values(m.PARAMETERS);\n'
    text += LOOP.format(
        state=packed(np.concatenate([np.ravel(s) for s in state.values()])), given=given,
        steps=STEPS, t_max=declared.options["solve"]["t_max"],
    )  # fmt: skip
    shutil.copy(path, path.with_name("file.mjs"))
    return float(in_node(path.with_name("loop.mjs"), text))


def in_node(path, text):
    path.write_text(text)
    run = subprocess.run(["node", path], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


IN_C = """
#include <stdio.h>
#include "{name}"
{arrays}
static void rates(const double *y, double *out) {{ rhs(0.0, {given}, PARAMETERS, out); }}
int main(void) {{
    double a[SIZE], b[SIZE], c[SIZE], d[SIZE], z[SIZE], seen[9], h = {t_max} / {steps};
    for (int step = 0; step < {steps}; step++) {{
        rates(state, a);
        for (int n = 0; n < SIZE; n++) z[n] = state[n] + h / 2 * a[n];
        rates(z, b);
        for (int n = 0; n < SIZE; n++) z[n] = state[n] + h / 2 * b[n];
        rates(z, c);
        for (int n = 0; n < SIZE; n++) z[n] = state[n] + h * c[n];
        rates(z, d);
        for (int n = 0; n < SIZE; n++) state[n] += h / 6 * (a[n] + 2 * b[n] + 2 * c[n] + d[n]);
    }}
    const double *y = state;
    observables(0.0, {given}, PARAMETERS, seen);
    printf("%.17g\\n", seen[0]);
    return 0;
}}
"""


def risk_of_c(path, declared):
    state, constants = facts(declared)
    names = ["P", "readout", "teacher_readout"][: len(constants)]
    arrays = {
        "state": np.concatenate([np.ravel(s) for s in state.values()]),
        **dict(zip(names, constants, strict=True)),
    }
    lines = [
        f"static double {n}_[] = {{{', '.join(map(repr, np.ravel(a).tolist()))}}};".replace(
            "state_", "state"
        )
        for n, a in arrays.items()
    ]
    widths = [str(n) for n in state["M"].shape] if constants else []
    given = ", ".join([*widths, "y", *(f"{n}_" for n in names)])
    main = path.with_name("loop.c")
    text = IN_C.format(
        name=path.name, arrays="\n".join(lines), given=given, steps=STEPS,
        t_max=declared.options["solve"]["t_max"],
    )  # fmt: skip
    main.write_text(text.replace("SIZE", str(arrays["state"].size)))
    program = path.with_name("loop")
    subprocess.run(["gcc", "-O1", "-ffp-contract=off", main, "-lm", "-o", program], check=True)
    run = subprocess.run([program], capture_output=True, text=True, check=True, timeout=300)
    return float(run.stdout)


def risks_of_page(text, path, moves):
    """Final risks of a static page, whose script runs in Node without its interface."""
    script = re.search(r'<script type="module">(.*)</script>', text, re.DOTALL)[1]
    head, interface, _ = script.partition("new Explorer(document")
    assert interface
    controls = "description.controls.map((c) => [c.name, c.value])"
    ask = f"\nconst declared = Object.fromEntries({controls});\n"
    for moved in moves:
        question = (
            f'{{ kind: "solve", values: {{ ...declared, ...{json.dumps(moved)} }}, off: [] }}'
        )
        ask += f"console.log((await backend.ask({question})).risk.at(-1));\n"
    lines = in_node(path, head + ask).splitlines()  # the export compares itself first
    return [float(line) for line in lines[-len(moves) :]]


def risks_of_server(session, moves):
    with Server(session) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        found = []
        for moved in moves:
            request = urllib.request.Request(
                server.url + "ask", json.dumps({"kind": "solve", "values": moved}).encode(),
                {"Origin": server.origin, "Content-Type": "application/json"},
            )  # fmt: skip
            with urllib.request.urlopen(request) as answer:
                found.append(json.load(answer)["risk"][-1])
        server.shutdown()
    return found


@pytest.mark.cases("7")
@pytest.mark.parametrize("case", range(CASES))
def test_front_ends_agree(case, tmp_path, monkeypatch):
    text, letters = file_of(case)
    file = tmp_path / "model.toml"
    file.write_text(text)
    declared = read_declaration(file)
    wanted = risk_of_solve(declared)
    refused = []
    for end, risk in ((".py", risk_of_python), (".js", risk_of_javascript), (".c", risk_of_c)):
        if not shutil.which({".js": "node", ".c": "gcc"}.get(end, "true")):
            continue
        try:
            path = dmft.export(
                derived(declared), tmp_path / f"model{end}", **declared.numbers("export")
            )
        except dmft.errors.NotClosed as error:  # averages of four signs have no C
            refused.append((end, "is not exported to" in str(error)))
            continue
        more = (monkeypatch,) if end == ".py" else ()
        np.testing.assert_allclose(
            risk(path, declared, *more), wanted, **SAME, err_msg=f"{end}\n{text}"
        )
    assert [end for end, _ in refused] in ([], [".c"], [".py", ".js", ".c"]), text
    assert all(said for _, said in refused)
    session = session_of(declared)
    moves, wants = [{}], [wanted]
    moving = sorted(set(letters) & set(session.controls))  # flows read no label noise
    if moving:
        name = moving[case % len(moving)]
        moved = override(declared, [f"{name}={1.2 * letters[name]!r}"])
        moves.append({name: 1.2 * letters[name]})
        wants.append(risk_of_solve(moved))
    np.testing.assert_allclose(risks_of_server(session, moves), wants, **SAME, err_msg=text)
    if len(refused) > 1:
        with pytest.raises(dmft.errors.NotClosed, match="is not exported"):
            static_text(session)
    elif shutil.which("node"):
        page = static_text(session)
        held = [m for m in moves if set(m) <= {c["name"] for c in json_controls(page)}]
        found = risks_of_page(page, tmp_path / "page.mjs", held)
        np.testing.assert_allclose(found, wants[: len(held)], **SAME, err_msg=text)


def json_controls(page):
    return json.loads(re.search(r"^const description = (.*);$", page, re.MULTILINE)[1])["controls"]
