"""What a run says about its learning rate: at or over the largest stable one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

from dmft.equations.equations import Equations
from dmft.model import SGD, Committee, Model


def rate_message(equations: Equations, inputs: Mapping[str, Any]) -> str:
    """Words on a learning rate at which the perfect solution is not stable; empty below it.

    Said of what `dmft.maximal_learning_rate` is known for: flows of one-pass SGD with matched
    committees, orthonormal teachers and unit readouts.
    """
    algorithm = equations.algorithm
    reads = "learning_rate" in equations.parameters and equations.scaling == "high-dimensional"
    overlaps = equations.family == "overlaps"
    if not (reads and overlaps and isinstance(algorithm, SGD)) or equations.is_changed:
        return ""
    if equations.kind == "map" or algorithm.trains_readout or equations.model.inputs is not None:
        return ""
    constants, widths = inputs["constants"], inputs["widths"]
    units = all(np.all(constants[name] == 1.0) for name in ("readout", "teacher_readout"))
    if not (units and np.array_equal(constants["P"], np.eye(widths["k"]))):
        return ""
    rate = inputs["parameters"]["learning_rate"]
    noise = inputs["parameters"].get("label_noise", 0.0)
    limit = _limit(equations.model, algorithm, widths["p"], widths["k"], noise)
    if limit is None or rate < limit:
        return ""
    return (
        f"; learning_rate = {rate:.6g} is at or over the maximal one, {limit:.6g} "
        "(dmft.maximal_learning_rate): the perfect solution is not stable"
    )


def _limit(model: Model, algorithm: SGD, p: int, k: int, noise: float) -> float | None:
    limit = _limit_of_noise(model, algorithm, p, k, noise != 0.0)
    return limit(noise) if callable(limit) else limit


@lru_cache(maxsize=64)
def _limit_of_noise(
    model: Model, algorithm: SGD, p: int, k: int, noisy: bool
) -> Callable[[float], float] | float | None:
    """The limit, where it depends on the label noise as a function for all points of a diagram."""
    if not isinstance(model.teacher, Committee):
        return None
    from dmft.equations.escape.recovery import perfect_limit  # for words, which few runs print

    noise = sp.Symbol("noise", positive=True)
    here = replace(
        model,
        student=replace(model.student, width=p),
        teacher=replace(model.teacher, width=k),
        label_noise=noise if noisy else 0,
    )
    limit = perfect_limit(here, algorithm, exact=False)
    if limit is None or limit.free_symbols - {noise}:
        return None
    if limit.is_number:
        return float(limit)
    function: Callable[[float], float] = sp.lambdify([noise], limit, "math")
    return function
