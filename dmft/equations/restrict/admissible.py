"""Refuse labels and activations that have no mean square, before anything is averaged."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import sympy as sp

from dmft.errors import BadParameter
from dmft.gaussian.derivative import derivative, has_poles
from dmft.model import FIELD, Model

# Points of a standard normal sample at which a function must be real, and radii along which
# g^2 exp(-r^2/2) must have died out.
POINTS, RAYS = 48, 8
RADII = (8.0, 16.0, 32.0)
# Distances from a singular point: the mass of a square within them must vanish with them.
NEAR = (1e-6, 1e-12)
# A function whose square outgrows exp(-r^2/2) by this factor between two radii is not integrable.
GROWN = 1.0
# Bounded and finite for every real argument.
BOUNDED = (sp.erf, sp.erfc, sp.tanh, sp.sin, sp.cos, sp.atan, sp.sign)
STEPS = (sp.floor, sp.ceiling, sp.frac, sp.Mod)


def check_admissible(model: Model) -> None:
    """Refuse a model whose functions are complex, have poles, or outgrow the normal density.

    Functions with free parameters are not checked.
    """
    if model.reads_sequences:
        raise BadParameter(
            "this is defined for committees, not for sequence models; these have population_risk, "
            "derive, solve, simulate, escape_time, maximal_learning_rate"
        )
    _check(model.student.activation, (FIELD,), "the student's activation")
    teacher = model.teacher
    if teacher.activation is not None:
        _check(teacher.activation, (FIELD,), "the teacher's activation")
        return
    clusters = model.label_clusters is not None
    for number, (expr, fields) in enumerate(teacher.functions):
        _check(expr, fields, f"the label of cluster {number}" if clusters else "the target")


@lru_cache(maxsize=256)
def slope_of(activation: sp.Expr) -> sp.Expr:
    """Derivative of a student's activation; refused if a sample has no gradient of finite square.

    A slope like |z|^-1/2 or 1/z, of sqrt|z| or log|z|, has no mean square.
    """
    slope = derivative(activation)
    if slope.has(sp.DiracDelta):
        raise BadParameter(
            f"the student's activation {activation} jumps: its derivative {slope} is not a "
            "function, so that a sample has no gradient; use an activation without jumps such as "
            "erf(10*z), or declare a learning rule by dmft.UpdateField"
        )
    if slope.free_symbols != {FIELD} or not (slope.has(sp.log) or has_poles(slope)):
        return slope
    from dmft.gaussian.nodes.kinks import break_points

    for place in break_points(slope, FIELD, RADII[0]):
        wide, narrow = (
            max(abs(_at(slope, (FIELD,), np.array([place + s * e]))) ** 2 * e for s in (1, -1))
            for e in NEAR
        )
        if not narrow < wide / 2 and narrow != 0:
            raise BadParameter(
                f"the slope of the student's activation {activation} is infinite at z = "
                f"{float(place):.3g} and has no mean square: the noise of the steps is infinite; "
                "use an activation of finite slope"
            )
    return slope


@lru_cache(maxsize=256)
def _check(expr: sp.Expr, fields: tuple[sp.Symbol, ...], what: str) -> None:
    if expr.free_symbols - set(fields) or _is_plain(expr, fields):
        return
    if expr.has(*STEPS):
        step = next(iter(expr.atoms(*STEPS)))
        raise BadParameter(
            f"{what} {expr} contains {step}, which has infinitely many jumps; use Heaviside"
        )
    rng = np.random.default_rng(0)
    points = rng.standard_normal((POINTS, len(fields)))
    for point in points:
        value = _at(expr, fields, point)
        if not (value.is_real and value.is_finite):
            where = ", ".join(f"{z} = {x:.3g}" for z, x in zip(fields, point, strict=True))
            raise BadParameter(f"{what} {expr} is not real and finite: {value} at {where}")
    _check_poles(expr, fields, points, what)
    for ray in points[:RAYS]:
        _check_growth(expr, fields, ray / np.linalg.norm(ray), what)


def _is_plain(expr: sp.Expr, fields: tuple[sp.Symbol, ...]) -> bool:
    """Whether it is a polynomial in the fields and in bounded functions of real polynomials."""
    if expr.is_polynomial(*fields):
        return True
    inner = {
        f: sp.Dummy()
        for f in expr.atoms(*BOUNDED)
        if f.args[0].is_real and f.args[0].is_polynomial(*fields)
    }
    whole = expr.xreplace(inner).is_polynomial(*fields, *inner.values())
    return bool(whole and expr.is_real)


def _check_poles(
    expr: sp.Expr, fields: tuple[sp.Symbol, ...], points: np.ndarray, what: str
) -> None:
    """A base of a negative power that takes both signs has a zero between."""
    opened = expr.replace(sp.tan, lambda u: sp.sin(u) / sp.cos(u))
    for power in sorted(opened.atoms(sp.Pow), key=sp.default_sort_key):
        base, exponent = power.as_base_exp()
        if not (exponent.is_negative and base.has_free(*fields)):
            continue
        values = [_at(base, fields, point) for point in points]
        if any(v < 0 for v in values) and any(v > 0 for v in values):
            raise BadParameter(f"{what} {expr} has a pole where {base} = 0: its square has no mean")


def _check_growth(expr: sp.Expr, fields: tuple[sp.Symbol, ...], ray: np.ndarray, what: str) -> None:
    """Along a ray, log(g^2) - r^2/2 must fall."""
    sizes = []
    for radius in RADII:
        value = abs(_at(expr, fields, radius * ray))
        if value == 0:
            return
        sizes.append(float(2 * sp.log(value) - radius**2 / 2))
    if sizes[-1] > sizes[-2] + GROWN:
        raise BadParameter(
            f"{what} {expr} grows faster than the normal density decays: its square has no mean"
        )


def _at(expr: sp.Expr, fields: tuple[sp.Symbol, ...], point: np.ndarray) -> sp.Expr:
    numbers = {z: sp.Float(float(x), 17) for z, x in zip(fields, point, strict=True)}
    return sp.N(expr.xreplace(numbers))
