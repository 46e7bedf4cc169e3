"""The rules that steps go by: a name, what it says, the identity, where it is derived.

Each is judged by a property test of its own (`tests/explain/test_rules.py`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes
    ----------
    title : str
    text : str
        What it says, in words.
    plain, formula : str
        The identity, as text and as LaTeX.
    source : str
        Where it is derived; keys of the bibliography stand in brackets.
    """

    title: str
    text: str
    plain: str = ""
    formula: str = ""
    source: str = ""


RULES: dict[str, Rule] = {
    # Gaussian calculus
    "linearity": Rule(
        "Linearity",
        "The average of a sum is the sum of the averages; constants are factored out.",
    ),
    "kinks": Rule(
        "Kinks as signs",
        "A function that switches at a zero is written with signs; both are equal off the zeros, "
        "which have no weight.",
        "|u| = u sign(u), max(0, u) = (u + u sign(u))/2",
        r"|u| = u\,\mathrm{sign}(u),\ \max(0, u) = (u + u\,\mathrm{sign}(u))/2",
        "theory/one_pass A.3",
    ),
    "combination": Rule(
        "Law of a linear combination",
        "A linear combination of jointly Gaussian fields is Gaussian.",
        "Var(a.x) = a.C.a",
        r"\mathrm{Var}(a \cdot x) = a^\top C a",
    ),
    "hermite": Rule(
        "Hermite polynomials of each field",
        "Powers are written in Hermite polynomials of each centred field, in its own variance.",
        "He_n(x; v) = v^(n/2) He_n(x/sqrt(v))",
        r"\mathrm{He}_n(x; v) = v^{n/2}\,\mathrm{He}_n(x/\sqrt{v})",
        "theory/one_pass A.4",
    ),
    "diagrams": Rule(
        "Orthogonality of linked diagrams",
        "The average of a product of Hermite polynomials is the sum over all ways to link the "
        "legs of each field to legs of other fields.",
        "E[prod He_n_i] = sum prod n_i! prod C_ij^k_ij/k_ij!, n_i = sum_j k_ij",
        r"\mathbb{E}\prod_i \mathrm{He}_{n_i} = \sum_k \prod_i n_i! \prod_{i<j} "
        r"C_{ij}^{k_{ij}}/k_{ij}!,\ n_i = \sum_j k_{ij}",
        "theory/one_pass A.4",
    ),
    "tilt": Rule(
        "Gaussian factor: tilt the law",
        "A Gaussian factor is a constant times a change of the law: the covariance is reduced "
        "by a multiple of the covariances with the field of that factor.",
        "E[exp(-b q^2/2) F] = E_T[F]/sqrt(1 + b C_qq), T_xy = C_xy - b C_xq C_qy/(1 + b C_qq)",
        r"\mathbb{E}[e^{-bq^2/2}F] = (1+bC_{qq})^{-1/2}\,\mathbb{E}_T[F],\ "
        r"T_{xy} = C_{xy} - bC_{xq}C_{qy}/(1+bC_{qq})",
        "theory/one_pass A.1",
    ),
    "condition": Rule(
        "Dirac factor: condition the law",
        "A Dirac factor is the density of its field times the average given that field.",
        "E[delta(q - t) F] = p_q(t) E[F | q = t]",
        r"\mathbb{E}[\delta(q - t) F] = p_q(t)\,\mathbb{E}[F \mid q = t]",
        "theory/one_pass A.3",
    ),
    "stein": Rule(
        "Stein's identity",
        "A field in front differentiates all others. The derivative of an error function is a "
        "Gaussian factor, taken out by tilting; that of a sign a Dirac factor, taken out by "
        "conditioning.",
        "E[(x - m) F] = sum_y C_xy E[dF/dy]",
        r"\mathbb{E}[(x - m) F] = \sum_y C_{xy}\,\mathbb{E}[\partial_y F]",
        "theory/one_pass A.1, A.3",
    ),
    "fixed": Rule("Fields without variance", "A field of variance zero has the value of its mean."),
    "two_jumps": Rule(
        "Two jumps of one field",
        "Signs of one field that switch at two places are a sum of single ones.",
        "sign(x - s) sign(x - t) = 1 - sign(x - s) + sign(x - t), s < t",
        r"\mathrm{sign}(x-s)\,\mathrm{sign}(x-t) = 1 - \mathrm{sign}(x-s) + "
        r"\mathrm{sign}(x-t),\ s < t",
    ),
    "parallel_signs": Rule(
        "Signs that switch together",
        "The product of the signs of two parallel fields that vanish together is 1 or -1.",
    ),
    "parity": Rule(
        "Symmetry",
        "A function that is odd in all centred fields has mean zero.",
    ),
    "smoothing": Rule(
        "Error function of one field",
        "The average of an error function is one of the mean, its noise added to the variance.",
        "E[erf(a x + c)] = erf((a m + c)/sqrt(1 + 2 a^2 C)), E[sign(x)] = erf(m/sqrt(2 C))",
        r"\mathbb{E}\,\mathrm{erf}(ax + c) = \mathrm{erf}\bigl((am+c)/\sqrt{1+2a^2C}\bigr),\ "
        r"\mathbb{E}\,\mathrm{sign}(x) = \mathrm{erf}\bigl(m/\sqrt{2C}\bigr)",
        "theory/one_pass A.6",
    ),
    "noise": Rule(
        "An error function is a sign with noise",
        "Independent Gaussian noise in a sign makes an error function of it, and adds to the "
        "variance of its field.",
        "erf(a x + c) = sign(a) E_n[sign(x + c/a + n)], Var n = 1/(2 a^2)",
        r"\mathrm{erf}(ax+c) = \mathrm{sign}(a)\,\mathbb{E}_n\,\mathrm{sign}(x + c/a + n),\ "
        r"\mathrm{Var}\,n = 1/(2a^2)",
        "theory/one_pass A.2",
    ),
    "probability": Rule(
        "Mean of a sign",
        "The mean of a sign is a difference of two probabilities.",
        "E[sign(u)] = P(u > 0) - P(u < 0) = erf(m/sqrt(2 C))",
        r"\mathbb{E}\,\mathrm{sign}(u) = P(u>0) - P(u<0) = \mathrm{erf}\bigl(m/\sqrt{2C}\bigr)",
    ),
    "arcsine": Rule(
        "Arcsine law",
        "Two centred signs, or error functions with their noise in the variances, average to an "
        "angle.",
        "E[sign(x) sign(y)] = (2/pi) asin(C_xy/sqrt(C_xx C_yy))",
        r"\mathbb{E}[\mathrm{sign}(x)\,\mathrm{sign}(y)] = \frac{2}{\pi}\arcsin "
        r"\frac{C_{xy}}{\sqrt{C_{xx}C_{yy}}}",
        "theory/one_pass A.2; [saad_solla_1995]",
    ),
    "two_signs": Rule(
        "Two signs away from zero",
        "Two signs, or error functions, of fields with means average to the distribution function "
        "Phi_2 of two normal variables with the correlation rho.",
        "4 Phi_2(h, k; rho) - erf(h/sqrt 2) - erf(k/sqrt 2) - 1",
        r"4\Phi_2(h, k; \rho) - \mathrm{erf}(h/\sqrt{2}) - \mathrm{erf}(k/\sqrt{2}) - 1,\quad "
        r"\Phi_2(h, k; \rho) = \mathbb{P}(x < h, y < k)",
        "theory/one_pass A.6",
    ),
    "four_signs": Rule(
        "Four signs",
        "Four centred signs have an average that is not elementary, one integral of angles.",
        source="theory/one_pass A.3, A.5",
    ),
    "price": Rule(
        "Price's theorem, from independent fields",
        "Covariances between fields grow from nothing to theirs, as tau goes from 0 to 1; what "
        "that adds is integrated.",
        "d/dtau E_tau[prod f_i] = sum_{i<j} C_ij E_tau[f_i' f_j' prod_{k != i,j} f_k]",
        r"\frac{d}{d\tau}\mathbb{E}_\tau \prod_i f_i = \sum_{i<j} C_{ij}\,"
        r"\mathbb{E}_\tau\Bigl[f_i' f_j' \prod_{k \neq i,j} f_k\Bigr]",
        "theory/one_pass A.2",
    ),
    "independent": Rule(
        "Independent fields",
        "The average of a product of functions of independent fields factorises.",
    ),
    "integrate": Rule("The integral", "It is elementary, or defines the function on the right."),
    "moment_of_signs": Rule(
        "Moment of signs",
        "Stein's identity for all fields at once, in one piece where fields may coincide.",
        source="theory/one_pass A.3",
    ),
    "waves": Rule(
        "Characteristic function",
        "sin, cos, sinh and cosh are sums of exponentials, which tilt the law with complex slopes.",
        "E[exp(i s q)] = exp(i s m - s^2 C/2)",
        r"\mathbb{E}\,e^{isq} = e^{ism - s^2C/2}",
        "theory/one_pass A.1",
    ),
    "branches": Rule(
        "Exponential branches",
        "Exponentials with jumps are integrated branch by branch, in scaled error functions.",
        source="theory/one_pass A.6",
    ),
    "collect": Rule("Sum", "The parts are added and simplified."),
    "series": Rule(
        "Series in the correlation",
        "Not closed: a series in Hermite coefficients of both functions; the Cauchy-Schwarz "
        "inequality bounds the remainder.",
        "E[f(x) g(y)] = sum_n rho^n c_n d_n/n!",
        r"\mathbb{E}[f(x) g(y)] = \sum_n \rho^n c_n d_n/n!",
        "theory/one_pass A.7",
    ),
    "nodes": Rule("Quadrature", "Not closed: a number, with the error that it claims."),
    "table": Rule("Table", "Not closed: a table of the functions, with the error that it claims."),
    # Networks
    "local_fields": Rule(
        "Only the local fields matter",
        "Networks see an input through its products with the weights, which are jointly Gaussian; "
        "their covariance is the matrix of overlaps.",
        "h = Wx/sqrt(d), h* = W*x/sqrt(d), (h, h*) ~ N(0, Omega), Omega = [[Q, M], [M^T, P]]",
        r"h = Wx/\sqrt{d},\ h^* = W^*x/\sqrt{d},\ (h, h^*) \sim \mathcal{N}(0, \Omega),\ "
        r"\Omega = \begin{pmatrix} Q & M \\ M^\top & P \end{pmatrix}",
        "theory/one_pass A.0; [goldt_2019]",
    ),
    "pair": Rule(
        "Law of the fields of one average",
        "An average depends only on the covariances of the fields that it reads.",
    ),
    "closed": Rule("Closed form", "The parts of an average are put together."),
    "values": Rule("Insert the averages", "The averages are put into the sum."),
    "insert": Rule(
        "Insert the overlaps", "Covariances and coefficients are written in overlaps and readouts."
    ),
    "drift": Rule(
        "Drift of one step",
        "A step moves a row along its input; what that does to an overlap is the update times the "
        "other field, averaged over inputs, which are seen through local fields only.",
        "w_j <- w_j + gamma/(p n_b) sum psi_j x/sqrt(d): dM_jr/dt = E[psi_j h*_r], "
        "dQ_jl/dt = E[psi_j h_l + psi_l h_j] + ...",
        r"w_j \leftarrow w_j + \tfrac{\gamma}{p n_b} \sum \psi_j x/\sqrt{d}:\ "
        r"\dot M_{jr} = \mathbb{E}[\psi_j h^*_r],\ \dot Q_{jl} = \mathbb{E}[\psi_j h_l + "
        r"\psi_l h_j] + \ldots",
        "theory/one_pass A.0, B.2; [saad_solla_1995]",
    ),
    "square": Rule(
        "Square of one step",
        "Two rows move along the same input, with squared length d to leading order: products "
        "of updates add to the overlaps of students at the order of the learning rate.",
        "dQ_jl/dt = ... + gamma/(p n_b) E[psi_j psi_l]",
        r"\dot Q_{jl} = \ldots + \tfrac{\gamma}{p n_b}\,\mathbb{E}[\psi_j \psi_l]",
        "theory/one_pass B.2; [saad_solla_1995]",
    ),
    "block_drift": Rule(
        "Drift of one step, in a block of the inputs",
        "A step moves the coordinates of a block along the coordinates of the input: the "
        "update is averaged together with the part of the other field that comes from this "
        "block. By Stein's identity this part differentiates the update; its correlations "
        "with the fields are the overlaps G of the block times the variance c.",
        "E[psi h_e,i] = c_e sum_y G_iy,e E[dpsi/dy], h_e the part of h from block e",
        r"\mathbb{E}[\psi\,\mathsf{h}_{e i}] = c_e \sum_y G_{i y e}\,"
        r"\mathbb{E}[\partial_y \psi]",
        "theory/structured_inputs (3), (6); theory/one_pass A.1",
    ),
    "block_square": Rule(
        "Square of one step, in a block of the inputs",
        "Two rows move along the same input; the squared length of its part in a block is nu d, "
        "where nu is the variance of the block times its fraction of the coordinates.",
        "dQ_e,jl/dt = ... + gamma/(p n_b) nu_e E[psi_j psi_l]",
        r"\dot{\mathsf{Q}}_{e j l} = \ldots + \tfrac{\gamma}{p n_b} \nu_e\,"
        r"\mathbb{E}[\psi_j \psi_l]",
        "theory/structured_inputs (6); theory/one_pass B.2",
    ),
    "mean_gradient": Rule(
        "Two samples of one step",
        "Different samples of a batch are independent: their contribution to the overlaps of "
        "students is the inner product of the mean updates, by Stein's identity a sum over "
        "fields.",
        "dQ_jl = ... + gamma^2 (1 - 1/n_b)/(p d)^2 E[psi_j x].E[psi_l x]",
        r"\Delta Q_{jl} = \ldots + \tfrac{\gamma^2}{(p d)^2} \bigl(1 - \tfrac{1}{n_b}\bigr)\,"
        r"\mathbb{E}[\psi_j x] \cdot \mathbb{E}[\psi_l x]",
        "theory/one_pass B.1",
    ),
    "stein_fields": Rule(
        "Linearity and Stein's identity",
        "The update is a sum of products of functions of single fields; an additional field "
        "differentiates each of them.",
        "E[F lambda_i] = sum_y Omega_iy E[dF/dy]",
        r"\mathbb{E}[F \lambda_i] = \sum_y \Omega_{iy}\,\mathbb{E}[\partial_y F]",
        "theory/one_pass A.1",
    ),
    "names": Rule("Insert the definitions", "The rate in averages of functions of local fields."),
    "sphere": Rule(
        "Rows of constant length",
        "A row is divided by its length after each step: the rate of the overlap of normalised "
        "rows, at Q_jj = 1, is the rate without constraint less half of the growth of the squared "
        "lengths.",
        "d(M_jr/sqrt(Q_jj))/dt = dM_jr/dt - M_jr Phi_jj/2, Phi the rate of Q without constraint",
        r"\tfrac{d}{dt} M_{jr}/\sqrt{Q_{jj}} = \dot M_{jr} - M_{jr} \Phi_{jj}/2,\ "
        r"\Phi \text{ the rate of } Q \text{ without constraint}",
        "theory/one_pass C; [ben_arous_2021]",
    ),
    # Exponents
    "mehler": Rule(
        "Hermite coefficient at an overlap",
        "A field with overlap m with the target contributes its coefficient of order k times "
        "m to the power k: at small overlaps the smallest order dominates.",
        "E[f(h) He_n(h')] = m^|n| E[f He_n]",
        r"\mathbb{E}[f(h)\,\mathrm{He}_n(h')] = m^{|n|}\,\mathbb{E}[f\,\mathrm{He}_n]",
        "theory/one_pass A.7, H; [ben_arous_2021]",
    ),
    "coefficient": Rule(
        "Hermite coefficient", "The average of the function times a Hermite polynomial."
    ),
    # Sequences
    "token_fields": Rule(
        "Only the token fields matter",
        "Networks see a token through its products with the weights; the fields of different "
        "tokens are independent, the positions shift their means.",
        "(h*_l, h_l) ~ N((0, e_l), [[1, m], [m, 1]])",
        r"(h^*_l, h_l) \sim \mathcal{N}\left((0, e_l), \begin{pmatrix} 1 & m \\ m & 1 "
        r"\end{pmatrix}\right)",
        "theory/sequence A; [arnaboldi_2025]",
    ),
    "moments": Rule(
        "Moments of the outputs",
        "Each average is a function of the alignments: a polynomial by linked diagrams, a series "
        "in the alignment for functions of the mean field, else a table.",
        source="theory/sequence A.5; [arnaboldi_2025]",
    ),
    # Escape
    "uninformative": Rule(
        "Rates at the uninformative point",
        "Where nothing is learned yet all fields are independent: averages factorise into moments "
        "of single fields, and one overlap enters by its powers.",
        "M = 0 but for one overlap mu, Q = q I, P = I",
        r"M = 0 \text{ but for one overlap } \mu,\ Q = q I,\ P = I",
        "theory/one_pass D.4, F; [arnaboldi_2023_mediocrity]",
    ),
    "lengths": Rule(
        "Lengths at the start",
        "Free lengths relax while the overlaps are small.",
        source="theory/one_pass F",
    ),
    "growth": Rule(
        "Growth of the overlap",
        "The leading coefficients of the rate are named.",
        source="theory/one_pass F",
    ),
    "passage": Rule(
        "Time from u_0 to u_1",
        "The equation of one overlap, or of u = sum M_jr^2/p, is separable; its integral is "
        "elementary.",
        "t = int_{u_0}^{u_1} du/(du/dt)",
        r"t = \int_{u_0}^{u_1} du\,/\,\dot u",
        "theory/one_pass F; [arnaboldi_2023_mediocrity]",
    ),
    # Repeated data
    "first_step": Rule(
        "First step on a batch",
        "Before the first step weights and samples are independent: the mean of the gradients over "
        "the samples is an average over the law of the local fields.",
        "M^1 = (1 - eta ridge) M^0 - eta alpha E[g h*], g the gradient of the loss of a sample",
        r"M^1 = (1 - \eta\lambda) M^0 - \eta\alpha\,\mathbb{E}[g\,h^*],\ g = \partial_h \ell",
        "theory/batch_reuse A.1, B.1; [dandi_2024_reusing]",
    ),
}
