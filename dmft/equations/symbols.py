"""Indices, bases and parameters that every equation is written in.

Students are numbered by j, l = 1..p, teachers by r, s = 1..k, and all local fields
lambda = (h, h*) by i, m, n = 1..p+k; teacher r sits at position p + r.
"""

from __future__ import annotations

from functools import lru_cache

import sympy as sp

from dmft.model.hyperparameters import OPTIMISER, REGISTRY
from dmft.names import BLOCK, KEPT, QUANTITIES

p, k = sp.symbols("p k", integer=True, positive=True)
j, l, r, s, i, m, n = sp.symbols("j l r s i m n", integer=True)  # noqa: E741
# Student indices of sums that stand inside expressions with free j and l.
u, v = sp.symbols("u v", integer=True)
# Nodes of an average that has no closed form, and their number.
node = sp.Symbol("node", integer=True)
nodes = sp.Symbol("nodes", integer=True, positive=True)
# Teacher indices of powers of one overlap; nodes of the cosine of two residuals, and their number.
powers = sp.symbols("s_2 s_3 s_4", integer=True)
angle = sp.Symbol("angle", integer=True)
cosines = sp.Symbol("cosines", integer=True, positive=True)
# Blocks of a spectrum, and their number.
block = sp.Symbol("block", integer=True)
blocks = sp.Symbol("blocks", integer=True, positive=True)
# Outputs of a student of several, and their number.
o = sp.Symbol("o", integer=True)
outputs = sp.Symbol("outputs", integer=True, positive=True)
# Rows that an optimiser keeps beside the weights.
row = sp.Symbol("row", integer=True)
gamma = sp.Symbol("learning_rate", positive=True)
Delta = sp.Symbol("label_noise", nonnegative=True)
flip = sp.Symbol("label_flip", nonnegative=True)
rho_a = sp.Symbol("readout_rate", nonnegative=True)
# Numbers of optimisers (`dmft.model.hyperparameters`).
numbers = {name: sp.Symbol(name, nonnegative=True) for name in OPTIMISER}
# Finite dimension and batch, where the equations hold them.
d = sp.Symbol("dim", positive=True)
n_b = sp.Symbol("batch_size", positive=True)

Q, M, P, Omega = (sp.IndexedBase(name) for name in ("Q", "M", "P", "Omega"))
a, a_star, c = (sp.IndexedBase(name) for name in ("readout", "teacher_readout", "c"))
h, h_star, lam = (sp.IndexedBase(name) for name in ("h", "h_star", "lambda"))
learning, interaction, Phi = (sp.IndexedBase(x) for x in ("b_learning", "b_interaction", "Phi"))
# A step of a large batch: b, its slopes K, the Gram matrix of the population gradients, the parts
# of the step along the weights, the free step and what divides by the new lengths.
b, K, K_star, K_own = map(sp.IndexedBase, ("b", "slopes", "target_slopes", "own_slope"))
gram, radial = sp.IndexedBase("gradient_gram"), sp.IndexedBase("radial")
step_Q, step_M = sp.IndexedBase("step_Q"), sp.IndexedBase("step_M")
inverse_length = sp.IndexedBase("inverse_length")
# Averages on nodes: standard normal points and weights, a root of Omega, the fields at the nodes.
normal, weight, root = (sp.IndexedBase(y) for y in ("normal", "weight", "root"))
lam_at = sp.IndexedBase("lambda_at")
# Quadratic term on nodes, that of its closed-form neighbour on the same nodes and in closed form.
S, S_near, S_closed = (sp.IndexedBase(y) for y in ("S", "S_near", "S_closed"))
# Weights and scales of the sums of error functions of which S_closed is the closed form.
mixture = sp.IndexedBase("mixture")
# Wide networks: Q = M P^+ M^T + the part of the residuals, whose lengths alone are kept.
Q_perp, P_inverse = sp.IndexedBase("Q_perp"), sp.IndexedBase("P_inverse")
abs_perp, root_perp = sp.IndexedBase("abs_perp"), sp.IndexedBase("root_perp")
size, along, parallel = (sp.IndexedBase(y) for y in ("size", "along", "parallel"))
perp_learning, perp_interaction = map(sp.IndexedBase, ("perp_learning", "perp_interaction"))
growth, cosine, cosine_weight = map(sp.IndexedBase, ("growth", "cosine", "cosine_weight"))
# Inputs with a spectrum: eigenvalues, noise factors, unweighted overlaps and fields by block.
eigenvalue, noise_factor = sp.IndexedBase("eigenvalue"), sp.IndexedBase("noise_factor")
Gram, block_h, block_h_star = (sp.IndexedBase(y) for y in ("Gram", "block_h", "block_h_star"))
# What equations hold of a spectrum.
OF_INPUTS = frozenset(
    {
        "eigenvalue",
        "noise_factor",
        "cluster_weight",
        "cluster_label",
        "cluster_mean",
        "cluster_variance",
    }
)
# Variances of clusters by block, and the fractions of the coordinates that these hold.
cluster_scale, block_fraction = map(sp.IndexedBase, ("cluster_scale", "block_fraction"))
# Scaled steps: parts of E[psi_j psi_l], what a step is multiplied by, the sum of squared gradients.
S_update, S_label, gain = (sp.IndexedBase(y) for y in ("S_update", "S_label", "gain"))
accumulator = sp.Symbol("accumulator", positive=True)
# Infinitely wide students: M_j^2 = X z^2/(1 + Y z^2), Q_jl = C M_j M_l, u = <M^2>.
variance, saturation, coupling, mean_square = (
    sp.IndexedBase(y) for y in ("variance", "saturation", "coupling", "mean_square")
)
# One sample that is used more than once: its label and the noise in it, fields, errors and updates
# after each gradient, the update that moves the weights.
rho = sp.Symbol("rho", positive=True)
xi, label = sp.symbols("xi label", real=True)
psi = sp.IndexedBase("psi")
PASSES = 16
psi_pass, h_pass = (
    tuple(sp.IndexedBase(f"{name}_{number}") for number in range(PASSES)) for name in ("psi", "h")
)
error_pass, output_pass = (
    tuple(sp.Symbol(f"{name}_{number}", real=True) for number in range(PASSES))
    for name in ("error", "output")
)
# 1/sqrt(E psi_j^2); what multiplies the label's noise in psi_j.
psi_scale, psi_noise, psi_pull = map(sp.IndexedBase, ("psi_scale", "psi_noise", "psi_pull"))
psi_square, psi_length = sp.symbols("psi_square psi_length", nonnegative=True)
# Added to squared lengths, and not printed: a gradient of zero stays zero.
LEAST_SQUARE = sp.Float(2.0**-400)
# Added to the least variance of a field given others, and not printed.
LEAST_VARIANCE = sp.Float(1e-280)
# |x|^2/d of the sample, 1 as d -> infinity.
stretch = sp.Symbol("stretch", positive=True)
# Its squared length within the span of all weights less its mean: |z|^2 - rank, lambda = root z.
dilation = sp.Symbol("stretch_inside", real=True)


# Gaussian combinations of fields that a loss sees of linear networks: the output f of the student,
# and the residual y - f with the label's noise. Their variances, and covariances with all fields.
output, residual = sp.symbols("output residual", real=True)
LINES = {output: "output", residual: "residual"}


def line_covariance(line: sp.Symbol, index: sp.Expr) -> sp.Indexed:
    """Covariance of such a combination with a field."""
    return sp.IndexedBase(f"{LINES[line]}_covariance")[index]


def line_variance(line: sp.Symbol) -> sp.Indexed:
    """Variance of such a combination."""
    return sp.IndexedBase(f"{LINES[line]}_variance")[sp.S.One]


def scalar(name: str) -> sp.Symbol:
    """Symbol of a number of an update rule (`dmft.model.UpdateRule.scalars`)."""
    return rho if name == rho.name else sp.Symbol(name, real=True)


# Several outputs: outputs and errors by class, what moves readouts, the sum of the softmax.
CLASSES = 16


def push_of_output(number: int) -> sp.IndexedBase:
    """E[e_o sigma(h_j)], along which the readouts of an output are trained."""
    return sp.IndexedBase(f"class_push_{number}")


def output_of_class(number: int) -> sp.Symbol:
    """An output of the student, counted from 0."""
    return sp.Symbol(f"class_output_{number}", real=True)


def error_of_class(number: int) -> sp.Symbol:
    """Minus the slope of the loss in an output."""
    return sp.Symbol(f"class_error_{number}", real=True)


softmax_sum = sp.Symbol("softmax_sum", real=True)
OF_A_SAMPLE = frozenset({rho, xi, label, psi_square, psi_length, stretch, dilation})
OF_A_SAMPLE |= {*error_pass, *output_pass, *LINES, softmax_sum}
OF_A_SAMPLE |= {f(number) for f in (output_of_class, error_of_class) for number in range(CLASSES)}
# The noise of the label at the nodes.
noise_at = sp.IndexedBase("noise_at")
# Law of the student fields given h*: mean at a node, covariance beyond it, deviation.
mean_at, rest, spread = (sp.IndexedBase(name) for name in ("mean_at", "rest", "spread"))
# Twice the probability 1 + erf(place) of the sign of h*, given the student fields, at a node.
chance_at, place_at = sp.IndexedBase("chance_at"), sp.IndexedBase("place_at")
risk, loss, error_rate = sp.symbols("risk loss error_rate", real=True)
# Sequences: s . grad L, E|J^T (g - g*)|^2, E|J|^2, sqrt(1 - m^2) dL/dm, and what |m| is called.
pull_along, update_square, jacobian_square, across, overlap = sp.symbols(
    "pull noise slope across overlap", real=True
)
SLOPE = "slope_"  # in front of the alignment by which a loss is derived
# Rates of Q, M and readouts beyond the leading order; what one sample adds to them, and the same
# where a constraint stands apart.
excess, excess_v, excess_w = (sp.IndexedBase(name) for name in ("excess", "excess_v", "excess_w"))
step_u, step_v, step_w, free_u, free_v = (
    sp.IndexedBase(name) for name in ("step_u", "step_v", "step_w", "free_u", "free_v")
)
# Coordinates of the sample along orthonormal directions of all weights, lambda = root z; and the
# mean update along them.
coordinate, pull = sp.IndexedBase("coordinate"), sp.IndexedBase("pull")

SYMMETRIC = frozenset({"Q", "P", "Omega", "Phi", "S", "S_near", "S_closed"})
SYMMETRIC |= {"S_update", "S_label", "gradient_gram", "step_Q", "P_inverse", "parallel", "excess"}
# Displacements around a state (`dmft.equations.noise.derivatives`) are as symmetric as the arrays.
SYMMETRIC |= {f"{name}_moved" for name in SYMMETRIC}
# Axis of each index symbol; the sums and the loops run over it.
AXES: dict[sp.Symbol, sp.Expr] = {
    **dict.fromkeys((j, l, u, v, row), p),
    **dict.fromkeys((r, s, *powers), k),
    **dict.fromkeys((i, m, n), p + k),
    node: nodes,
    angle: cosines,
    block: blocks,
    o: outputs,
}
SYMBOL_LATEX = {
    gamma: REGISTRY["learning_rate"].latex,
    Delta: r"\Delta",
    flip: r"\varepsilon",
    rho_a: REGISTRY["readout_rate"].latex,
    **{numbers[name]: number.latex for name, number in OPTIMISER.items()},
    d: "d",
    n_b: "n_b",
    risk: r"\mathcal{R}",
    loss: r"\mathcal{L}",
    error_rate: r"\mathcal{E}",
    output: "f",
    scalar("clip"): REGISTRY["clip"].latex,
    residual: r"(y - f)",
    angle: r"\nu",
    cosines: r"n_z",
    block: "e",
    blocks: "B",
    row: r"\ell",
    rho: r"\rho",
    xi: r"\xi",
    label: "y",
    psi_square: r"\left|\psi^{(0)}\right|^2",
    psi_length: r"\ell",
    stretch: "s",
    pull_along: r"\rho",
    update_square: r"\mathcal{G}",
    jacobian_square: r"\mathcal{J}",
    across: r"\sqrt{1 - m^2}\,\partial_{m} \mathcal{L}",
    overlap: r"\text{overlap}",
    accumulator: r"\mathcal{G}",
    dilation: r"\left(\lambda^\top\Omega^{+}\lambda - \mathrm{rank}\,\Omega\right)",
    **{symbol: f"e^{{({number})}}" for number, symbol in enumerate(error_pass)},
    **{symbol: f"f^{{({number})}}" for number, symbol in enumerate(output_pass)},
    **{output_of_class(number): f"f_{{{number + 1}}}" for number in range(CLASSES)},
    **{error_of_class(number): f"e_{{{number + 1}}}" for number in range(CLASSES)},
    softmax_sum: "Z",
}
# How bases are printed, as LaTeX and as text.
BASES = {
    "Omega": (r"\Omega", "Ω"),
    "psi": (r"\psi", "ψ"),
    "readout": ("a", "a"),
    "teacher_readout": ("a^*", "a*"),
    "h_star": ("h^*", "h*"),
    "lambda": (r"\lambda", "λ"),
    "b_learning": (r"b^{\mathrm{lrn}}", "bᴸ"),
    "b_interaction": (r"b^{\mathrm{int}}", "bᴵ"),
    "Phi": (r"\Phi", "Φ"),
    "slopes": ("K", "K"),
    "target_slopes": ("K^*", "K*"),
    "own_slope": (r"K^{\mathrm{own}}", "Kᵒʷⁿ"),
    "gradient_gram": (r"\left(b\,\Omega^{+}b^{\top}\right)", "(bΩ⁺bᵀ)"),
    "radial": ("c", "c"),
    "step_Q": (r"\delta Q", "δQ"),
    "step_M": (r"\delta M", "δM"),
    "inverse_length": (r"\ell^{-1}", "ℓ⁻¹"),
    "Q_perp": (r"Q^{\perp}", "Q⊥"),
    "P_inverse": ("P^{+}", "P⁺"),
    "abs_perp": (r"\left|Q^{\perp}\right|", "|Q⊥|"),
    "root_perp": (r"\ell^{\perp}", "ℓ⊥"),
    "size": ("q", "q"),
    "along": ("N", "N"),
    "parallel": (r"Q^{\parallel}", "Q∥"),
    "perp_learning": (r"b^{\perp,\mathrm{lrn}}", "b⊥ᴸ"),
    "perp_interaction": (r"b^{\perp,\mathrm{int}}", "b⊥ᴵ"),
    "growth": (r"\Phi", "Φ"),
    "psi_scale": (r"\varsigma", "ς"),
    "psi_noise": (r"\psi^{\xi}", "ψᵋ"),
    "cosine": ("z", "z"),
    "cosine_weight": ("w", "w"),
    "excess": (r"\epsilon", "ε"),
    "excess_v": (r"\epsilon^{M}", "εᴹ"),
    "excess_w": (r"\epsilon^{a}", "εᵃ"),
    "step_u": (r"\delta Q", "δQ"),
    "step_v": (r"\delta M", "δM"),
    "step_w": (r"\delta a", "δa"),
    "coordinate": ("z", "z"),
    "pull": (r"\beta", "β"),
    "free_u": (r"\delta Q^{0}", "δQ⁰"),
    "free_v": (r"\delta M^{0}", "δM⁰"),
    "h_twin": ("h'", "h'"),
    "variance": ("X", "X"),
    "saturation": ("Y", "Y"),
    "coupling": ("C", "C"),
    "mean_square": ("u", "u"),
    "eigenvalue": ("c", "c"),
    "noise_factor": (r"\nu", "ν"),
    "cluster_scale": ("c", "c"),
    "block_fraction": (r"\phi", "φ"),
    "S_update": (r"S^{\psi}", "Sᵠ"),
    "S_label": (r"S^{\Delta}", "Sᴸ"),
    # By block, of clusters with variances of their own.
    "S_sgd_noise": (r"S^{\psi}", "Sᵠ"),
    "S_label_noise": (r"S^{\Delta}", "Sᴸ"),
    "gain": ("g", "g"),
    "Gram": ("G", "G"),
    "inverse_count": ("n^{-1}", "n⁻¹"),
    "S_coordinate": ("S^{x}", "Sˣ"),
    "sign_gain": (r"\kappa", "κ"),
    "second_moment": ("V", "V"),
    "block_second_moment": ("V", "V"),
    **{f"class_push_{n}": (f"A^{{({n + 1})}}", f"A({n + 1})") for n in range(CLASSES)},
    **{f"psi_{n}": (rf"\psi^{{({n})}}", f"ψ{n}") for n in range(PASSES)},
    **{f"h_{n}": (f"h^{{({n})}}", f"h{n}") for n in range(PASSES)},
    **{f"collected_{n}": (f"T^{{({n})}}", f"T{n}") for n in range(1, 10)},
}
BASE_LATEX = {name: latex for name, (latex, _) in BASES.items()} | {
    "clip_reach": r"\bar{u}",
    "clip_gain": r"\bar{\kappa}",
    "clip_square": r"\bar{s}",
    **{f"block_{name}": name for name in "QMPh"},
    "block_h_star": "h^*",
}
# Rows that optimisers keep, in all blocks at once or in one, as their index says.
ROW_LATEX = {"velocity": "u", "average": r"\bar{w}"}
BASE_LATEX |= {name: QUANTITIES[name].latex for name in KEPT}
BASE_LATEX |= {f"{BLOCK}{name}": QUANTITIES[name].latex for name in KEPT}
BASE_LATEX["c"] = r"\tilde{a}"
BASE_LATEX |= {
    f"{stem}_{row}": rf"{letter}^{{{mark}{shown}}}"
    for row, shown in ROW_LATEX.items()
    for stem, letter, mark in (
        ("Gram", "G", ""),
        ("b_learning", "b", r"\mathrm{lrn},"),
        ("b_interaction", "b", r"\mathrm{int},"),
        ("b", "b", ""),
    )
}
# Mean slopes of what has no closed averages.
BASE_LATEX |= {f"pull_{number}": rf"\beta^{{({number})}}" for number in range(1, 10)}
BASE_LATEX |= {f"mean_slope_{number}": f"D^{{({number})}}" for number in range(1, 10)}
BASE_TEXT = {name: text for name, (_, text) in BASES.items()}
SYMBOL_TEXT = {gamma: "γ", Delta: "Δ", flip: "ε", risk: "R", rho_a: "ρ_a", d: "d", n_b: "n_b"}
SYMBOL_TEXT |= {rho: "ρ", xi: "ξ", label: "y", psi_square: "|ψ0|²", psi_length: "ℓ", stretch: "s"}
# The fields of single units.
student_field, teacher_field = sp.symbols("h h_star", real=True)
SYMBOL_LATEX[teacher_field] = "h^*"
SYMBOL_TEXT[teacher_field] = "h*"
# The index of the only student and of the only teacher: they are not printed.
ONLY = sp.symbols("only_student only_teacher", integer=True, positive=True)
SYMBOL_TEXT[dilation] = "(λᵀΩ⁺λ - rank Ω)"
SYMBOL_TEXT |= {symbol: f"e{number}" for number, symbol in enumerate(error_pass)}
SYMBOL_TEXT |= {output_of_class(number): f"f({number + 1})" for number in range(CLASSES)}
SYMBOL_TEXT |= {error_of_class(number): f"e({number + 1})" for number in range(CLASSES)}
SYMBOL_TEXT[softmax_sum] = "Z"


# Fields of a sample with a Gaussian law.
FIELDS = (h, h_star, lam)
IN_CLUSTER = "_in_"
# Means of the fields and of the updates in a cluster, whose number follows.
CLUSTERED = {"mean": "m", "update": "u", "output_mean": "f̄"}
BASE_LATEX["output_mean"] = r"\bar{f}"


# In print, terms of all clusters are one sum over c, in which the number of the cluster is 0.
cluster = sp.Symbol("c", integer=True, positive=True)
cluster_weight, cluster_label, cluster_mean, cluster_variance = map(
    sp.IndexedBase, ("cluster_weight", "cluster_label", "cluster_mean", "cluster_variance")
)
BASE_LATEX |= {"cluster_weight": r"\rho", "cluster_label": "y", "cluster_mean": r"\mu", "mean": "m"}
BASE_LATEX["cluster_variance"] = "s"


# Mean of any field, in averages that hold for all of them.
mean = sp.IndexedBase("mean", real=True)


def mean_in(number: int) -> sp.IndexedBase:
    """Means of all fields in a cluster."""
    return sp.IndexedBase(f"mean_{number}", real=True)


def base_in(base: sp.IndexedBase, number: int) -> sp.IndexedBase:
    """A random field of a sample in a cluster."""
    return sp.IndexedBase(f"{base.label}{IN_CLUSTER}{number}")


@lru_cache(maxsize=1024)
def cluster_of(base: sp.IndexedBase) -> tuple[sp.IndexedBase, int]:
    """A base without the number of its cluster, and that number; 0 where it has none."""
    name, _, number = str(base.label).rpartition(IN_CLUSTER)
    return (sp.IndexedBase(name), int(number)) if name and number.isdigit() else (base, 0)


def is_field(base: sp.Basic) -> bool:
    """Whether a base is one of the Gaussian fields of a sample, in a cluster or not."""
    return isinstance(base, sp.IndexedBase) and cluster_of(base)[0] in FIELDS


def is_symmetric(name: str) -> bool:
    """Whether an array of this name is symmetric, in a cluster or not."""
    return name.partition(IN_CLUSTER)[0] in SYMMETRIC


def symbol_in(symbol: sp.Symbol, number: int) -> sp.Symbol:
    """A random number of a sample in a cluster."""
    return sp.Symbol(f"{symbol.name}{IN_CLUSTER}{number}", real=True)


def output_mean_in(number: int) -> sp.Indexed:
    """Mean of the output of a linear student in a cluster."""
    return sp.IndexedBase(f"{LINES[output]}_mean_{number}", real=True)[sp.S.One]


def is_mean(base: sp.Basic) -> bool:
    """Whether a base holds the means of a cluster."""
    stem, _, number = str(base).rpartition("_")
    return base == mean or (stem == "mean" and number.isdigit())


def slope_of(alignment: sp.Symbol) -> sp.Symbol:
    """Derivative of the loss by an alignment of a sequence, as a symbol."""
    return sp.Symbol(f"{SLOPE}{alignment}", real=True)


def position(field: sp.Indexed) -> sp.Expr:
    """Position of a local field in lambda = (h, h*)."""
    index = field.indices[0]
    return p + index if cluster_of(field.base)[0] == h_star else index


def covariance(x: sp.Expr, y: sp.Expr) -> sp.Expr:
    """Covariance of two local fields: an entry of Omega, indices in one canonical order.

    Fields of a cluster with a covariance of its own have an entry of that.

    Linear combinations of local fields give the combination of entries, the output and the
    residual of linear networks their own.
    """
    if y in LINES:
        x, y = y, x
    if x in LINES and (x == y or isinstance(y, sp.Indexed)):
        return line_variance(x) if x == y else line_covariance(x, position(y))
    if not (isinstance(x, sp.Indexed) and isinstance(y, sp.Indexed)):
        parts = [[(u, e.coeff(u)) for u in e.atoms(sp.Indexed) or {e}] for e in (x, y)]
        return sp.Add(*(c * e * covariance(u, v) for u, c in parts[0] for v, e in parts[1]))
    first, second = sorted((position(x), position(y)), key=sp.default_sort_key)
    _, number = cluster_of(x.base)
    return (base_in(Omega, number) if number else Omega)[first, second]
