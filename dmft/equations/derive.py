"""`derive`: from a model and an algorithm to the equations of motion of the overlaps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast, overload

import sympy as sp

from dmft.equations.definitions import Definition, define, live
from dmft.equations.equations import Equations
from dmft.equations.restrict.admissible import check_admissible
from dmft.equations.restrict.regimes import check_repeated, limit, region_of
from dmft.errors import BadParameter
from dmft.model import SGD, GradientFlow, Model, check_isotropic, check_labels, check_unflipped
from dmft.model.algorithm import refuse
from dmft.model.loss import check_one_output
from dmft.model.model import FLIPS_AS_CLUSTERS
from dmft.progress import stage
from dmft.symbolic_lock import in_turn
from dmft.validation import checked

if TYPE_CHECKING:
    from dmft.equations.two_time.descent import DescentEquations
    from dmft.equations.two_time.network import NetworkEquations
    from dmft.model import GradientDescent, Scaling, SequenceModel
    from dmft.model.random_network import RandomNetwork
    from dmft.model.update import VectorRule


@overload
def derive(
    model: Model,
    algorithm: SGD | GradientFlow,
    *,
    dim: int | sp.Expr | None = None,
    scaling: str | Scaling | None = None,
    fluctuations: bool = False,
) -> Equations: ...
@overload
def derive(model: Model, algorithm: GradientDescent) -> DescentEquations: ...
@overload
def derive(model: Model, algorithm: GradientDescent, *, scaling: str) -> DescentEquations: ...
@overload
def derive(model: RandomNetwork) -> NetworkEquations: ...
@checked
@in_turn
@stage("deriving the equations")
def derive(
    model: Model | RandomNetwork | VectorRule,
    algorithm: SGD | GradientFlow | GradientDescent | None = None,
    *,
    dim: int | sp.Expr | None = None,
    scaling: str | Scaling | None = None,
    fluctuations: bool = False,
) -> Equations | DescentEquations | NetworkEquations:
    r"""Derive the equations of motion of the order parameters.

    The equations hold at symbolic widths p (student) and k (teacher). They can be printed, changed
    by `with_term`, `without` and `replace`, compiled by `dmft.build`, and solved by `dmft.solve`.

    Equation    dM/dt = B*,  dQ/dt = B + B^T + gamma/(p n_b) S, where B_jl = E[psi_j h_l],
                B*_jr = E[psi_j h*_r], S_jl = E[psi_j psi_l], psi as in `SGD`; on the sphere
                dM_jr/dt = B*_jr - M_jr Phi_jj / 2, dQ_jl/dt = Phi_jl - Q_jl (Phi_jj + Phi_ll) / 2
                with Phi = B + B^T + gamma/(p n_b) S
    Shapes      Q (p, p) symmetric; M (p, k); P (k, k) constant
    Scaling     t = steps * gamma / (p d); gamma, p, k, n_b fixed as d -> infinity;
                for a map t counts steps, n_b of the order of d or larger
    Valid for   any activation; values of symbols in it are passed to `solve`. Notes describe the
                accuracy
    Source      theory/one_pass A.0, A.1, B.2, C, D.1, D.2; theory/structured_inputs (1)-(6);
                derivations/committee_sgd.py, derivations/large_batches.py

    Parameters
    ----------
    model : Model, RandomNetwork or UpdateField
        Student, teacher and inputs. For a sequence model, which is always on the sphere, the
        variables are its alignments e and m. A rule of vectors (an `UpdateField` with a mapping of
        steps) is passed without an algorithm.
    algorithm : SGD, GradientFlow, GradientDescent or UpdateField, optional
        Training algorithm of a `Model`. An `UpdateField` defines psi explicitly. A `RandomNetwork`
        has no algorithm.
    dim : int or sympy.Symbol, optional
        Input dimension d.

        - For batches of the order of d: the result is the map of one step, for any loss and custom
          rules, with `learning_rate`, `dim` and `batch_size` as run-time values. Repeated use of
          such batches is not supported, because it requires two-time equations.
        - With the mean-field scaling: the components of student rows orthogonal to the teacher have
          the random cosines of this dimension, over which rates are averaged. Without `dim` they
          are orthogonal to each other.
        - With `fluctuations`: the dimension of the stochastic equation, a number or a symbol.
    scaling : str or Scaling, optional
        The limit, which determines the terms that survive as d grows:

        - "high-dimensional" (the default for SGD) keeps all terms;
        - "gradient-flow" omits the quadratic term S; for `GradientDescent` on repeated data it is
          the limit of small steps;
        - "mean-field" omits S for wide students, with the state M (p, k) and Q_perp (p,);
        - "noise-dominated" keeps only S, in a rescaled time;
        - "wide-high-dimensional" is p -> infinity at fixed gamma/p, for quadratic students of one
          teacher unit on the sphere (three state variables).

        A `Scaling` states how the learning rate and the width depend on d, and selects one of these
        limits (`dmft.regimes` plots which).
    fluctuations : bool
        Whether to derive the stochastic equation for batches of order one in `dim` dimensions.

    Returns
    -------
    Equations
        For one pass: `kind` is "ode", "map" (batches of the order of d) or "sde" (with
        `fluctuations`).
    DescentEquations
        For `GradientDescent` on repeated data (kind "two-time").
    NetworkEquations
        For a `RandomNetwork`.

    Raises
    ------
    BadParameter
        For an object that is not an algorithm, an unknown scaling, a `Scaling` without a
        differential equation as its limit, or a symbol whose name the equations use.
    NotClosed
        For the mean-field limit, if an average has neither a closed form nor a table.

    See Also
    --------
    solve : Integrate the equations.
    population_risk : The risk as a function of the same order parameters.
    explain : Every step of the derivation, with numerical checks.

    Notes
    -----
    - Losses, weight decay and clusters of inputs: theory/structured_inputs 2, 3 and 4.
      Readouts: theory/one_pass B.2. Several uses of a sample: theory/batch_reuse D.1.
    - Averages over clusters are closed for polynomials and erf; they are not available for wide
      limits.
    - Averages have closed forms, tables or quadrature nodes, with the errors that
      theory/one_pass A.8 states. `equations.lowered` contains the error bound of each.
    - With `fluctuations` the drift includes terms of order 1/d, except for `Repeat`, steps with
      memory, clusters and rules of vectors (theory/one_pass E.1).

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> erf = dmft.Committee(sp.erf(z / sp.sqrt(2)), width=2)
    >>> sorted(dmft.derive(dmft.Model(erf, erf), dmft.SGD(0.5)).terms["Q"])
    ['interaction', 'label_noise', 'learning', 'sgd_noise']
    >>> steps = dmft.derive(dmft.Model(erf, erf), dmft.SGD(500, batch_size=1000), dim=1000)
    >>> steps.kind, sorted(set(steps.terms["Q"]) - {"learning", "interaction"})
    ('map', ['label_noise', 'population_gradient', 'sgd_noise'])
    >>> noise = dmft.derive(dmft.Model(erf, erf), dmft.SGD(0.5), scaling="noise-dominated")
    >>> noise.terms["M"], sorted(noise.terms["Q"])
    ({}, ['label_noise', 'sgd_noise'])
    """
    if getattr(model, "family", "") == "rule":
        if algorithm is not None or scaling is not None or (dim is not None and not fluctuations):
            raise BadParameter("a rule written with vectors is its own model: dmft.derive(rule)")
        return rule_equations(cast("VectorRule", model), fluctuations, dim)
    if algorithm is None or getattr(model, "family", "") == "network":
        from dmft.equations.two_time.network import derive_network

        if any(y is not None for y in (algorithm, dim, scaling)) or fluctuations:
            raise BadParameter("a random network has no algorithm: call dmft.derive(network)")
        return derive_network(model)
    model = cast("Model", model)
    if model.reads_sequences:
        refuse(algorithm, "sequence")
        if scaling not in (None, "high-dimensional") or (dim is not None and not fluctuations):
            raise BadParameter(
                "scalings, and maps in dim dimensions, require committees; sequence models have "
                "the ode of d -> infinity at fixed gamma (dmft.GradientFlow drops the noise), and "
                "with fluctuations=True the sde in dim dimensions"
            )
        sequences = cast("SequenceModel", model)
        found = sequence_equations(sequences, algorithm)
        if not fluctuations:
            return found
        from dmft.equations.sequence.fluctuations import sequence_noise

        fluctuating = sequence_noise(sequences, found.algorithm, dim)
        return replace(found, kind="sde", dim=fluctuating.dim, noise=fluctuating)
    check_admissible(model)
    if model.draws_labels or model.outputs > 1:
        check_drawn(model, algorithm, dim, scaling, fluctuations)
    if not algorithm.one_pass:
        return two_time_equations(model, algorithm, (dim, scaling, fluctuations or None))
    name = region_of(algorithm, scaling)
    if not algorithm.is_flow:
        check_repeated(model, algorithm, name, dim, fluctuations)
    if fluctuations or dim is not None:
        check_isotropic(model, "fluctuations, and maps in dim dimensions, are derived")
        refuse(algorithm, "noise" if fluctuations else "map")
    if fluctuations:
        from dmft.equations.noise.fluctuations import noise_of

        noise = noise_of(model, algorithm, dim)
        if name != "high-dimensional":
            raise BadParameter(
                "fluctuations exist only in the high-dimensional scaling; leave scaling= out"
            )
        equations = limit(model, algorithm, scaling)
        return replace(equations, kind="sde", dim=noise.dim, noise=noise)
    if dim is None:
        return limit(model, algorithm, scaling, None)
    from dmft.equations.noise.record import as_dimension

    size = as_dimension(dim)
    if name == "mean-field":
        return limit(model, algorithm, scaling, size)
    return step_equations(model, algorithm, size, scaling)


def check_drawn(
    model: Model, algorithm: Any, dim: Any, scaling: str | Scaling | None, fluctuations: bool
) -> None:
    """Refuse what is not derived for labels that are drawn about their mean, and for classes."""
    known = ("high-dimensional", "gradient-flow")
    signs = model.outputs > 1 and getattr(algorithm, "scale", None) == "sign"
    plain = algorithm.one_pass and (algorithm.is_plain or signs)
    if not plain or dim is not None or fluctuations or scaling not in (None, *known):
        check_labels(
            model,
            "repeated data, other updates than the gradient of a fresh sample, maps, fluctuations "
            "and wide limits are derived",
        )
    if model.outputs > 1:
        from dmft.equations.update.outputs import check_loss

        check_loss(model, algorithm)


def sequence_equations(model: SequenceModel, algorithm: Any) -> Equations:
    """Equations of the alignments, of the squared loss or of the norm itself."""
    check_one_output(algorithm.loss)
    from dmft.equations.sequence.equations import derive_norm, derive_sequence

    if algorithm.loss == "frobenius":
        return derive_norm(model, algorithm)
    return derive_sequence(model, algorithm)


def rule_equations(rule: VectorRule, fluctuations: bool, dim: Any) -> Equations:
    r"""Equations of the overlaps and scalars of a rule that is written with vectors.

    Equation    dG_ji/dt = sum_a <psi_ja lambda^a_i> + sum_l <Phi_jl> G_li + (j <-> i if i moves)
                + (g/n_b) sum_ab cov_ab <scale_a scale_b psi_ja psi_ib> if i moves,
                dtheta/dt = <chi>
                with `fluctuations` their covariance at order 1/d
    Scaling     t = steps g / d, d -> infinity at fixed g
    Source      theory/update_rules (4)
    """
    from dmft.equations.rules.nodes import without_kinks
    from dmft.equations.rules.rates import Rates, rule_noise

    rates = Rates(rule)
    definitions = [define(target, terms, "rate") for target, terms in rates.all_terms.items()]
    for name, measure in rule.measures:
        value = rates.moments(measure)
        definitions.append(define(sp.Symbol(name, real=True), {"measure": value}, "observable"))
    whole: list[Definition] = [*rates.moments.definitions, *rates.growths, *definitions]
    noise = rule_noise(rule, dim) if fluctuations else None
    if noise:  # the averages share the nodes of the increments, whose axes are not split
        whole = [without_kinks(one) for one in whole]
    return Equations(
        kind="sde" if noise else "ode",
        definitions=live(whole),
        model=cast("Model", rule),
        algorithm=rule,
        scaling="high-dimensional",
        time_unit="t = steps * learning_rate / d",
        dim=noise.dim if noise else None,
        noise=noise,
    )


def two_time_equations(
    model: Model, algorithm: GradientDescent, others: tuple[Any, ...]
) -> DescentEquations:
    """Equations of descent on repeated data, of finite steps or of their limit."""
    check_isotropic(model, "repeated data are derived")
    check_unflipped(model, "repeated data are derived", FLIPS_AS_CLUSTERS)
    mixture = model.clusters
    if mixture is not None and not mixture.isotropic:
        raise BadParameter(
            f"repeated data are derived for clusters of unit variance, got {model.inputs}; leave "
            "scales out, or use dmft.SGD"
        )
    from dmft.equations.two_time.descent import derive_descent, derive_flow

    if others == (None, "gradient-flow", None):
        return derive_flow(model, algorithm)
    if any(y is not None for y in others):
        raise BadParameter(
            "dim, scaling and fluctuations apply to one-pass algorithms; gradient descent on "
            "repeated data is derived as d -> infinity at n = samples_per_dim * d, and with "
            'scaling="gradient-flow" as learning_rate -> 0'
        )
    return derive_descent(model, algorithm)


def step_equations(
    model: Model, algorithm: SGD | GradientFlow, dim: sp.Expr | None, scaling: str | Scaling | None
) -> Equations:
    """Map of the overlaps under steps of large batches."""
    refuse(algorithm, "map")
    if algorithm.is_flow:
        raise BadParameter("a map in finite dimension requires SGD; gradient flow has no steps")
    if scaling is not None:
        raise BadParameter(f"scaling = {scaling!r} applies only to odes: leave it out with dim=")
    if algorithm.batch_size == 1:
        raise BadParameter(
            "batch_size = 1 is not of the order of the dimension: leave dim out for the ode "
            "in t = steps * gamma / (p d), or pass fluctuations=True"
        )
    from dmft.equations.steps import step_definitions

    equations = Equations(
        kind="map",
        definitions=live(step_definitions(model, algorithm)),
        model=model,
        algorithm=algorithm,
        scaling="large batches",
        time_unit="t = steps; n_b of the order of d or larger and eta = gamma / d of order one",
        dim=dim,
    )
    _ = equations.parameters
    return equations
