r"""Scalings: which named terms of the equations survive as d grows (theory/one_pass B.3).

The drift has the weight 1, the quadratic term gamma/(p n_b). What has the largest power of d stays;
where that is the quadratic term, time is counted in t' = t gamma/(p n_b), in which its weight is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.definitions import Definition, live
from dmft.equations.equations import Equations
from dmft.equations.update.optimiser import clock_in_words, step_size
from dmft.equations.update.program import check_linear, depends_on_length
from dmft.equations.update.rates import definitions
from dmft.errors import BadParameter, NotClosed
from dmft.model import SGD, GradientFlow, Model, check_identity, check_isotropic
from dmft.model.algorithm import refuse

if TYPE_CHECKING:
    from dmft.model import Scaling

TIME_UNITS = {
    "high-dimensional": "t = steps * gamma / (p d); gamma, p, k of order one as d -> infinity",
    "gradient-flow": "t = steps * gamma / (p d) as gamma / p -> 0",
    "mean-field": "t = steps * gamma / (p d) as gamma / p -> 0 and p -> infinity",
    "wide-high-dimensional": "t = steps * gamma / (p d) as p -> infinity at fixed gamma / p",
    "noise-dominated": "t' = steps * (gamma / p)^2 / (n_b d), that is t' = t gamma / (p n_b), as "
    "gamma / (p n_b) -> infinity and (gamma / p)^2 / (n_b d) -> 0",
}
QUADRATIC = ("sgd_noise", "label_noise")
# Terms that follow from the others, whatever their weight.
FOLLOWING = ("free", "sphere")
FLOWS = ("gradient-flow", "mean-field")
# Limits in which one sample moves its own fields by a finite amount.
DISPLACED_LIMITS = ("high-dimensional", "gradient-flow")


def region_of(algorithm: SGD | GradientFlow, scaling: str | Scaling | None) -> str:
    """Name of the limit that a scaling declares for an algorithm."""
    if scaling is None:
        return "gradient-flow" if algorithm.is_flow else "high-dimensional"
    name = scaling if isinstance(scaling, str) else scaling.region
    if name not in TIME_UNITS:
        raise BadParameter(
            f"scaling {scaling!r} is unknown; choose one of {list(TIME_UNITS)} or declare powers "
            "of d with dmft.Scaling(learning_rate=..., width=..., batch_size=...)"
        )
    if algorithm.is_flow and name not in FLOWS:
        raise BadParameter(
            f"scaling {name!r} does not fit GradientFlow, which has no steps and no noise; choose "
            f"one of {list(FLOWS)}, or SGD"
        )
    return name


def check_repeated(
    model: Model, algorithm: SGD, region: str, dim: int | sp.Expr | None, fluctuations: bool
) -> None:
    """Refuse limits for which there is no derivation where a sample moves its own fields."""
    if not depends_on_length(model, algorithm):
        return
    # Each sample is displaced along its own gradient, whatever the batch: that is a map.
    if dim is not None and not fluctuations and algorithm.rule.passes > 1:
        raise BadParameter(
            f"maps of large batches are not derived with {described(algorithm)}: passes over "
            "one batch of the order of d are correlated and require two-time equations. Leave "
            "dim out for the ode of small batches, pass fluctuations=True, or use "
            'dmft.simulate(..., method="weights")'
        )
    once = algorithm.rule.passes > 1
    if region not in DISPLACED_LIMITS[: 1 if once else 2]:
        why = "as gamma vanishes every pass sees the same fields: it is SGD" if once else ""
        raise BadParameter(
            f"scaling {region!r} is not derived with {described(algorithm)}"
            + (f" ({why})" if why and region == "gradient-flow" else "")
            + "; leave scaling out"
        )


def described(algorithm: SGD) -> str:
    """Which update an algorithm has, in a message."""
    return repr(algorithm) if algorithm.repeat is None else f"repeat = {algorithm.repeat}"


def time_unit(name: str, scaling: str | Scaling | None) -> str:
    """What one unit of t is, in words, with the powers of d where they were declared."""
    text = TIME_UNITS[name]
    if not (scaling is None or isinstance(scaling, str)):
        text += f"; under {scaling} a step is of order d^({scaling.step_power})"
    return text


def limit(
    model: Model,
    algorithm: SGD | GradientFlow,
    scaling: str | Scaling | None,
    dim: sp.Expr | None = None,
) -> Equations:
    """Equations of motion of one scaling; `dim` only for the mean field, whose cosines it gives."""
    name = region_of(algorithm, scaling)
    if not algorithm.is_flow and not isinstance(algorithm.batch_size, int):
        raise BadParameter(
            f"batch_size = {algorithm.batch_size} grows with the dimension: pass dim=..., which "
            "gives the map of such steps"
        )
    unit = clock_in_words(algorithm, time_unit(name, scaling))
    if name not in ("high-dimensional", "gradient-flow"):
        refuse(algorithm, "noise")
    if name in ("mean-field", "wide-high-dimensional"):
        check_linear(algorithm, "wide limits")
        check_identity(model, "wide limits are derived")
    # Loaded where they are asked for: an ode has no use for wide limits.
    if name == "mean-field":
        from dmft.equations.restrict.wide import wide_definitions

        found = wide_definitions(model, algorithm, finite=dim is not None)
    elif name == "wide-high-dimensional":
        from dmft.equations.restrict.aligned import aligned_definitions

        found = aligned_definitions(model, algorithm)
    elif name == "noise-dominated":
        assert not algorithm.is_flow
        check_isotropic(model, "the noise-dominated scaling is derived")
        found = definitions(model, algorithm, True)
        found = noise_dominated(found, step_size(algorithm) / (x.p * algorithm.batch_size))
    else:
        found = definitions(model, algorithm, name not in FLOWS)
    equations = Equations(
        kind="ode",
        definitions=live(found),
        model=model,
        algorithm=algorithm,
        scaling=name,
        time_unit=unit,
        dim=dim,
    )
    if name == "mean-field" and equations.averages:
        raise NotClosed(
            "the wide reduction needs averages with closed forms or tables of one and two fields; "
            f"open is {equations.averages[0]}"
        )
    _ = equations.parameters  # refuses clashing symbols before anything is computed
    return equations


def noise_dominated(found: Sequence[Definition], weight: sp.Expr) -> list[Definition]:
    """Keep the quadratic terms, divided by their weight, and what a constraint makes of them."""
    result = []
    for d in found:
        moves = d.role == "rate" or {name for name, _ in d.terms} & {*QUADRATIC}
        if not moves:
            result.append(d)
            continue
        terms = [
            (name, e / weight if name in QUADRATIC else e)
            for name, e in d.terms
            if name in (*QUADRATIC, *FOLLOWING)
        ]
        result.append(Definition(d.target, tuple(terms), d.role))
    return result
