r"""Learning rules of papers, written with vectors: rows, views and the step itself.

Rows are ordered as the rule names them: moving rows first, then fixed rows as declared. Time is
steps * learning_rate / d.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy as sp

from dmft.errors import BadParameter
from dmft.laws import Bernoulli, Discrete, Law, Normal, Rademacher
from dmft.model import UpdateField
from dmft.rules import Random, Rows, View, copies, fixed, gram, views

STEP = sp.Heaviside


def sigma(z: sp.Expr) -> sp.Expr:
    """erf(z / sqrt 2)."""
    return sp.erf(z / sp.sqrt(2))


def slope(h: sp.Symbol) -> sp.Expr:
    """Derivative of `sigma` at a field."""
    return sp.diff(sigma(h), h)


def logistic(z: sp.Expr) -> sp.Expr:
    """1 / (1 + exp(-z))."""
    return (1 + sp.tanh(z / 2)) / 2


def _several(name: str, count: int, is_fixed: bool = False) -> list[Any]:
    made = fixed(name, count) if is_fixed else Rows(name, count)
    return [made] if count == 1 else list(made)


def perceptron_rule(kind: str = "perceptron", learning_rate: Any = 1) -> UpdateField:
    r"""Hebb's rule, the perceptron, or AdaTron, of a teacher y = sign(k).

    Equation    psi = sign(k); sign(k) 1(h k < 0); -h 1(h k < 0)
    Scaling     t = steps * learning_rate / d
    Source      [vallet_1989], [biehl_riegler_1994], [anlauf_biehl_1989]

    Parameters
    ----------
    kind : {"hebb", "perceptron", "adatron"}
    learning_rate : float or sympy.Expr

    Examples
    --------
    >>> import dmft
    >>> dmft.literature.perceptron_rule("adatron").fixed
    (B,)
    """
    w, B, x = Rows("w"), fixed("B"), View("x")
    h, k = w @ x, B @ x
    wrong = STEP(-h * k)
    psi = {"hebb": sp.sign(k), "perceptron": sp.sign(k) * wrong, "adatron": -h * wrong}
    if kind not in psi:
        raise BadParameter(f"kind = {kind!r} must be one of {', '.join(psi)}")
    return UpdateField({w: psi[kind] * x}, learning_rate=learning_rate, measures={"error": wrong})


def reinforcement_perceptron(
    decisions: int, reward: Any = 1, penalty: Any = 0, needed: int | None = None,
    learning_rate: Any = 1,
) -> UpdateField:  # fmt: skip
    r"""Perceptron that is rewarded after an episode of decisions.

    Equation    psi_t = sign(h_t) / T (reward if at least `needed` of T are right, else -penalty)
    Scaling     t = steps * learning_rate / d
    Source      [patel_2023]

    Parameters
    ----------
    decisions : int
        Number T of decisions in an episode.
    reward, penalty : float or sympy.Expr
    needed : int, optional
        Number of right decisions that is rewarded; by default all must be right.
    learning_rate : float or sympy.Expr

    Examples
    --------
    >>> import dmft
    >>> len(dmft.literature.reinforcement_perceptron(3).views)
    3
    """
    w, B = Rows("w"), fixed("B")
    x = copies(View("x"), decisions)
    right = [STEP((w @ v) * (B @ v)) for v in x]
    count = decisions if needed is None else needed
    ok = sp.Mul(*right) if count == decisions else STEP(sum(right) - count + sp.Rational(1, 2))
    say = sum(sp.sign(w @ v) * v for v in x) / decisions
    step = (reward * ok - penalty * (1 - ok)) * say
    return UpdateField({w: step}, learning_rate=learning_rate, measures={"reward": ok})


def reinforce(baseline_rate: Any = 1, learning_rate: Any = 1) -> UpdateField:
    r"""REINFORCE with a baseline b: an action a is drawn with the probability logistic(a h).

    Equation    psi = (r - b) a (1 - logistic(a h)), r = 1(a k > 0), db/dt = baseline_rate <r - b>
    Scaling     t = steps * learning_rate / d
    Source      [schmid_murray_2024]

    Parameters
    ----------
    baseline_rate, learning_rate : float or sympy.Expr

    Examples
    --------
    >>> import dmft
    >>> list(dmft.literature.reinforce().learned)
    [b]
    """
    w, B, x, b = Rows("w"), fixed("B"), View("x"), sp.Symbol("b", real=True)
    h, k = w @ x, B @ x
    a = Random("a", Discrete({1: logistic(h), -1: logistic(-h)}))
    r = STEP(a * k)
    return UpdateField(
        {w: (r - b) * a * logistic(-a * h) * x},
        scalars={b: baseline_rate * (r - b)},
        learning_rate=learning_rate,
        measures={"reward": r},
    )


def principal_components(
    spikes: Sequence[Any], kind: str = "sanger", learning_rate: Any = 0.1
) -> UpdateField:
    r"""Oja's subspace rule, Sanger's rule, or a linear autoencoder with tied weights, on spikes.

    Equation    inputs have variance 1 + spikes_r along u_r; psi_j = h_j, Phi_jl = -h_j h_l (Sanger:
                l <= j); autoencoder: psi_j = 2 h_j - sum_l Q_jl h_l
    Scaling     t = steps * learning_rate / d
    Source      [oja_1982], [biehl_schlosser_1998]

    Parameters
    ----------
    spikes : sequence of float or sympy.Expr
        One for each component and row.
    kind : {"oja", "sanger", "autoencoder"}
    learning_rate : float or sympy.Expr

    Examples
    --------
    >>> import dmft
    >>> len(dmft.literature.principal_components([2, 1]).moving)
    2
    """
    if kind not in ("oja", "sanger", "autoencoder"):
        raise BadParameter(f"kind = {kind!r} must be oja, sanger or autoencoder")
    n = len(spikes)
    w, u = _several("w", n), _several("u", n, True)
    c = [Random(f"c{r}", Normal(variance=1 + y)) for r, y in enumerate(spikes)]
    x = View("x", replaces=dict(zip(u, c, strict=True)))
    h = [row @ x for row in w]
    steps = {}
    for j, row in enumerate(w):
        e = x - sum(h[i] * w[i] for i in range(j + 1 if kind == "sanger" else n))
        steps[row] = h[j] * e + ((row @ e) * x if kind == "autoencoder" else 0)
    return UpdateField(steps, learning_rate=learning_rate)


def nonlinear_autoencoder(
    spike: Any, untied: bool = False, learning_rate: Any = 0.1
) -> UpdateField:
    r"""Autoencoder of one erf unit on inputs with a spike, weights tied or not.

    Equation    gradient of |x - v sigma(h) / sqrt d|^2 / 2, v = w if tied
    Scaling     t = steps * learning_rate / d
    Source      [refinetti_goldt_2022]

    Parameters
    ----------
    spike : float or sympy.Expr
        Additional variance along u.
    untied : bool
        Whether the decoder has weights of its own.
    learning_rate : float or sympy.Expr

    Examples
    --------
    >>> import dmft
    >>> dmft.literature.nonlinear_autoencoder(2, untied=True).moving
    (w, v)
    """
    w, u = Rows("w"), fixed("u")
    x = View("x", replaces={u: Random("c", Normal(variance=1 + spike))})
    v = Rows("v") if untied else w
    h = w @ x
    e = x - sigma(h) * v
    encoder, decoder = slope(h) * (v @ e) * x, sigma(h) * e
    steps = {w: encoder, v: decoder} if untied else {w: encoder + decoder}
    return UpdateField(steps, learning_rate=learning_rate)


def denoising_autoencoder(noise: Any, learning_rate: Any = 0.1) -> UpdateField:
    r"""Denoising autoencoder of one tied erf unit with a skip connection b, on two clusters.

    Equation    gradient of |x - b n - w sigma(w.n / sqrt d) / sqrt d|^2 / 2, n = x + sqrt(noise) xi
    Scaling     t = steps * learning_rate / d
    Source      [cui_pehlevan_lu_2025]

    Parameters
    ----------
    noise, learning_rate : float or sympy.Expr

    Examples
    --------
    >>> import dmft
    >>> dmft.literature.denoising_autoencoder(0.5).views
    (x, n)
    """
    w, mu, s = Rows("w"), fixed("mu"), Random("s", Rademacher())
    b = sp.Symbol("b", real=True)
    x, n = views("x n", cov=[[1, 1], [1, 1 + noise]], adds={mu: s})
    h = w @ n
    e = x - b * n - sigma(h) * w
    step = sigma(h) * e + slope(h) * (w @ e) * n
    return UpdateField({w: step}, scalars={b: 1 - b * (1 + noise)}, learning_rate=learning_rate)


def independent_component(
    law: Law, nonlinearity: Any = None, learning_rate: Any = 0.01
) -> UpdateField:
    r"""Independent component analysis of one direction u of the inputs, on the sphere.

    Equation    psi = f(h), x.u = sqrt(d) c with the law of c
    Scaling     t = steps * learning_rate / d
    Source      [ricci_2025]

    Parameters
    ----------
    law : dmft.laws law
        Of variance one.
    nonlinearity : sympy.Expr, optional
        f, in a symbol named z; z^3 by default, -z^3 for latents of negative kurtosis.
    learning_rate : float or sympy.Expr

    Examples
    --------
    >>> import dmft
    >>> dmft.literature.independent_component(dmft.laws.Laplace(0.5**0.5)).constraint
    'sphere'
    """
    w, u = Rows("w"), fixed("u")
    x = View("x", replaces={u: Random("c", law)})
    z = sp.Symbol("z", real=True)
    f = z**3 if nonlinearity is None else sp.sympify(nonlinearity, strict=True)
    psi = f.subs({s: w @ x for s in f.free_symbols if s.name == "z"})
    return UpdateField({w: psi * x}, learning_rate=learning_rate, constraint="sphere")


def mixture_network(
    width: int = 2, separation: Any = 1, readout: Any = 1, learning_rate: Any = 0.1
) -> UpdateField:
    r"""Network of erf units that classifies four clusters with the labels of an exclusive or.

    Equation    x = separation (s mu_1 or s mu_2) / sqrt d + G, y = 1 along mu_1 and -1 along mu_2,
                psi_j = a_j (y - f) sigma'(h_j), f = sum_j a_j sigma(h_j)^2
    Scaling     t = steps * learning_rate / d
    Source      [refinetti_2021b]

    Parameters
    ----------
    width : int
    separation, readout, learning_rate : float or sympy.Expr

    Examples
    --------
    >>> import dmft
    >>> dmft.literature.mixture_network(2).fixed
    (mu1, mu2)
    """
    w, mu = _several("w", width), fixed("mu", 2)
    z, s = Random("z", Bernoulli(sp.Rational(1, 2))), Random("s", Rademacher())
    x = View("x", adds={mu[0]: separation * s * (1 - z), mu[1]: separation * s * z})
    a = [readout * (-1) ** j for j in range(width)]
    h = [row @ x for row in w]
    f = sum(a[j] * h[j] ** 2 for j in range(width))
    e = 1 - 2 * z - f
    steps = {w[j]: 2 * a[j] * h[j] * e * x for j in range(width)}
    return UpdateField(steps, learning_rate=learning_rate, measures={"risk": e**2 / 2})


def dropout(
    readout: Sequence[Any] = (1, 1), keep: Any = 0.5, noise: Any = 0,
    teacher: Sequence[Any] = (1,), learning_rate: Any = 1,
) -> UpdateField:  # fmt: skip
    r"""Dropout in a committee of erf units: each step keeps a random part of the units.

    Equation    psi_j = a_j m_j sigma'(h_j) e, e = sum_r A_r sigma(k_r) + sqrt(noise) xi
                - sum_l a_l m_l sigma(h_l), m_j = 1 with probability keep
    Scaling     t = steps * learning_rate / d
    Source      [mori_mignacco_2025]

    Parameters
    ----------
    readout, teacher : sequence of float or sympy.Expr
        a_j and A_r.
    keep, noise, learning_rate : float or sympy.Expr

    Examples
    --------
    >>> import dmft
    >>> dmft.literature.dropout(keep=0.8, noise=0.1).randoms
    (m0, m1, xi)
    """
    w, B, x = _several("w", len(readout)), _several("B", len(teacher), True), View("x")
    m = [Random(f"m{j}", Bernoulli(keep)) for j in range(len(readout))]
    y = sum(A * sigma(row @ x) for A, row in zip(teacher, B, strict=True))
    tested = y - sum(keep * a * sigma(row @ x) for a, row in zip(readout, w, strict=True))
    e = y - sum(a * m[j] * sigma(w[j] @ x) for j, a in enumerate(readout))
    e += sp.sqrt(noise) * Random("xi", Normal())
    steps = {w[j]: a * m[j] * slope(w[j] @ x) * e * x for j, a in enumerate(readout)}
    return UpdateField(steps, learning_rate=learning_rate, measures={"risk": tested**2 / 2})


def feedback_alignment(
    feedback: Sequence[Any] = (1, 1),
    noise: Any = 0,
    teacher: Sequence[Any] = (1, 1),
    learning_rate: Any = 0.5,
) -> UpdateField:
    r"""Erf units that are trained through fixed feedback weights F, with learned readouts v.

    Equation    psi_j = F_j e sigma'(h_j), dv_j/dt = <e sigma(h_j)>, e = y - sum_j v_j sigma(h_j)
    Scaling     t = steps * learning_rate / d
    Source      [refinetti_2021]

    Parameters
    ----------
    feedback, teacher : sequence of float or sympy.Expr
    noise, learning_rate : float or sympy.Expr

    Examples
    --------
    >>> import dmft
    >>> list(dmft.literature.feedback_alignment().learned)
    [v0, v1]
    """
    n = len(feedback)
    w, B, x = _several("w", n), _several("B", len(teacher), True), View("x")
    v = [sp.Symbol(f"v{j}", real=True) for j in range(n)]
    y = sum(A * sigma(row @ x) for A, row in zip(teacher, B, strict=True))
    gap = y - sum(v[j] * sigma(w[j] @ x) for j in range(n))
    e = gap + sp.sqrt(noise) * Random("xi", Normal())
    return UpdateField(
        {w[j]: feedback[j] * slope(w[j] @ x) * e * x for j in range(n)},
        scalars={v[j]: e * sigma(w[j] @ x) for j in range(n)},
        learning_rate=learning_rate,
        measures={"risk": gap**2 / 2},
    )


def continual_learning(
    replay: Any = 0, width: int = 2, readout_rate: Any = 1, learning_rate: Any = 0.5
) -> UpdateField:
    r"""Two tasks, each with a teacher and a head; `replay` is the fraction of steps on the second.

    Equation    task z = 1 with probability replay; psi_j = v_zj sigma'(h_j) e,
                e = sigma(k_z) - sum_j v_zj sigma(h_j), dv_zj/dt = readout_rate <1(z) e sigma(h_j)>
    Scaling     t = steps * learning_rate / d
    Source      [lee_2021]

    Parameters
    ----------
    replay, readout_rate, learning_rate : float or sympy.Expr
    width : int

    Examples
    --------
    >>> import dmft
    >>> sorted(map(str, dmft.literature.continual_learning().learned))
    ['a0', 'a1', 'b0', 'b1']
    """
    w, B, x = _several("w", width), fixed("B", 2), View("x")
    a, b = ([sp.Symbol(f"{s}{j}", real=True) for j in range(width)] for s in "ab")
    z = Random("z", Bernoulli(replay))
    units = [sigma(row @ x) for row in w]
    gaps = [
        sigma(B[t] @ x) - sum(v * u for v, u in zip((a, b)[t], units, strict=True)) for t in (0, 1)
    ]
    e = [(1 - z) * gaps[0], z * gaps[1]]
    return UpdateField(
        {w[j]: (a[j] * e[0] + b[j] * e[1]) * slope(w[j] @ x) * x for j in range(width)},
        scalars={a[j]: readout_rate * e[0] * units[j] for j in range(width)}
        | {b[j]: readout_rate * e[1] * units[j] for j in range(width)},
        learning_rate=learning_rate,
        measures={"first_risk": gaps[0] ** 2 / 2, "second_risk": gaps[1] ** 2 / 2},
    )


def curriculum(
    easy: Any, hard: Any, share: Any = 0.5, relevant: Any = 0.5, learning_rate: Any = 1
) -> UpdateField:
    r"""Perceptron with irrelevant coordinates, of low variance in easy samples.

    Equation    psi = sign(k) 1(h k < 0); the second block of coordinates, a share 1 - relevant,
                has the variance easy (with probability `share`) or hard
    Scaling     t = steps * learning_rate / d; starts have blocks, and a teacher in the first one
    Source      [saglietti_2021]

    Parameters
    ----------
    easy, hard : float or sympy.Expr
        Variances.
    share, relevant, learning_rate : float or sympy.Expr

    Examples
    --------
    >>> import dmft
    >>> len(dmft.literature.curriculum(0.2, 2.0).fractions)
    2
    """
    w, B, z = Rows("w"), fixed("B"), Random("z", Bernoulli(share))
    scale = z * sp.sqrt(easy) + (1 - z) * sp.sqrt(hard)
    x = View("x", scale=(1, scale), fractions=(relevant, 1 - relevant))
    wrong = STEP(-(w @ x) * (B @ x))
    return UpdateField(
        {w: sp.sign(B @ x) * wrong * x}, learning_rate=learning_rate, measures={"error": wrong}
    )


def adversarial_network(
    law: Law, real_noise: Any = 1, fake_noise: Any = 1, generator_rate: Any = 0.4,
    decay: Any = 0.3, learning_rate: Any = 0.1,
) -> UpdateField:  # fmt: skip
    r"""A linear discriminator w and a generator v of one feature u, with quadratic losses.

    Equation    x = c u / sqrt d + sqrt(real_noise) G, y = c' v / sqrt d + sqrt(fake_noise) G',
                w: psi = (h_x, -h_y), -decay Q_ww w; v: generator_rate c' h_y w - decay Q_vv v
    Scaling     t = steps * learning_rate / d
    Source      [wang_hu_lu_2018]

    Parameters
    ----------
    law : dmft.laws law
        Of c.
    real_noise, fake_noise, generator_rate, decay, learning_rate : float or sympy.Expr

    Examples
    --------
    >>> import dmft
    >>> dmft.literature.adversarial_network(dmft.laws.Rademacher()).moving
    (w, v)
    """
    w, v, u = Rows("w"), Rows("v"), fixed("u")
    c, fake = Random("c", law), Random("c_fake", Normal())
    x = View("x", adds={u: c}, scale=sp.sqrt(real_noise))
    y = View("y", adds={v: fake}, scale=sp.sqrt(fake_noise))
    return UpdateField(
        {
            w: (w @ x) * x - (w @ y) * y - decay * gram(w, w) * w,
            v: generator_rate * fake * (w @ y) * w - decay * gram(v, v) * v,
        },
        learning_rate=learning_rate,
    )


def contrastive(
    correlation: Any, strength: Any, decay: Any = 0, loss: str = "spectral",
    learning_rate: Any = 0.1,
) -> UpdateField:  # fmt: skip
    r"""Contrastive learning of a direction u: two views of one latent, and a negative.

    Equation    psi_a = -dl/dh_a; spectral: l = -h_1 h_2 + h_1^2 h_3^2 / 2; infonce:
                l = log(1 + exp(h_1 h_3 - h_1 h_2)); c = +-sqrt(strength) along u
    Scaling     t = steps * learning_rate / d
    Source      [meng_wang_2024]

    Parameters
    ----------
    correlation : float or sympy.Expr
        Of the noises of the two views.
    strength, decay, learning_rate : float or sympy.Expr
    loss : {"spectral", "infonce"}

    Examples
    --------
    >>> import dmft
    >>> len(dmft.literature.contrastive(0.5, 1.7).views)
    3
    """
    if loss not in ("spectral", "infonce"):
        raise BadParameter(f"loss = {loss!r} must be spectral or infonce")
    w, u = Rows("w"), fixed("u")
    c, other = Random("c", Rademacher()), Random("c_other", Rademacher())
    size = sp.sqrt(strength)
    x, y = views("x y", cov=[[1, correlation], [correlation, 1]], replaces={u: size * c})
    z = View("z", replaces={u: size * other})
    h, k, n = w @ x, w @ y, w @ z
    if loss == "spectral":
        value = -h * k + h**2 * n**2 / 2
        slopes = [sp.diff(value, f) for f in (h, k, n)]
    else:
        p = logistic(h * n - h * k)
        slopes = [p * (n - k), -p * h, p * h]
    step = sum(-s * v for s, v in zip(slopes, (x, y, z), strict=True)) - decay * w
    return UpdateField({w: step}, learning_rate=learning_rate)


def vector_quantisation(
    separation: Any, variances: Sequence[Any] = (1, 1), prior: Any = 0.5, learning_rate: Any = 0.5
) -> UpdateField:
    r"""Learning vector quantisation (LVQ1) of two prototypes on two clusters.

    Equation    the winner has the smallest Q_jj - 2 h_j and moves by +-(x - w_j), + if its class
                is that of the sample
    Scaling     t = steps * learning_rate / d
    Source      [biehl_ghosh_hammer_2007]

    Parameters
    ----------
    separation : float or sympy.Expr
        Length of the means along B.
    variances : (2,) sequence
    prior : float or sympy.Expr
        Share of the first cluster.
    learning_rate : float or sympy.Expr

    Examples
    --------
    >>> import dmft
    >>> dmft.literature.vector_quantisation(1.2).fixed
    (B1, B2)
    """
    w, B, s = Rows("w", 2), fixed("B", 2), Random("s", Bernoulli(1 - prior))
    scale = (1 - s) * sp.sqrt(variances[0]) + s * sp.sqrt(variances[1])
    x = View("x", adds={B[0]: separation * (1 - s), B[1]: separation * s}, scale=scale)
    cost = [gram(row, row) - 2 * (row @ x) for row in w]
    wins = [STEP(cost[1] - cost[0]), STEP(cost[0] - cost[1])]
    way = [1 - 2 * s, 2 * s - 1]
    steps = {w[j]: way[j] * wins[j] * (x - w[j]) for j in (0, 1)}
    return UpdateField(
        steps, learning_rate=learning_rate, measures={"error": (1 - s) * wins[1] + s * wins[0]}
    )


def node_perturbation(outputs: int = 2, size: Any = 0.4, learning_rate: Any = 0.2) -> UpdateField:
    r"""Linear units that follow the change of the loss under random perturbations of their fields.

    Equation    psi_j = -xi_j [l(h + size xi) - l(h)] / size, l = |k - h|^2 / 2
    Scaling     t = steps * learning_rate / d
    Source      [werfel_2005]

    Parameters
    ----------
    outputs : int
    size, learning_rate : float or sympy.Expr

    Examples
    --------
    >>> import dmft
    >>> len(dmft.literature.node_perturbation(3).moving)
    3
    """
    w, B, x = _several("w", outputs), _several("B", outputs, True), View("x")
    xi = [Random(f"xi{j}", Normal()) for j in range(outputs)]
    gaps = [b @ x - row @ x for b, row in zip(B, w, strict=True)]
    change = sum(n**2 * size / 2 - n * g for n, g in zip(xi, gaps, strict=True))
    return UpdateField(
        {w[j]: -change * xi[j] * x for j in range(outputs)},
        learning_rate=learning_rate,
        measures={"risk": sum(g**2 for g in gaps) / 2},
    )


def contrastive_divergence(separation: Any = 1, learning_rate: Any = 0.3) -> UpdateField:
    r"""Contrastive divergence (CD-1) of a Boltzmann machine with one hidden unit and bias b.

    Equation    s = +-1 with <s> = tanh(h + b), x' = s w / sqrt d + G',
                psi = (s, -tanh(h' + b)), db/dt = <s - tanh(h' + b)>
    Scaling     t = steps * learning_rate / d
    Source      [hinton_2002]

    Parameters
    ----------
    separation : float or sympy.Expr
        The inputs are +-separation mu / sqrt d + G.
    learning_rate : float or sympy.Expr

    Examples
    --------
    >>> import dmft
    >>> dmft.literature.contrastive_divergence().views
    (x, y)
    """
    w, mu, b = Rows("w"), fixed("mu"), sp.Symbol("b", real=True)
    x = View("x", adds={mu: separation * Random("c", Rademacher())})
    up = (1 + sp.tanh(w @ x + b)) / 2
    s = Random("s", Discrete({1: up, -1: 1 - up}))
    y = View("y", adds={w: s})
    t = sp.tanh(w @ y + b)
    return UpdateField({w: s * x - t * y}, scalars={b: s - t}, learning_rate=learning_rate)


def equilibrium_propagation(
    nudge: Any = 0.3, sweeps: int = 20, learning_rate: Any = 0.5
) -> UpdateField:
    r"""Equilibrium propagation of one hidden unit s with feedback v from an output o.

    Equation    s = tanh(h + v o), o = (v s + nudge y) / (1 + nudge), y = tanh(k);
                psi = (s_nudged - s_free) / nudge, dv/dt = <s o nudged - s o free> / nudge
    Scaling     t = steps * learning_rate / d
    Source      [scellier_bengio_2017]

    Parameters
    ----------
    nudge, learning_rate : float or sympy.Expr
    sweeps : int
        Iterations of the fixed point.

    Examples
    --------
    >>> import dmft
    >>> list(dmft.literature.equilibrium_propagation(sweeps=3).learned)
    [v]
    """
    w, B, x, v = Rows("w"), fixed("B"), View("x"), sp.Symbol("v", real=True)
    h, y = w @ x, sp.tanh(B @ x)

    def settled(beta: Any) -> tuple[sp.Expr, sp.Expr]:
        s = sp.tanh(h)
        for _ in range(sweeps):
            s = sp.tanh(h + v * (v * s + beta * y) / (1 + beta))
        return s, (v * s + beta * y) / (1 + beta)

    (s, o), (free_s, free_o) = settled(nudge), settled(0)
    return UpdateField(
        {w: (s - free_s) / nudge * x},
        scalars={v: (s * o - free_s * free_o) / nudge},
        learning_rate=learning_rate,
    )


def temporal_difference(
    correlation: Any, discount: Any = 0.9, noise: Any = 0, learning_rate: Any = 0.5
) -> UpdateField:
    r"""TD(0) of a linear value function, with rewards k and correlated features of next states.

    Equation    psi = k + sqrt(noise) xi + discount h' - h along x
    Scaling     t = steps * learning_rate / d
    Source      [bordelon_2023]

    Parameters
    ----------
    correlation : float or sympy.Expr
        Of the features of a state and of the next one.
    discount, noise, learning_rate : float or sympy.Expr

    Examples
    --------
    >>> import dmft
    >>> dmft.literature.temporal_difference(0.5).views
    (x, y)
    """
    w, B = Rows("w"), fixed("B")
    x, y = views("x y", cov=[[1, correlation], [correlation, 1]])
    reward = B @ x + sp.sqrt(noise) * Random("xi", Normal())
    delta = reward + discount * (w @ y) - w @ x
    return UpdateField({w: delta * x}, learning_rate=learning_rate, measures={"loss": delta**2})


def masked_inputs(keep: Any, noise: Any = 0, learning_rate: Any = 0.5) -> UpdateField:
    r"""Linear student that sees each coordinate with probability `keep`.

    Equation    psi = k(x) + sqrt(noise) xi - h(x~) along x~, the masked input, a second view of
                covariance keep with x
    Scaling     t = steps * learning_rate / d
    Source      [mori_mignacco_2025]

    Parameters
    ----------
    keep, noise, learning_rate : float or sympy.Expr

    Examples
    --------
    >>> import dmft
    >>> dmft.literature.masked_inputs(0.6).fixed
    (B,)
    """
    w, B = Rows("w"), fixed("B")
    x, seen = views("x seen", cov=[[1, keep], [keep, keep]])
    e = B @ x + sp.sqrt(noise) * Random("xi", Normal()) - w @ seen
    return UpdateField({w: e * seen}, learning_rate=learning_rate, measures={"risk": e**2 / 2})
