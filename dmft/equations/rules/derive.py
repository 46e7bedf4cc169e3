"""Equations of motion of a rule that is written with vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import sympy as sp

from dmft.equations.definitions import Definition, define, live
from dmft.equations.equations import Equations
from dmft.equations.rules.fluctuations import rule_noise
from dmft.equations.rules.rates import Rates
from dmft.model.update import VectorRule

if TYPE_CHECKING:
    from dmft.model import Model

CLOCK = "t = steps * learning_rate / d"


def derive_rule(rule: VectorRule, fluctuations: bool = False, dim: Any = None) -> Equations:
    r"""Equations of the overlaps and scalars of a rule.

    Equation    dG_ji/dt = sum_a <psi_ja lambda^a_i> + sum_l <Phi_jl> G_li + (j <-> i if i moves)
                + (g/n_b) sum_ab cov_ab <scale_a scale_b psi_ja psi_ib> if i moves,
                dtheta/dt = <chi>
                with `fluctuations` their covariance at order 1/d
    Scaling     t = steps g / d, d -> infinity at fixed g
    Source      theory/update_rules (4)
    """
    rates = Rates(rule)
    definitions: list[Definition] = []
    for target, terms in rates.all_terms.items():
        definitions.append(define(target, terms, "rate"))
    for name, measure in rule.measures:
        value = rates.moments(measure)
        definitions.append(define(sp.Symbol(name, real=True), {"measure": value}, "observable"))
    whole = (*rates.moments.definitions, *rates.growths, *definitions)
    noise = rule_noise(rule, dim) if fluctuations else None
    return Equations(
        kind="sde" if noise else "ode",
        definitions=live(whole),
        model=cast("Model", rule),
        algorithm=rule,
        scaling="high-dimensional",
        time_unit=CLOCK,
        dim=noise.dim if noise else None,
        noise=noise,
    )
