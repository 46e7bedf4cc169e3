"""What a declaration file may say: one table of tables, read by the reader and by the help.

No SymPy and no NumPy here, so that `dmft --help` is immediate.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

MODEL = Path(__file__).parents[1] / "model"
# Kinds whose steps are scaled by what was seen of gradients.
SCALED = ("sign-sgd", "adam", "rmsprop", "adagrad", "adagrad-norm")
# Class of each `kind` of [algorithm], and the module of `dmft.model` that declares it.
ALGORITHMS = {
    "sgd": ("SGD", "algorithm"),
    **{
        kind: (name, "optimisers/adaptive")
        for kind, name in zip(
            SCALED, ("SignSGD", "Adam", "RMSProp", "AdaGrad", "AdaGradNorm"), strict=True
        )
    },
    "gradient-flow": ("GradientFlow", "algorithm"),
    "gradient-descent": ("GradientDescent", "gradient_descent"),
}
# The table of numbers of algorithms, and its module.
TABLE, TABLE_MODULE = "REGISTRY", "hyperparameters"


def optimiser_numbers() -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """Numbers of algorithms: kind of the key of each, words, and the algorithms that have it."""
    has = {kind: fields_of(kind) for kind in ALGORITHMS}
    return {
        name: (key, text, tuple(kind for kind, fields in has.items() if name in fields))
        for name, key, text in _table()
    }


def fields_of(kind: str) -> tuple[str, ...]:
    """Names of the arguments of an algorithm's declaration, in their order."""
    name, module = ALGORITHMS[kind]
    body = next(n.body for n in _parsed(module) if isinstance(n, ast.ClassDef) and n.name == name)
    for made in body:
        if isinstance(made, ast.FunctionDef) and made.name == "__init__":
            own = (a.arg for a in made.args.args[1:])
            return tuple(dict.fromkeys([*own, *_tuple_of(module, "OTHERS")]))
    annotated = (n for n in body if isinstance(n, ast.AnnAssign))
    return tuple(
        n.target.id
        for n in annotated
        if isinstance(n.target, ast.Name) and "ClassVar" not in ast.unparse(n.annotation)
    )


def _tuple_of(module: str, name: str) -> tuple[str, ...]:
    """A tuple of names that a module of `dmft.model` declares."""
    for statement in _parsed(module):
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            found: tuple[str, ...] = ast.literal_eval(statement.value)
            return found
    raise LookupError(name)


def _table() -> Iterator[tuple[str, str, str]]:
    """Names of the table that files may hold, the kind of their key, and their words."""
    for statement in _parsed(TABLE_MODULE):
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == TABLE:
            (found,) = (n for n in ast.walk(statement) if isinstance(n, ast.Dict) and _of_calls(n))
            for key, call in zip(found.keys, found.values, strict=True):
                assert isinstance(call, ast.Call)
                assert key is not None
                kinds = [ast.literal_eval(k.value) for k in call.keywords if k.arg == "key"]
                if kinds:
                    yield ast.literal_eval(key), kinds[0], ast.literal_eval(call.args[0])


def _of_calls(node: ast.Dict) -> bool:
    return bool(node.values) and all(isinstance(v, ast.Call) for v in node.values)


@cache
def _parsed(module: str) -> list[ast.stmt]:
    return ast.parse((MODEL / f"{module}.py").read_text(encoding="utf-8")).body


@dataclass(frozen=True)
class Key:
    """One key of a table: its kind decides the check, its text is the help."""

    kind: str
    text: str
    required: bool = False
    choices: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    """The `kind`s of the table for which this key makes sense, when not for all."""
    needed: bool = False
    """Required with that kind."""


@dataclass(frozen=True)
class Table:
    """One table of the file."""

    text: str
    keys: dict[str, Key] = field(default_factory=dict)
    required: bool = False


_SEQUENCES = ("sequence", "attention")
_NETWORK = {
    "kind": Key(
        "choice",
        "committee by default; of L tokens: one row of weights a token, or attention",
        False,
        ("committee", *_SEQUENCES),
    ),
    "activation": Key("formula", "formula in z, for example erf(z/sqrt(2)) or He(2, z)"),
    "width": Key("width", "number of hidden units, or a letter (derive only)"),
    "readout": Key("scalars", "the a_j, one a unit, or a row for each output; ones by default"),
    "length": Key("count", "number of tokens L", only=_SEQUENCES),
    "tied": Key("flag", "one row for all tokens; true by default", only=("sequence",)),
    "reduction": Key("text", "trace, or the whole matrix by default", only=("attention",)),
}
# [[events]] of [solve] and [simulate], entry by entry.
EVENT: dict[str, Key] = {
    "quantity": Key("text", "risk, t, M[0,0], or a formula of these: M[0,0]/sqrt(Q[0,0])", True),
    "threshold": Key("number", "value that it reaches", True),
    "direction": Key("choice", "falls or rises; both by default", False, ("falls", "rises")),
    "terminal": Key("flag", "whether the run ends there; true by default"),
}
_EVENTS = Key("events", "list of {quantity, threshold, direction, terminal}")
_RATE = Key(
    "schedule",
    'formula of t and risk that the rate follows, as "0.5/(1 + t/10)"; or "rates.csv", a table of '
    "tau = steps/d and gamma, t_max in tau then",
)

# A teacher is a network or a function of several fields; the reader asks for one of the two.
_TARGET = {
    "fields": Key("names", 'names of k fields, for example ["z1", "z2"]'),
    "expression": Key("target", "formula in these fields, for example He(2, z1) + z1*z2"),
}
_TEACHER = {name: replace(key, required=False) for name, key in _NETWORK.items()} | _TARGET

_VERBS = (
    "thresholds", "bayes_optimal", "state_evolution", "recovery_phase", "sample_complexity",
    "separability", "spectral", "erm", "optimal_ridge",
)  # fmt: skip
_LIMITS = {
    "verb": Key("choice", "what is computed", True, _VERBS),
    "samples_per_dim": Key("positive", "samples over dimension"),
    "prior": Key("choice", "of the teacher", False, ("gaussian", "rademacher")),
    "start": Key("choice", "branch", False, ("uninformed", "informed", "all")),
    "loss": Key("text", "of erm and optimal_ridge"),
    "ridge": Key("number", "of erm"),
}
# Measures of `dmft.workflow.diagrams.measures`; "minima" is one of sequence models, which no file
# declares.
MEASURES = (
    "escape_time", "final_risk", "converged", "growth_rate", "status", "fixed_point",
    "learned_directions", "overlap",
)  # fmt: skip
_LEARNED = Key("fraction", "of learned_directions: cosine that counts as learned; 0.1 by default")
_STORE = Key("text", "folder next to this file that keeps evaluations, also after Ctrl-C")
_DESCENT, _OVERLAPS = ("gradient-descent",), ("overlaps",)
_LEVEL = Key("number", "value of the measure on the curve; 0 by default")

SCHEMA: dict[str, Table] = {
    "rule": Table(
        "a learning rule of a paper, in place of student, teacher, inputs, model and algorithm",
        {
            "name": Key("text", "function of dmft.literature, for example perceptron_rule", True),
            "...": Key("text", "its arguments: numbers, formulas in letters, text, lists, or laws"),
        },
    ),
    "student": Table("f = (1/width) sum_j a_j activation(h_j), the network that learns", _NETWORK),
    "teacher": Table(
        "the function that generates the labels: a network (same keys) or a target", _TEACHER
    ),
    "inputs": Table(
        "clusters that inputs come from, about means in the teacher's rows, or the spectrum of "
        "their covariance; else x ~ N(0, I)",
        {
            "means": Key("matrix", "a row of k coordinates for each cluster"),
            "weights": Key("vector", "their probabilities; equal by default"),
            "scales": Key(
                "rows",
                "variance of an input in each, or in each and in each block; ones by default",
            ),
            "labels": Key("labels", "of each cluster: a number or a formula; else the teacher's"),
            "fields": Key("names", "names of the k fields that formulas of labels use"),
            "eigenvalues": Key("vector", "spectrum: one for each block"),
            "fractions": Key("vector", "blocks: fraction of the coordinates in each"),
            "noise": Key("vector", "spectrum: noise factors of steps where they are not SGD's"),
            "teacher": Key("matrices", "spectrum: overlaps P of the teacher in each block"),
            "scaled": Key("flag", "spectrum: whether it contains the scaling of the steps"),
            "capacity": Key("positive", "power law: alpha of the eigenvalues i^-alpha"),
            "source": Key("number", "power law: r of the teacher, risk ~ t^(-2 r)"),
            "dim": Key("count", "power law: number of eigenvalues; d of a finite spectrum"),
            "ratio": Key("positive", "Marchenko-Pastur: dimension over samples"),
            "nodes": Key("count", "Marchenko-Pastur: blocks; 16 by default"),
        },
    ),
    "model": Table(
        "what else makes the labels",
        {
            "label_noise": Key("scalar", "variance of the label noise; 0 by default"),
            "label_flip": Key("scalar", "probability that a label is flipped; 0 by default"),
            "label_channel": Key(
                "channel", "P(y = 1) in f, the teacher's output; labels +1 and -1 are drawn"
            ),
            "encoding": Key(
                "encoding", "positional vectors of tokens: radius, pattern or Gram matrix"
            ),
        },
    ),
    "algorithm": Table(
        "how the student learns",
        {
            "kind": Key(
                "choice",
                "one pass, its gradient flow, or descent on repeated data",
                True,
                ("sgd", *SCALED, "gradient-flow", "gradient-descent"),
            ),
            "samples_per_dim": Key("scalar", "alpha = n / d samples", only=_DESCENT, needed=True),
            "ridge": Key("scalar", "lambda of the penalty |W|^2 / 2", only=_DESCENT),
            "batch": Key(
                "choice",
                "part of the samples that a step uses; all by default",
                False,
                ("bernoulli", "reshuffle", "replacement", "fresh"),
                only=_DESCENT,
            ),
            "batch_fraction": Key("fraction", "its size", only=_DESCENT),
            "temperature": Key("scalar", "T of Langevin noise, added to each step", only=_DESCENT),
            "dim": Key(
                "count",
                "input dimension d: batches of its order, and the map of one step, t = steps",
                only=("sgd",),
            ),
            "loss": Key(
                "loss",
                "squared by default; correlation, logistic, hinge, huber; with sgd cross-entropy; "
                "or a formula in f and y, of several outputs in f1, ... and y1, ...",
                only=("sgd", *SCALED, "gradient-descent"),
            ),
            "constraint": Key(
                "choice",
                "every student row kept on the sphere (sphere-gradient with sgd only)",
                False,
                ("sphere", "sphere-gradient"),
                only=("sgd", "gradient-flow", "gradient-descent"),
            ),
            "repeat": Key(
                "repeat",
                'use of a sample in a step: {kind = "lookahead", rho}, '
                '{kind = "sharpness-aware", rho, normalised} or {kind = "passes", times}',
                only=("sgd",),
            ),
            **{
                name: Key(kind, text, only=only, needed=name == "learning_rate")
                for name, (kind, text, only) in optimiser_numbers().items()
            },
        },
    ),
    "start": Table(
        "where the student starts",
        {
            "kind": Key(
                "choice",
                "random weights, given overlaps, or the alignment of a student of sequences",
                True,
                ("random", "overlaps", "alignment"),
            ),
            "e": Key("numbers", "positional alignment, one or L", only=("alignment",)),
            "m": Key("numbers", "semantic alignment, one or L", only=("alignment",)),
            "radius": Key("positive", "length of the pair of positions", only=("alignment",)),
            "readout": Key("vector", "student readouts, p", only=_OVERLAPS),
            "dim": Key(
                "count", "input dimension d of the random weights", only=("random",), needed=True
            ),
            "seed": Key("seed", "whole number", only=("random",), needed=True),
            "normalised": Key("flag", "put the student rows on the sphere", only=("random",)),
            "Q": Key("matrix", "overlaps of students, p rows of p", only=_OVERLAPS, needed=True),
            "scalars": Key("values", "of a rule: {b = 0.5}, by name", only=_OVERLAPS),
            "M": Key("matrix", "with teachers, p rows of k", only=_OVERLAPS, needed=True),
            "P": Key("matrix", "overlaps of teachers; the identity by default", only=_OVERLAPS),
        },
    ),
    "solve": Table(
        "integration of the equations",
        {
            "t_max": Key("positive", "final time", True),
            "method": Key("text", "rk5, rk8, or for stiff equations Radau, BDF, LSODA"),
            "rtol": Key("positive", "relative tolerance"),
            "atol": Key("positive", "absolute tolerance"),
            "points": Key("points", "number of saved times"),
            "spacing": Key("choice", "of the saved times", False, ("linear", "log")),
            "first": Key("positive", "first saved time after 0 when spacing is log"),
            "learning_rate": _RATE,
            "batch_size": replace(_RATE, text="a schedule of the batch size, like the rate"),
            "weight_decay": replace(_RATE, text="a schedule of the decay, like the rate"),
            "events": _EVENTS,
            "samples": Key("count", "descent: points of a scramble, a power of two"),
            "scrambles": Key("count", "descent: independent sets of points, for the errors"),
            "seed": Key("seed", "descent: of the scrambles"),
        },
    ),
    "simulate": Table(
        "finite-dimensional simulations",
        {
            "dim": Key("count", "input dimension d", True),
            "seeds": Key("count", "number of independent runs", True),
            "method": Key(
                "choice", "weights in R^d, or only the overlaps", False, ("weights", "overlaps")
            ),
            "t_max": Key("positive", "final time, that of [solve] by default"),
            "learning_rate": _RATE,
            "events": replace(_EVENTS, text="one of them, as in [solve]"),
        },
    ),
    "escape": Table(
        "when learning starts",
        {
            "fraction": Key("fraction", "threshold T: the risk falls to (1-T) of its reference"),
            "reference": Key("choice", "reference risk", False, ("start", "plateau")),
            "overlap": Key("positive", "threshold on the largest |M_jr|, instead of the risk"),
            "observable": Key("text", "measure of a rule, instead of the risk"),
            "threshold": Key("number", "value that it crosses, instead of a fraction"),
        },
    ),
    "limits": Table("static limits of the label: what can be learned at all", _LIMITS),
    "phase": Table(
        "a diagram over two parameters",
        {
            "x": Key("axis", "{name, from, to, points, scale = linear or log}", True),
            "y": Key("axis", "likewise", True),
            "measure": Key("choice", "quantity shown at each point", True, choices=MEASURES),
            "overlap": _LEARNED,
            "adaptive": Key("flag", "solve a coarse grid, and more only where labels differ"),
            "level": replace(_LEVEL, text="adaptive: where the sign of the measure changes; 0"),
            "coarse": Key("count", "adaptive: steps of the grid between points of the coarse one"),
            "store": _STORE,
        },
    ),
    "boundary": Table(
        "curves where a measure of two parameters changes",
        {
            "x": Key("axis", "{name, from, to, points of the coarse grid, scale}", True),
            "y": Key("axis", "likewise", True),
            "measure": Key("choice", "quantity that changes", True, choices=MEASURES),
            "overlap": _LEARNED,
            "level": _LEVEL,
            "tol": Key("positive", "accuracy across the curve, in units of the ranges"),
            "step": Key("fraction", "largest distance of two points, in units of the ranges"),
            "store": _STORE,
        },
    ),
    "sweep": Table(
        "a measure at all combinations of any number of parameters",
        {
            "axes": Key("axes", "list of {name, from, to, points, scale}", True),
            "measure": Key("choice", "quantity to compute", True, choices=MEASURES),
            "overlap": _LEARNED,
            "store": Key("text", "folder of the results, next to this file", True),
        },
    ),
    "parameters": Table("values of the letters used above, for example gamma = 0.5"),
}

AXIS: dict[str, Key] = {
    "name": Key("name", "a letter, or learning_rate or label_noise", True),
    "from": Key("number", "first value", True),
    "to": Key("number", "last value", True),
    "points": Key("points", "number of values", True),
    "scale": Key("choice", "linear (default) or log", False, ("linear", "log")),
}

# Without [teacher] the clusters of [inputs] have labels.
REQUIRED_TABLES = ("student", "algorithm")

EXAMPLE = """\
# An erf committee of 4 units learns one of 2 units by one-pass SGD (Saad and Solla 1995).
[student]
activation = "erf(z/sqrt(2))"
width = 4

[teacher]
activation = "erf(z/sqrt(2))"
width = 2

[model]
label_noise = 1e-3

[algorithm]
kind = "sgd"
learning_rate = "gamma"       # a letter takes its value below, or spans an axis of [phase]

[parameters]
gamma = 0.5

[start]
kind = "random"
dim = 1000
seed = 0

[solve]
t_max = 1000.0
points = 200
spacing = "log"
first = 0.1

[escape]
fraction = 0.5
reference = "plateau"

[simulate]
dim = 1000
seeds = 8
method = "overlaps"
"""


# Columns of the names of keys in the help.
WIDTH = 2 + max(len(key) for table in SCHEMA.values() for key in table.keys)


def describe() -> str:
    """Return the schema as help text, one line for each key."""
    lines = []
    for name, table in SCHEMA.items():
        lines.append(f"  [{name}]  {table.text}")
        for key, entry in table.keys.items():
            if name == "teacher" and key in _NETWORK:
                continue
            lines.append(f"    {key:<{WIDTH}}{_describe_key(entry)}")
    return "\n".join(lines)


def _describe_key(entry: Key) -> str:
    notes = [entry.text]
    if entry.choices:
        notes.append("one of " + ", ".join(f'"{c}"' for c in entry.choices))
    if entry.only:
        notes.append("with kind = " + " or ".join(f'"{k}"' for k in entry.only))
    return "; ".join(notes) + (" (required)" if entry.required or entry.needed else "")
