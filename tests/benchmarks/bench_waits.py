"""Waits of a user's first hour (`python tests/benchmarks waits`): CPU seconds of a first use and of
the same call again, each in a new process whose cache holds what one solve of erf has left there.

`python tests/benchmarks/bench_waits.py Lookahead` runs the rows whose name contains the word, and
`... kinds` the first use of each algorithm, loss, input law and verb; `... kinds warm` the same
where `dmft warm` has compiled the library. `... tutorials` runs the code of docs/tutorial.md with
other activations: processes that find an empty cache, one after `dmft warm`, and a second one.
"""

import compileall
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from table import line

ROOT = Path(__file__).parents[2]
HEAD = """
import time, warnings
warnings.simplefilter("ignore")
began = time.process_time()
import numpy as np, sympy as sp, dmft
from dmft import literature
imported = time.process_time() - began
z, u, v, h, s, y, f = sp.symbols("z u v h s y f", real=True)
erf, tanh, relu = sp.erf(z / sp.sqrt(2)), sp.tanh(z), sp.Max(0, z)
def timed(call, *, rounds=2):
    for _ in range(rounds):
        began = time.process_time()
        call()
        print(time.process_time() - began, flush=True)
def committee(student, p, teacher=None, k=None, noise=0.0, **options):
    teacher = student if teacher is None else teacher
    return dmft.Model(dmft.Committee(student, p), dmft.Committee(teacher, k or p), noise, **options)
def solved(model, algorithm, t=2.0, start=None, **options):
    start = start or dmft.random_overlaps(model, dim=200, seed=0)
    return lambda: dmft.solve(dmft.derive(model, algorithm), start, t, progress=False, **options)
def sphere(m=0.1):
    return dmft.Overlaps([[1.0]], [[m]])
"""
ROWS = {
    "tutorial with tanh: one solve": """
model = committee(tanh, 4, k=2, noise=1e-3)
timed(solved(model, dmft.SGD(1.0), 300.0))
""",
    "tutorial with tanh: diagram 24 x 16": """
two = committee(tanh, 2)
timed(lambda: dmft.phase_diagram("final_risk", ("learning_rate", np.linspace(0.5, 12.0, 24)),
    ("label_noise", np.linspace(0.0, 0.5, 16)), equations=dmft.derive(two, dmft.SGD(1.0)),
    start=dmft.random_overlaps(two, dim=1000, seed=1), t_max=200.0), rounds=1)
""",
    **{
        f"clipped rule, p = {p}": f"""
rule = dmft.UpdateField(sp.Min(1, sp.Max(-1, y - h)), fields=(h, s, y), learning_rate=1)
timed(solved(committee(erf, {p}, k=1), rule, 2.0))
"""
        for p in (1, 2)
    },
    "log-cosh loss, p = 2, noise": """
loss = sp.log(sp.cosh(y - f))
timed(solved(committee(erf, 2, noise=0.1), dmft.SGD(0.5, loss=loss), 2.0))
""",
    "tanh x Gauss under Huber": """
timed(solved(committee(tanh * sp.exp(-z**2 / 2), 1), dmft.SGD(0.5, loss="huber"), 2.0))
""",
    "hinge on erf": """
timed(solved(committee(erf, 2, sp.sign(z), 1), dmft.SGD(0.5, loss="hinge"), 2.0))
""",
    "Repeat(2) of tanh": "timed(solved(committee(tanh, 2), dmft.SGD(0.5, repeat=dmft.Repeat(2))))",
    "Lookahead of tanh": """
timed(solved(committee(tanh, 2), dmft.SGD(0.5, repeat=dmft.Lookahead(0.1))))
""",
    "SharpnessAware of tanh": """
timed(solved(committee(tanh, 2), dmft.SGD(0.5, repeat=dmft.SharpnessAware(0.1))))
""",
    "three clusters, logistic, tanh": """
mixture = dmft.GaussianMixture([[1.0, 0], [-1.0, 0], [0, 1.0]], labels=[1, -1, 1])
model = dmft.MixtureModel(dmft.Committee(tanh, 2), mixture)
timed(solved(model, dmft.SGD(0.5, loss="logistic")))
""",
    "SignSGD, batch of 4": "timed(solved(committee(tanh, 1), dmft.SignSGD(0.1, batch_size=4)))",
    "logistic + momentum, 184 blocks": """
inputs = dmft.Spectrum.power_law(capacity=1.5, source=0.5, dim=184)
model = dmft.Model(dmft.Committee(z, 1), dmft.Committee(sp.sign(z), 1), inputs=inputs)
zero = dmft.Overlaps(0 * inputs.teacher, 0 * inputs.teacher, inputs.teacher)
rule = dmft.SGD(0.5, loss="logistic", momentum=dmft.Momentum(0.5))
timed(solved(model, rule, 2.0, zero))
""",
    **{
        f"first descent, {name}": f"""
descent = dmft.GradientDescent(0.3, samples_per_dim=3{more})
timed(solved(committee({name.split()[0]}, 1), descent, 10))
"""
        for name, more in (("erf", ""), ("relu", ""), ("erf with noise", ", temperature=0.1"))
    },
    "first two-time problem": """
problem = literature.spherical_p_spin(3)
timed(lambda: dmft.solve(problem, None, 5.0))
""",
    "first simulate(overlaps)": """
model = committee(erf, 2)
timed(lambda: dmft.simulate(model, dmft.SGD(0.5), 500, 5.0, 4, method="overlaps"))
""",
    "optimal_schedule": """
model = committee(erf, 1)
equations = dmft.derive(model, dmft.SGD(0.5))
start = dmft.Overlaps([[1.0]], [[0.1]])
timed(lambda: dmft.optimal_schedule(equations, start, t_max=10.0))
""",
    "ReLU, width 4": "timed(solved(committee(relu, 4), dmft.SGD(0.5), 10.0))",
    **{
        f"fluctuations, {name}": f"""
model = committee({name}, 2)
start = dmft.random_overlaps(model, dim=500, seed=0)
timed(lambda: dmft.solve(dmft.derive(model, dmft.SGD(0.5), dim=500, fluctuations=True), start, 2.0,
    paths=50, dt=0.01, seed=1, progress=False))
"""
        for name in ("erf", "tanh")
    },
    "three tokens: solve": """
model = dmft.Model(dmft.SequenceNetwork(tanh, 3), dmft.SequenceTarget(z + u + v, [z, u, v]))
timed(solved(model, dmft.SGD(0.5), 2.0, dmft.Alignment(m=0.1)))
""",
    **{
        f"student z^{n} on z^2, width 1": f"""
timed(solved(committee(z**{n}, 1, z**2), dmft.SGD(0.01, constraint="sphere"), 1.0, sphere()))
"""
        for n in range(4, 9)
    },
    "attention document": """
import tempfile, pathlib
a, omega = sp.symbols("a omega", positive=True)
model = literature.positional_semantic(a, omega)
path = pathlib.Path(tempfile.mkdtemp()) / "a.tex"
timed(lambda: dmft.latex(path, dmft.derive(model, dmft.SGD(0.1))))
""",
    "learned_directions, four ReLU": """
model = dmft.Model(dmft.Committee(relu, 4), dmft.MultiIndex(u * v + sp.tanh(u), [u, v]))
timed(lambda: dmft.learned_directions(model, dmft.GradientDescent(0.3, samples_per_dim=3)))
""",
    "sixteen small solves": """
model = committee(erf, 1)
equations, start = dmft.derive(model, dmft.SGD(0.5)), dmft.Overlaps([[1.0]], [[0.1]])
dmft.solve(equations, start, 10.0)
timed(lambda: [dmft.solve(equations, start, 10.0) for _ in range(16)])
""",
    "sweep of 20,000 cheap points": """
square = committee(z**2, 1, noise=0.1)
grid = {"learning_rate": np.linspace(0.01, 0.08, 200), "label_noise": np.linspace(0.0, 0.5, 100)}
flow = dmft.derive(square, dmft.SGD(0.05, constraint="sphere"))
timed(lambda: dmft.sweep(grid, "final_risk", equations=flow, start=sphere(), t_max=20.0, workers=1,
    progress=False))
""",
    **{
        f"64 x 64 diagram of escapes, {name}": f"""
model, t_max = {model}
x, y = ("learning_rate", np.linspace(*{rates}, 64)), ("label_noise", np.linspace(0.0, 0.1, 64))
start = sphere() if model.student.width == 1 else dmft.random_overlaps(model, dim=1000, seed=0)
equations = dmft.derive(model, dmft.SGD(0.5{more}))
timed(lambda: dmft.phase_diagram("escape_time", x, y, equations=equations, start=start,
    t_max=t_max, progress=False, threads=1))
"""
        for name, model, rates, more in (
            ("square", "committee(z**2, 1), 20.0", (0.01, 0.08), ", constraint='sphere'"),
            ("erf", "committee(erf, 2), 300.0", (0.1, 1.5), ""),
        )
    },
    "escape time of a point": """
model = committee(erf, 2)
equations = dmft.derive(model, dmft.SGD(0.5))
start = dmft.random_overlaps(model, dim=1000, seed=0)
problem = dmft.build(equations)
timed(lambda: [dmft.escape_time(problem, start=start, t_max=300.0, fraction=0.5,
    reference="plateau") for _ in range(10)])
""",
}

# Diagrams of random networks, 64 x 64 points: chaos, a low-rank part, communities of species.
ROWS |= {
    f"64 x 64 diagram of networks, {name}": f"""
g, a, X, H = sp.symbols("g a X H", real=True)
site = dict(output=sp.tanh(X), std=g)
network = {network}
timed(lambda: dmft.phase_diagram("{measure}", ("{x}", np.linspace({ends}, 64)),
    ("{y}", np.linspace({others}, 64)), equations=network, progress=False, threads=1), rounds=1)
"""
    for name, network, measure, x, ends, y, others in (
        ("chaos", "dmft.RandomNetwork(-X + H, X, H, noise=a, **site)", "chaos",
         "g", "0.5, 3.0", "a", "0.01, 0.5"),
        ("low rank", "dmft.RandomNetwork(-X + H, X, H, low_rank=[(a, 1)], **site)", "stability",
         "g", "0.2, 3.0", "a", "0.2, 3.0"),
        ("species", "literature.lotka_volterra(4.0, 0.8, 0.5)", "survival",
         "std", "0.1, 2.0", "mean", "-4.0, 0.5"),
    )
}  # fmt: skip

# First use of each kind: algorithms, losses, activations, laws of inputs and verbs.
ALGORITHMS = {
    "SGD": "dmft.SGD(0.5)",
    "gradient flow": "dmft.GradientFlow()",
    "momentum": "dmft.SGD(0.5, momentum=dmft.Momentum(0.5))",
    "on the sphere": "dmft.SGD(0.5, constraint='sphere')",
    "weight decay": "dmft.SGD(0.5, weight_decay=0.1)",
    "Repeat(2)": "dmft.SGD(0.5, repeat=dmft.Repeat(2))",
    "Lookahead": "dmft.SGD(0.5, repeat=dmft.Lookahead(0.1))",
    "SharpnessAware": "dmft.SGD(0.5, repeat=dmft.SharpnessAware(0.1))",
    "SignSGD": "dmft.SignSGD(0.1)",
}
SMALLEST = """
model = committee({activation}, 1)
start = dmft.random_overlaps(model, dim=200, seed=0, normalised=True)
timed(solved(model, {algorithm}, start=start))
"""
VERB = """
model = committee(erf, 1)
equations, start = dmft.derive(model, dmft.SGD(0.5)), dmft.Overlaps([[1.0]], [[0.1]])
timed(lambda: {call})
"""
KINDS = {
    **{
        f"{name}, {activation}": SMALLEST.format(activation=activation, algorithm=algorithm)
        for name, algorithm in ALGORITHMS.items()
        for activation in ("erf", "tanh")
    },
    **{
        f"loss {loss}, erf": SMALLEST.format(
            activation="erf", algorithm=f"dmft.SGD(0.5, loss='{loss}')"
        )
        for loss in ("huber", "hinge", "logistic", "correlation")
    },
    **{
        f"activation {name}": SMALLEST.format(activation=name, algorithm="dmft.SGD(0.5)")
        for name in ("relu", "z**3 - 3 * z", "z * (1 + erf) / 2", "sp.sin(z)")
    },
    "BDF, erf": "timed(solved(committee(erf, 2), dmft.SGD(0.5), method='BDF'))",
    **{
        name: VERB.format(call=call)
        for name, call in {
            "fixed points": "dmft.fixed_points(equations)",
            "diagram": """dmft.phase_diagram("final_risk", ("learning_rate", [0.5, 1.0, 2.0]),
    ("label_noise", [0.0, 0.1, 0.2]), equations=equations, start=start, t_max=5.0)""",
            "simulated SGD": "dmft.simulate(model, dmft.SGD(0.5), 200, 2.0, 2)",
        }.items()
    },
    **{
        name: ROWS[name]
        for name in (
            "three clusters, logistic, tanh",
            "logistic + momentum, 184 blocks",
            "first descent, erf",
            "first descent, relu",
            "first two-time problem",
            "first simulate(overlaps)",
            "optimal_schedule",
            "fluctuations, erf",
            "three tokens: solve",
            "escape time of a point",
        )
    },
}


# The tutorial with other activations; its assertions hold for erf alone.
ACTIVATIONS = (
    {"erf": "sp.erf(z / sp.sqrt(2))"}
    | {
        name: name
        for name in ("sp.tanh(z)", "sp.Max(0, z)", "z * (1 + sp.erf(z / sp.sqrt(2))) / 2")
    }
    | {"z**3 - 3 * z": "z**3 - 3 * z"}
)
USED = """
import resource
whole = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(sum(used.ru_utime + used.ru_stime for used in whole))
print(whole[0].ru_maxrss / 1024)
"""


def tutorial(activation):
    """Code of the tutorial with an activation in place of erf; prints seconds and megabytes."""
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    cells = re.findall(r"```{code-cell} python3\n(.*?)```", text, flags=re.DOTALL)
    first, *cells = [cell for cell in cells if "remove-cell" not in cell]
    code = first.replace("erf = sp.erf(z / sp.sqrt(2))", f"erf = {activation}")
    code += "import contextlib, io\n"
    for cell in cells:  # A run that diverges has no escape to print.
        quiet = (
            "with contextlib.suppress(AttributeError), contextlib.redirect_stdout(io.StringIO()):"
        )
        code += "\n".join([quiet, *("    " + row for row in cell.splitlines())]) + "\n"
    return code + USED


def used(kept, name, processes=1):
    """Seconds and megabytes of processes one after the other, or their error."""
    rows = seconds(tutorial(ACTIVATIONS[name]), kept, 600, processes, head="", many=2)
    if any(row[:1].isalpha() or "over" in row for row in rows):
        return rows[-1:]
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return [f"{float(a):.3g} s {float(b):.0f} MB" for a, b in pairs]


def tutorials(words):
    """Print CPU seconds and memory of the tutorial with each activation."""
    line("CPU seconds of the tutorial", "empty cache", "warmed", "again")
    with tempfile.TemporaryDirectory() as folder:
        warmed, empty = seeded(Path(folder) / "seed", warm=True), Path(folder) / "empty"
        empty.mkdir()
        for name in ACTIVATIONS:
            if words and not any(word in name for word in words):
                continue
            rows = [*used(empty, name), *used(warmed, name, processes=2)]
            line(name, *rows)


def seconds(code, kept, limit=180, processes=1, head=HEAD, many=1):
    """Numbers that the code prints in a new process with a copy of a cache, and the first (`many`)
    that further processes print."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        shutil.copytree(kept, cache)
        names = {
            "DMFT_CACHE_DIR": cache,
            "NUMBA_CACHE_DIR": cache / "numba",
            "PYTHONPATH": ROOT,
            "MPLBACKEND": "agg",
        }
        names = {name: str(path) for name, path in names.items()}
        found = _run(head + code, names, limit)
        for _ in range(1, processes):
            found += _run(head + code, names, limit)[:many]
        return found


def _run(code, names, limit):
    ordinary = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    keys = {"capture_output": True, "text": True, "timeout": limit}
    try:
        done = subprocess.run(command, env={**ordinary, **names}, **keys)
    except subprocess.TimeoutExpired as late:
        rows = (late.stdout or b"").decode().split()
        return [*rows, f"over {limit} s"]
    if done.returncode:
        return [*done.stdout.split(), done.stderr.strip().splitlines()[-1][:60]]
    return done.stdout.split()


def _shown(text):
    return text if text[:1].isalpha() else f"{float(text):.3g} s"


def seeded(cache, warm):
    """A cache that holds what one solve of erf left, or all functions of the library."""
    cache.mkdir()
    compileall.compile_dir(ROOT / "dmft", quiet=1)  # as pip does when it installs a package
    names = {"DMFT_CACHE_DIR": cache, "NUMBA_CACHE_DIR": cache / "numba", "PYTHONPATH": ROOT}
    call = "dmft.warm" if warm else "solved(committee(erf, 2), dmft.SGD(0.5))"
    _run(f"{HEAD}timed({call}, rounds=1)", {name: str(path) for name, path in names.items()}, 900)
    return cache


def main(*words):
    """Print the table."""
    if words[:1] == ("tutorials",):
        return tutorials(words[1:])
    by_kind = words[:1] == ("kinds",)
    rows, words = (KINDS, words[1:]) if by_kind else (ROWS, words)
    warm, words = words[:1] == ("warm",), words[words[:1] == ("warm",) :]
    line("CPU seconds", "first", "again", *(["next process"] if by_kind else []))
    with tempfile.TemporaryDirectory() as folder:
        kept = seeded(Path(folder) / "seed", warm)
        for name, code in rows.items():
            if not words or any(word in name for word in words):
                shown = [
                    x[:60] if x[:1].isalpha() else f"{float(x):.3g} s"
                    for x in seconds(code, kept, processes=1 + by_kind)
                ]
                line(name, *shown)


if __name__ == "__main__":
    main(*sys.argv[1:])
