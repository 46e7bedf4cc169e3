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
    "sign-sgd": ("SignSGD", "adaptive"),
    "adam": ("Adam", "adaptive"),
    "rmsprop": ("RMSProp", "adaptive"),
    "adagrad": ("AdaGrad", "adaptive"),
    "adagrad-norm": ("AdaGradNorm", "adaptive"),
    "gradient-flow": ("GradientFlow", "algorithm"),
    "gradient-descent": ("GradientDescent", "algorithm"),
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
        "committee by default; for L tokens: sequence (a feed-forward network) or attention",
        False,
        ("committee", *_SEQUENCES),
    ),
    "activation": Key("formula", "formula in z, for example erf(z/sqrt(2)) or He(2, z)"),
    "width": Key("width", "number of hidden units, or a symbol (derive only)"),
    "readout": Key("scalars", "readouts a_j, one per unit, or one row per output; ones by default"),
    "length": Key("count", "number of tokens L", only=_SEQUENCES),
    "tied": Key("flag", "one weight vector for all tokens; true by default", only=("sequence",)),
    "reduction": Key("text", '"trace"; by default the output is the matrix', only=("attention",)),
}
# [[events]] of [solve] and [simulate], entry by entry.
EVENT: dict[str, Key] = {
    "quantity": Key("text", "risk, t, M[0,0], or a formula of these: M[0,0]/sqrt(Q[0,0])", True),
    "threshold": Key("number", "value of the quantity at the event", True),
    "direction": Key("choice", "falls or rises; both by default", False, ("falls", "rises")),
    "terminal": Key("flag", "whether the run ends there; true by default"),
}
_EVENTS = Key("events", "list of {quantity, threshold, direction, terminal}")
_RATE = Key(
    "schedule",
    'schedule: a formula in t and risk such as "0.5/(1 + t/10)", or "rates.csv", a table of '
    "tau = steps/d and gamma (t_max is then a value of tau)",
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
    "verb": Key("choice", "result to compute", True, _VERBS),
    "samples_per_dim": Key("positive", "samples over dimension"),
    "prior": Key("choice", "law of the teacher's weights", False, ("gaussian", "rademacher")),
    "start": Key("choice", "selected fixed point", False, ("uninformed", "informed", "all")),
    "loss": Key("text", "loss, for erm and optimal_ridge"),
    "ridge": Key("number", "ridge, for erm"),
}
# Measures of `dmft.workflow.diagrams.measures`; "minima" is one of sequence models, which no file
# declares.
MEASURES = (
    "escape_time", "final_risk", "converged", "growth_rate", "status", "fixed_point",
    "learned_directions", "overlap",
)  # fmt: skip
_LEARNED = Key("fraction", "for learned_directions: smallest cosine that counts; 0.1 by default")
_STORE = Key("text", "folder next to this file in which evaluations are saved")
_DESCENT, _OVERLAPS = ("gradient-descent",), ("overlaps",)
_LEVEL = Key("number", "value of the measure on the curve; 0 by default")

SCHEMA: dict[str, Table] = {
    "rule": Table(
        "published learning rule, instead of student, teacher, inputs, model and algorithm",
        {
            "name": Key("text", "function of dmft.literature, for example perceptron_rule", True),
            "...": Key("text", "arguments of the function: numbers, formulas, text, lists or laws"),
        },
    ),
    "student": Table("network that is trained, f = (1/width) sum_j a_j activation(h_j)", _NETWORK),
    "teacher": Table(
        "function that generates the labels: a network (same keys) or a target", _TEACHER
    ),
    "inputs": Table(
        "law of the inputs: clusters with means in the span of the teacher's rows, or the "
        "spectrum of a covariance; x ~ N(0, I) by default",
        {
            "means": Key("matrix", "k coordinates of the mean of each cluster"),
            "weights": Key("vector", "probabilities of the clusters; equal by default"),
            "scales": Key("rows", "variance of each cluster (and block); ones by default"),
            "labels": Key("labels", "label of each cluster, number or formula; else the teacher's"),
            "fields": Key("names", "names of the k fields in formulas of labels"),
            "eigenvalues": Key("vector", "spectrum: eigenvalue of each block"),
            "fractions": Key("vector", "fraction of the coordinates in each block"),
            "noise": Key("vector", "spectrum: noise factors of the steps, if they differ from SGD"),
            "teacher": Key("matrices", "spectrum: overlaps P of the teacher in each block"),
            "scaled": Key("flag", "spectrum: whether it includes the preconditioning of the steps"),
            "capacity": Key("positive", "power law: exponent alpha of the eigenvalues i^-alpha"),
            "source": Key("number", "power law: exponent r of the teacher, risk ~ t^(-2 r)"),
            "dim": Key("count", "power law: number of eigenvalues; d of a finite spectrum"),
            "ratio": Key("positive", "Marchenko-Pastur: dimension divided by samples"),
            "nodes": Key("count", "Marchenko-Pastur: number of blocks; 16 by default"),
        },
    ),
    "model": Table(
        "noise and randomness of the labels",
        {
            "label_noise": Key("scalar", "variance of the label noise; 0 by default"),
            "label_flip": Key("scalar", "probability that a label is flipped; 0 by default"),
            "label_channel": Key("channel", "P(y = 1) of random labels, in the teacher's output f"),
            "encoding": Key("encoding", "positional vectors: radius, pattern or Gram matrix"),
        },
    ),
    "algorithm": Table(
        "training algorithm",
        {
            "kind": Key(
                "choice",
                "one-pass algorithm, gradient flow, or gradient descent on repeated data",
                True,
                ("sgd", *SCALED, "gradient-flow", "gradient-descent"),
            ),
            "samples_per_dim": Key("scalar", "alpha = n / d samples", only=_DESCENT, needed=True),
            "ridge": Key("scalar", "lambda of the penalty |W|^2 / 2", only=_DESCENT),
            "batch": Key(
                "choice",
                "selection of the samples of a step; all samples by default",
                False,
                ("bernoulli", "reshuffle", "replacement", "fresh"),
                only=_DESCENT,
            ),
            "batch_fraction": Key("fraction", "fraction of the samples in a batch", only=_DESCENT),
            "temperature": Key("scalar", "temperature T of Langevin noise", only=_DESCENT),
            "dim": Key(
                "count",
                "input dimension d, for batches of the order of d: the map of one step, t = steps",
                only=("sgd",),
            ),
            "loss": Key(
                "loss",
                "squared by default; correlation, logistic, hinge, huber; with sgd cross-entropy; "
                "or a formula in f and y (for several outputs f1, ... and y1, ...)",
                only=("sgd", *SCALED, "gradient-descent"),
            ),
            "constraint": Key(
                "choice",
                "fixed length of every student row (sphere-gradient with sgd only)",
                False,
                ("sphere", "sphere-gradient"),
                only=("sgd", "gradient-flow", "gradient-descent"),
            ),
            "repeat": Key(
                "repeat",
                'repeated use of a sample: {kind = "lookahead", rho}, '
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
        "initial overlaps",
        {
            "kind": Key(
                "choice",
                "random weights, given overlaps, or alignments of a sequence model",
                True,
                ("random", "overlaps", "alignment"),
            ),
            "e": Key("numbers", "positional alignment, one number or L", only=("alignment",)),
            "m": Key("numbers", "semantic alignment, one number or L", only=("alignment",)),
            "radius": Key("positive", "length of the two positional vectors", only=("alignment",)),
            "readout": Key("vector", "p readouts of the student", only=_OVERLAPS),
            "dim": Key("count", "input dimension d", only=("random",), needed=True),
            "seed": Key("seed", "random seed, a whole number", only=("random",), needed=True),
            "normalised": Key("flag", "whether student rows are on the sphere", only=("random",)),
            "Q": Key(
                "blocks",
                "student overlaps, p by p; in each block of a spectrum or cluster",
                only=_OVERLAPS,
                needed=True,
            ),
            "scalars": Key("values", "scalars of a rule by name: {b = 0.5}", only=_OVERLAPS),
            "M": Key("blocks", "overlaps with the teacher, p by k", only=_OVERLAPS, needed=True),
            "P": Key("blocks", "teacher overlaps; the identity by default", only=_OVERLAPS),
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
            "spacing": Key("choice", "spacing of the saved times", False, ("linear", "log")),
            "first": Key("positive", "first saved time after 0, if the spacing is log"),
            "learning_rate": _RATE,
            "batch_size": replace(_RATE, text="schedule of the batch size, as for learning_rate"),
            "weight_decay": replace(_RATE, text="schedule of the decay, as for learning_rate"),
            "events": _EVENTS,
            "samples": Key("count", "gradient descent: points per scramble, a power of two"),
            "scrambles": Key("count", "gradient descent: number of independent scrambles"),
            "seed": Key("seed", "gradient descent: random seed of the scrambles"),
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
            "t_max": Key("positive", "final time; by default that of [solve]"),
            "learning_rate": _RATE,
            "events": replace(_EVENTS, text="one event, as in [solve]"),
        },
    ),
    "escape": Table(
        "escape time",
        {
            "fraction": Key("fraction", "threshold T: the risk falls to (1-T) of its reference"),
            "reference": Key("choice", "reference risk", False, ("start", "plateau")),
            "overlap": Key("positive", "threshold on the largest |M_jr|, instead of the risk"),
            "observable": Key("text", "measure of a rule, used instead of the risk"),
            "threshold": Key("number", "value that the observable crosses, instead of a fraction"),
        },
    ),
    "limits": Table("static limits: what can be learned from a number of samples", _LIMITS),
    "phase": Table(
        "diagram over two parameters",
        {
            "x": Key("axis", "{name, from, to, points, scale = linear or log}", True),
            "y": Key("axis", "as x", True),
            "measure": Key("choice", "quantity shown at each point", True, choices=MEASURES),
            "overlap": _LEARNED,
            "adaptive": Key("flag", "refine a coarse grid only where labels differ"),
            "level": replace(_LEVEL, text="adaptive: threshold of a float measure; 0 by default"),
            "coarse": Key("count", "adaptive: grid steps between coarse points"),
            "store": _STORE,
        },
    ),
    "boundary": Table(
        "curves in two parameters along which a measure changes",
        {
            "x": Key("axis", "{name, from, to, points of the coarse grid, scale}", True),
            "y": Key("axis", "as x", True),
            "measure": Key("choice", "quantity that changes", True, choices=MEASURES),
            "overlap": _LEARNED,
            "level": _LEVEL,
            "tol": Key("positive", "accuracy across the curve, in units of the ranges"),
            "step": Key("fraction", "largest distance of points, in units of the ranges"),
            "store": _STORE,
        },
    ),
    "sweep": Table(
        "measure at all combinations of any number of parameters",
        {
            "axes": Key("axes", "list of {name, from, to, points, scale}", True),
            "measure": Key("choice", "quantity to compute", True, choices=MEASURES),
            "overlap": _LEARNED,
            "store": Key("text", "folder of the results, next to this file", True),
        },
    ),
    "parameters": Table("values of the symbols used above, for example gamma = 0.5"),
}

AXIS: dict[str, Key] = {
    "name": Key("name", "a symbol, learning_rate or label_noise", True),
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
learning_rate = "gamma"       # a symbol: its value is below, or an axis of [phase]

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
