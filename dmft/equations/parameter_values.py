"""From declared models, starts and keyword parameters to the numbers that equations need."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.equations import symbols as x
from dmft.equations.update.program import is_linear
from dmft.errors import BadParameter, ShapeMismatch
from dmft.model import (
    DIM_NAME,
    SGD,
    GradientFlow,
    Model,
    Overlaps,
    UpdateRule,
    as_count,
    check_readout,
)
from dmft.model.algorithm import numbers_of
from dmft.model.hyperparameters import OPTIMISER
from dmft.names import BLOCK
from dmft.validation import shown

if TYPE_CHECKING:
    from dmft.gaussian.nodes.rules import NodeRule

# Parameters are passed by keyword, beside the keywords of the verbs and the blocks of the state.
RESERVED = frozenset(
    {"Q", "M", "P", "Omega", "readout", "teacher_readout", "risk", "p", "k", "t"}
    | {"learning_rate", "label_noise", "label_flip", "readout_rate", "batch_size", *OPTIMISER}
    | {"dim", "seeds", "self", "system", "start", "t_max"}
    | {"method", "rtol", "atol", "save_at", "events", "progress", "max_steps", "timeout"}
    | {"fraction", "reference", "overlap", "root", "normal", "weight", "lambda_at"}
    | {"S", "S_near", "S_closed", "mixture", "terms"}
    | {"paths", "dt", "threads", "bridge", "increments", "substeps", "keep_paths"}
    | {"nodes", "replicas", "seed", "quadrature_tol"}
    | {index.name for index in x.AXES}  # would read like an index in print
)


# Names of widths, indices and averages of networks.
OF_NETWORKS = frozenset({"p", "k", "S", *(index.name for index in x.AXES)})

# Arrays whose entries `Equations.explicit`, events and print call Q_11, M_12, a_1.
ENTRY = re.compile(
    r"(?:block_)?(Q|M|P|velocity(?:_[QM])?|readout|teacher_readout|a|a_star)_?"
    r"(?:([1-9]+)|\[([\d, ]+)\])"
)
LETTERS_OF_ARRAYS = {"a": "readout", "a_star": "teacher_readout"}


def entry_named(name: str) -> str:
    """The entry of an array that a name reads like, as ``Q[1, 1]``; empty if none."""
    found = ENTRY.fullmatch(name)
    if found is None:
        return ""
    base = LETTERS_OF_ARRAYS.get(found[1], found[1])
    return f"{base}[{', '.join(found[2] or found[3].split(','))}]"


@dataclass(frozen=True)
class Values:
    """Widths, scalar parameters and constant arrays of one run."""

    widths: dict[str, int]
    scalars: dict[str, float]
    arrays: dict[str, NDArray[np.float64]]


def declared_parameters(
    model: Model, algorithm: SGD | GradientFlow | None, dim: sp.Expr | None = None
) -> dict[str, sp.Expr]:
    """Named parameters of a declaration and their values, expressions in the user's symbols.

    A symbol that is itself a parameter (of an activation, say) stands for itself.
    """
    if dim is not None and any(s.name == DIM_NAME for s in model.parameters):
        raise BadParameter("the symbol d is the input dimension here; rename the model's symbol")
    # Rules have neither widths nor indices.
    own = RESERVED - OF_NETWORKS if model.family == "rule" else RESERVED
    for symbol in model.parameters:
        if symbol.name in own:
            raise BadParameter(
                f"the symbol {symbol} is reserved by the equations; rename it, for example to "
                f"{symbol}_0"
            )
        if symbol.name[0] in "QMP" and (entry := entry_named(symbol.name)):
            raise BadParameter(f"the symbol {symbol} is printed like overlap {entry}; rename it")
        if not symbol.name.isprintable():
            raise BadParameter(f"the symbol {symbol.name!r} has no printable name; rename it")
    declared: dict[str, sp.Expr] = {s.name: s for s in sorted(model.parameters, key=str)}
    declared["label_noise"] = model.label_noise
    if model.flips:
        declared["label_flip"] = model.label_flip
    stepped = None if algorithm is None or algorithm.is_flow else algorithm
    if stepped is not None:
        declared["learning_rate"] = stepped.learning_rate
        if stepped.trains_readout:
            declared["readout_rate"] = stepped.readout_rate
    declared |= numbers_of(algorithm)
    if stepped is not None and _has_sample(stepped):
        declare_sample(model, stepped.rule, declared)
    if dim is not None and stepped is not None:
        declared["batch_size"] = sp.sympify(stepped.batch_size, strict=True)
    if dim is not None:
        declared["dim"] = dim
    return declared


def _has_sample(algorithm: SGD) -> bool:
    """Whether averages are over the fields of one sample; the norm as a loss has sequences."""
    if algorithm.loss == "frobenius":
        return False
    return not is_linear(algorithm)


def declare_sample(model: Model, rule: UpdateRule, declared: dict[str, sp.Expr]) -> None:
    """Parameters of an update; names of the fields of a sample may not be those of a model."""
    names = {s.name for s in x.OF_A_SAMPLE} | set(rule.scalars)
    for symbol in model.parameters:
        if symbol.name in names:
            raise BadParameter(
                f"the symbol {symbol} is one of the fields of a sample here; rename it, for "
                f"example to {symbol}_m"
            )
    taken = sorted(set(rule.scalars) & (RESERVED | set(declared)))
    if taken:
        raise BadParameter(f"{rule!r}: the name of the scalar {taken[0]!r} is taken; rename it")
    declared |= rule.scalars
    if model.label_noise.is_zero:  # no noise is averaged over: declare it to have it
        del declared["label_noise"]


def run_parameters(
    model: Model, parameters: Mapping[str, sp.Expr], given: Mapping[str, float]
) -> dict[str, float | None]:
    """Names and values of what a run takes: letters, and declared numbers by their own names.

    Exports and the explorer read this table, so that they take what `dmft.solve` takes; None where
    neither the declared `parameters` nor `given` has a number. A parameter that is declared as an
    expression in letters is not in it: it follows from them.
    """
    found: dict[str, float | None] = {}
    for name, value in parameters.items():
        if not value.free_symbols:
            found[name] = float(value)
        elif name in given or name == "dim":
            found[name] = None
        else:
            letters = sorted({s.name for s in value.free_symbols} - {DIM_NAME})
            found = dict.fromkeys(letters) | found
    found = dict.fromkeys(sorted(s.name for s in model.parameters)) | found
    return found | {name: float(value) for name, value in given.items() if name in found}


def stand_alone(names: Iterable[str], model: Model, declared: Mapping[str, sp.Expr]) -> bool:
    """Whether nothing else that is declared, readouts included, changes with these parameters."""
    chosen = set(names)
    others = [value for name, value in declared.items() if name not in chosen]
    for network in (model.student, model.teacher):
        others += getattr(network, "readout", None) or ()  # those of sequences have none
    read = {symbol.name for value in others for symbol in value.free_symbols}
    return chosen <= set(declared) and not read & chosen


# Values below these are refused.
LOWEST = {"learning_rate": 0.0, "label_noise": 0.0, "readout_rate": 0.0, "rho": 0.0}
LOWEST |= {"ridge": 0.0, "temperature": 0.0, "samples_per_dim": 0.0} | dict.fromkeys(OPTIMISER, 0.0)
LOWEST |= {"dim": 1.0, "batch_size": 1.0, "label_flip": 0.0}


def resolve_scalars(
    declared: Mapping[str, sp.Expr], needed: Iterable[str], given: Mapping[str, object]
) -> tuple[dict[str, float], dict[sp.Symbol, float]]:
    """Numbers for every needed parameter, and for every symbol that was given."""
    free = _free(declared)
    unknown = sorted(set(given) - set(declared) - set(free)) if given else ()
    if unknown:
        from dmft.aliases import whose

        known = sorted(set(declared) | set(free))
        declared_first = "; it is a keyword of dmft.SGD, declared before derive"
        hint = declared_first if hasattr(SGD, unknown[0]) else whose(unknown[0], known)
        raise BadParameter(f"unknown parameter {unknown[0]!r}; this model has {known}{hint}")
    numbers = {name: check_number(value, name) for name, value in given.items()}
    if "dim" in declared and DIM_NAME not in numbers:
        size = numbers.get("dim", declared["dim"])
        for symbol in free.get(DIM_NAME, ()):
            declared = {name: value.subs(symbol, size) for name, value in declared.items()}
    symbols = {s: value for name, value in numbers.items() for s in free.get(name, ())}
    scalars = {}
    for name in needed:
        if name in numbers:
            scalars[name] = numbers[name]
            continue
        number = _number_of(declared[name], symbols)
        if isinstance(number, sp.Expr):
            from dmft.emit.quantities import KNOWN, ONLY_RATES  # which runs need not load

            names = sorted(map(str, number.free_symbols))
            missing = ONLY_RATES if KNOWN.keys() & {*names} else f"pass {'=..., '.join(names)}=..."
            raise BadParameter(f"no value for {', '.join(sorted({*names, name}))}; {missing}")
        scalars[name] = number
    check_bounds(scalars)
    return scalars, symbols


def _free(declared: Mapping[str, sp.Expr]) -> Mapping[str, set[sp.Symbol]]:
    """Symbols of declared values by name: those of one name are one parameter."""
    free: dict[str, set[sp.Symbol]] = {}
    for value in declared.values():
        for symbol in _symbols_of(value):
            free.setdefault(symbol.name, set()).add(symbol)
    return free


# Symbols of declared values, or their number, by identity: runs ask again and again, and to hash a
# number of SymPy takes as long as what is asked.
_KNOWN: dict[int, tuple[sp.Expr, frozenset[sp.Symbol], float]] = {}
MOST_KNOWN = 1024


def _known(value: sp.Expr) -> tuple[sp.Expr, frozenset[sp.Symbol], float]:
    """A declared value, its symbols, and its number where it has none."""
    found = _KNOWN.get(id(value))
    if found is None or found[0] is not value:
        symbols = frozenset(value.free_symbols)
        found = value, symbols, float("nan") if symbols else float(value)
        if len(_KNOWN) > MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[id(value)] = found
    return found


def _symbols_of(value: sp.Expr) -> frozenset[sp.Symbol]:
    return _known(value)[1]


def _number_of(value: sp.Expr, symbols: Mapping[sp.Symbol, float]) -> float | sp.Expr:
    """Number of a declared value at these values of its symbols; what is left where some miss."""
    if not _symbols_of(value):
        return _known(value)[2]
    if value in symbols:  # a symbol itself
        return symbols[value]
    left = value.subs(symbols)
    return left if left.free_symbols else float(left)


def check_bounds(scalars: Mapping[str, float]) -> None:
    """Refuse values that their name does not allow."""
    for name, value in scalars.items():
        if name in LOWEST and value < LOWEST[name]:
            raise BadParameter(f"{name} must be at least {LOWEST[name]}, got {value!r}")
        if name in OPTIMISER and not value < OPTIMISER[name].below:
            raise BadParameter(f"{name} must be below {OPTIMISER[name].below:g}, got {value!r}")
    if scalars.get("label_flip", 0.0) > 1.0:
        raise BadParameter(
            f"label_flip is a probability: it must lie in [0, 1], got {scalars['label_flip']!r}"
        )


def numeric_width(given: int | None, declared: sp.Expr, name: str) -> int:
    """A width that is given, or that of the model."""
    if given is not None:
        return as_count(given, name)
    if not declared.is_Integer:
        raise BadParameter(
            f"the model has a symbolic width {declared}; pass {name}=..., or print latex() and "
            "str(...), which support any width"
        )
    return int(declared)


def unrolled_at(
    model: Model,
    width: int | None,
    teacher_width: int | None,
    readouts: Mapping[str, Any],
    trained: bool = False,
) -> tuple[dict[str, int], dict[str, Any]]:
    """Widths of scalar equations; readouts, None for symbols and a text for declared ones."""
    p = numeric_width(width, model.student.width, "width")
    k = numeric_width(teacher_width, model.teacher.width, "teacher_width")
    declared = {
        "readout": None if trained else model.student.readout or (sp.Integer(1),) * p,
        "teacher_readout": model.teacher.readout or (sp.Integer(1),) * k,
    }
    fixed = {n: declared[n] if isinstance(y, str) else y for n, y in readouts.items()}
    return {"p": p, "k": k}, fixed


def check_number(value: object, name: str) -> float:
    """A finite number, or a refusal that names the parameter."""
    try:
        if isinstance(value, bool | np.bool_ | str):
            raise TypeError("no number")
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        from dmft.emit.quantities import ONLY_RATES

        hint = f"; {ONLY_RATES}" * bool(getattr(value, "free_symbols", isinstance(value, str)))
        raise BadParameter(f"{name} must be a number, got {shown(value)}{hint}") from error
    if not math.isfinite(number):
        raise BadParameter(f"{name} must be finite, got {value!r}")
    return number


def check_widths(model: Model, start: Overlaps) -> None:
    """Refuse a start whose widths are not those of the model."""
    if not isinstance(start, Overlaps):
        raise BadParameter(f"start must be a dmft.Overlaps, got {type(start).__name__}")
    for network, width, name in (
        (model.student, start.p, "student"),
        (model.teacher, start.k, "teacher"),
    ):
        if network.width.is_Integer and int(network.width) != width:
            raise ShapeMismatch(
                f"start has {name} width {width}, the model declares {network.width}"
            )
    if start.blocks != model.blocks:
        wanted = (
            f"a leading axis of {model.blocks} blocks, as in {model.inputs}"
            if model.blocks
            else "no axis of blocks: the inputs of this model have no spectrum"
        )
        raise ShapeMismatch(f"M has shape {start.M.shape}, expected {wanted}")


def resolve(
    model: Model,
    algorithm: SGD | GradientFlow | None,
    needed: Iterable[str],
    start: Overlaps,
    given: Mapping[str, object],
    declared: Mapping[str, sp.Expr] | None = None,
) -> Values:
    """Check a start against its model and collect all numbers of a run."""
    check_widths(model, start)
    if algorithm is not None and algorithm.on_sphere:
        check_lengths(start)
    if declared is None:
        declared = declared_parameters(model, algorithm)
    scalars, symbols = resolve_scalars(declared, needed, given)
    arrays = {"P": start.P, **readout_arrays(model, start, symbols)}
    check_units = getattr(algorithm, "check_units", None)
    if check_units is not None:
        check_units(arrays["readout"])
    widths = {"p": start.p, "k": start.k}
    return Values(
        widths | ({"outputs": model.outputs} if model.outputs > 1 else {}), scalars, arrays
    )


def seen_by(model: Model, start: Overlaps) -> Overlaps:
    """Overlaps as the fields see them, of clusters in the mean over them."""
    if model.spectrum is not None:
        return model.spectrum.seen(start)
    if start.blocks is None:
        return start
    Q, M, P = (gram.sum(axis=0) for gram in (start.Q, start.M, start.P))
    return Overlaps(Q, M, P, scalars=start.scalars)


def by_block(model: Model, values: Values, own: Mapping[str, NDArray[np.float64]]) -> Values:
    """Values with the numbers of the blocks of the inputs; P is that by block."""
    spectrum, mixture = model.spectrum, model.clusters
    assert spectrum is not None
    widths = {**values.widths, "blocks": spectrum.blocks}
    arrays = {f"{BLOCK}P" if n == "P" else n: value for n, value in values.arrays.items()}
    arrays |= {"eigenvalue": spectrum.eigenvalues, **own}
    if mixture is not None:
        widths["clusters"] = len(mixture.scales)
        arrays |= {"cluster_scale": mixture.scales, "block_fraction": spectrum.fractions}
    return replace(values, widths=widths, arrays=arrays)


def check_lengths(start: Overlaps) -> None:
    """Refuse a start off the sphere."""
    lengths = np.diag(start.Q)
    if np.max(np.abs(lengths - 1.0)) > SPHERE_TOLERANCE:
        raise BadParameter(
            f"the sphere constraint requires Q_jj = 1, but the start has {lengths.tolist()}; "
            "use random_overlaps(..., normalised=True) or rescale the rows"
        )


def readout_arrays(
    model: Model, start: Overlaps, symbols: Mapping[sp.Symbol, float]
) -> dict[str, NDArray[np.float64]]:
    """Readouts of both networks; a start may hold those of the student."""
    given = start.readout
    check_readout(model, start)
    several = model.outputs > 1
    if given is not None:
        student = given
    elif several:
        student = np.array([_readout(row, start.p, symbols) for row in model.student.rows])
    else:
        student = _readout(model.student.readout, start.p, symbols)
    # The outputs of a teacher tell classes alone, and are written out.
    teacher = _readout(None if several else model.teacher.readout, start.k, symbols)
    return {"readout": student, "teacher_readout": teacher}


# Keywords that choose the nodes of averages without closed form.
NODE_OPTIONS = ("nodes", "replicas", "seed")


def with_nodes(values: Values, rule: NodeRule) -> Values:
    """Values with the arrays of a rule."""
    arrays = rule.arrays
    sizes = {"N": len(arrays["normal"]), **rule.widths}
    return replace(values, widths={**values.widths, **sizes}, arrays={**values.arrays, **arrays})


# Overlaps follow the map as long as the variance that sampling adds to them, per step and over the
# time in which they change by order one, stays below this (in units of the increments' covariance).
LARGEST_SPREAD = 0.1


def check_concentration(scalars: Mapping[str, float], width: int) -> None:
    """Refuse batches so small that overlaps do not concentrate on the map (theory/one_pass E.1)."""
    step = scalars["learning_rate"] / (width * scalars["dim"])
    spread = max(step, step**2) / scalars["batch_size"]
    if spread > LARGEST_SPREAD:
        raise BadParameter(
            f"batch_size = {scalars['batch_size']:g} is too small for the map at learning_rate/"
            f"(p dim) = {step:.3g}: sampling moves the overlaps by sqrt({spread:.3g}), so they do "
            f"not concentrate. Use batch_size >= {max(step, step**2) / LARGEST_SPREAD:.3g}, a "
            'smaller learning_rate, or dmft.simulate(method="overlaps"), which is exact'
        )


# A start on the sphere may carry the rounding of its own normalisation, not more.
SPHERE_TOLERANCE = 1e-9


def _readout(
    readout: tuple[sp.Expr, ...] | None, width: int, symbols: Mapping[sp.Symbol, float]
) -> NDArray[np.float64]:
    if readout is None:
        return np.ones(width)
    values = [_number_of(a, symbols) for a in readout]
    for a in values:
        if isinstance(a, sp.Expr):
            missing = ", ".join(sorted(f"{s}=..." for s in a.free_symbols))
            raise BadParameter(f"readout {a} has no value yet; pass {missing}")
    return np.array(values)
