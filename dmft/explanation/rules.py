"""Rules of the steps of explanations: title, statement, identity and source.

Each rule has a property test (`tests/explain/test_rules.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from dmft.typeset.plain import plain


@dataclass(frozen=True)
class Rule:
    """A rule: title, statement in one or two sentences, and the identity as text and as LaTeX.

    `source` is a section of the theory pages; keys of the bibliography are in brackets.
    """

    title: str
    text: str
    formula: str = ""
    source: str = ""

    @property
    def plain(self) -> str:
        """The identity as text."""
        return plain(self.formula)


RULES: dict[str, Rule] = {
    # Gaussian calculus
    "linearity": Rule(
        "Linearity", "The average of a sum is the sum of the averages; constants are factored out."
    ),
    "kinks": Rule(
        "Kinks as signs",
        "A function with a kink is written with signs. Both agree except at the zeros, which have "
        "probability zero.",
        r"|u| = u\,\mathrm{sign}(u),\ \max(0, u) = (u + u\,\mathrm{sign}(u))/2",
        "theory/one_pass A.3",
    ),
    "combination": Rule(
        "Law of a linear combination",
        "A linear combination of jointly Gaussian fields is Gaussian.",
        r"\mathrm{Var}(a \cdot x) = a^\top C a",
    ),
    "hermite": Rule(
        "Hermite polynomials of each field",
        "Powers of each centred field are expanded in Hermite polynomials for its variance.",
        r"\mathrm{He}_n(x; v) = v^{n/2}\,\mathrm{He}_n(x/\sqrt{v})",
        "theory/one_pass A.4",
    ),
    "diagrams": Rule(
        "Orthogonality of linked diagrams",
        "The average of a product of Hermite polynomials is the sum over all ways to link the "
        "legs of each field to legs of other fields.",
        r"\mathbb{E}\prod_i \mathrm{He}_{n_i} = \sum_k \prod_i n_i! \prod_{i<j} "
        r"C_{ij}^{k_{ij}}/k_{ij}!,\ n_i = \sum_j k_{ij}",
        "theory/one_pass A.4",
    ),
    "tilt": Rule(
        "Gaussian factor: tilt the law",
        "Multiplying by a Gaussian factor changes the law and adds a constant factor. The "
        "covariance is reduced by a product of the covariances with the field q of the factor.",
        r"\mathbb{E}[e^{-bq^2/2}F] = (1+bC_{qq})^{-1/2}\,\mathbb{E}_T[F],\ "
        r"T_{xy} = C_{xy} - bC_{xq}C_{qy}/(1+bC_{qq})",
        "theory/one_pass A.1",
    ),
    "condition": Rule(
        "Dirac factor: condition the law",
        "A Dirac factor is the density of its field times the average given that field.",
        r"\mathbb{E}[\delta(q - t) F] = p_q(t)\,\mathbb{E}[F \mid q = t]",
        "theory/one_pass A.3",
    ),
    "stein": Rule(
        "Stein's identity",
        "A field as a factor is replaced by derivatives with respect to all fields. The "
        "derivative of an error function is a Gaussian factor, which is removed by tilting. The "
        "derivative of a sign is a Dirac factor, which is removed by conditioning.",
        r"\mathbb{E}[(x - m) F] = \sum_y C_{xy}\,\mathbb{E}[\partial_y F]",
        "theory/one_pass A.1, A.3",
    ),
    "fixed": Rule("Fields without variance", "A field of variance zero equals its mean."),
    "two_jumps": Rule(
        "Two jumps of one field",
        "The product of two signs of one field is a sum of single signs.",
        r"\mathrm{sign}(x-s)\,\mathrm{sign}(x-t) = 1 - \mathrm{sign}(x-s) + "
        r"\mathrm{sign}(x-t),\ s < t",
    ),
    "parallel_signs": Rule(
        "Signs that switch together",
        "The product of the signs of two parallel fields that vanish together is 1 or -1.",
    ),
    "parity": Rule("Symmetry", "A function that is odd in all centred fields has mean zero."),
    "smoothing": Rule(
        "Error function of one field",
        "The average of an error function of a Gaussian field is an error function of its mean.",
        r"\mathbb{E}\,\mathrm{erf}(ax + c) = \mathrm{erf}\bigl((am+c)/\sqrt{1+2a^2C}\bigr),\ "
        r"\mathbb{E}\,\mathrm{sign}(x) = \mathrm{erf}\bigl(m/\sqrt{2C}\bigr)",
        "theory/one_pass A.6",
    ),
    "noise": Rule(
        "An error function is a sign with noise",
        "An error function is the average of a sign over independent Gaussian noise in its "
        "argument. The noise adds to the variance of the field.",
        r"\mathrm{erf}(ax+c) = \mathrm{sign}(a)\,\mathbb{E}_n\,\mathrm{sign}(x + c/a + n),\ "
        r"\mathrm{Var}\,n = 1/(2a^2)",
        "theory/one_pass A.2",
    ),
    "probability": Rule(
        "Mean of a sign",
        "The mean of a sign is a difference of two probabilities.",
        r"\mathbb{E}\,\mathrm{sign}(u) = P(u>0) - P(u<0) = \mathrm{erf}\bigl(m/\sqrt{2C}\bigr)",
    ),
    "arcsine": Rule(
        "Arcsine law",
        "The average of the product of two signs of centred fields is an angle. Error functions "
        "are signs of fields with larger variances.",
        r"\mathbb{E}[\mathrm{sign}(x)\,\mathrm{sign}(y)] = \frac{2}{\pi}\arcsin "
        r"\frac{C_{xy}}{\sqrt{C_{xx}C_{yy}}}",
        "theory/one_pass A.2; [saad_solla_1995]",
    ),
    "two_signs": Rule(
        "Two signs away from zero",
        "The average of the product of two signs, or error functions, of fields with means is "
        "given by the bivariate normal distribution function Phi_2 at the correlation rho.",
        r"4\Phi_2(h, k; \rho) - \mathrm{erf}(h/\sqrt{2}) - \mathrm{erf}(k/\sqrt{2}) - 1,\quad "
        r"\Phi_2(h, k; \rho) = \mathbb{P}(x < h, y < k)",
        "theory/one_pass A.6",
    ),
    "four_signs": Rule(
        "Four signs",
        "The average of the product of four signs of centred fields is a one-dimensional integral.",
        source="theory/one_pass A.3, A.5",
    ),
    "price": Rule(
        "Price's theorem, from independent fields",
        "The covariances between fields are scaled by tau from 0 to 1, and the derivative of the "
        "average with respect to tau is integrated.",
        r"\frac{d}{d\tau}\mathbb{E}_\tau \prod_i f_i = \sum_{i<j} C_{ij}\,"
        r"\mathbb{E}_\tau\Bigl[f_i' f_j' \prod_{k \neq i,j} f_k\Bigr]",
        "theory/one_pass A.2",
    ),
    "independent": Rule(
        "Independent fields",
        "The average of a product of functions of independent fields factorises.",
    ),
    "integrate": Rule(
        "The integral", "The integral is elementary, or it defines the function on the right."
    ),
    "moment_of_signs": Rule(
        "Moment of signs",
        "Stein's identity is applied to all fields at once, which also holds if fields coincide.",
        source="theory/one_pass A.3",
    ),
    "waves": Rule(
        "Characteristic function",
        "sin, cos, sinh and cosh are sums of exponentials, which shift the mean by complex "
        "numbers.",
        r"\mathbb{E}\,e^{isq} = e^{ism - s^2C/2}",
        "theory/one_pass A.1",
    ),
    "branches": Rule(
        "Exponential branches",
        "Exponentials with jumps are integrated on each branch, which gives scaled error "
        "functions.",
        source="theory/one_pass A.6",
    ),
    "collect": Rule("Sum", "The parts are added and simplified."),
    "series": Rule(
        "Series in the correlation",
        "Without a closed form, the average is a series in the Hermite coefficients of both "
        "functions, and the Cauchy-Schwarz inequality bounds its remainder.",
        r"\mathbb{E}[f(x) g(y)] = \sum_n \rho^n c_n d_n/n!",
        "theory/one_pass A.7",
    ),
    "nodes": Rule(
        "Quadrature",
        "Without a closed form, the average is computed by quadrature, with an error estimate.",
    ),
    "table": Rule(
        "Table",
        "Without a closed form, the average is interpolated from a table, with an error estimate.",
    ),
    # Networks
    "local_fields": Rule(
        "Only the local fields matter",
        "An input enters a network only through its products with the weights. These local "
        "fields are jointly Gaussian, and their covariance is the matrix of overlaps.",
        r"h = Wx/\sqrt{d},\ h^* = W^*x/\sqrt{d},\ (h, h^*) \sim \mathcal{N}(0, \Omega),\ "
        r"\Omega = \begin{pmatrix} Q & M \\ M^\top & P \end{pmatrix}",
        "theory/one_pass A.0; [goldt_2019]",
    ),
    "pair": Rule(
        "Law of the fields of one average",
        "An average depends only on the covariances of the fields that it contains.",
    ),
    "closed": Rule("Closed form", "The parts of the average are combined."),
    "values": Rule("Insert the averages", "The averages are inserted into the sum."),
    "insert": Rule(
        "Insert the overlaps",
        "Covariances and coefficients are expressed by overlaps and readouts.",
    ),
    "drift": Rule(
        "Drift of one step",
        "A step at the learning rate gamma moves a row w_j along the input. The change of an "
        "overlap is the update times the other field, averaged over inputs, which enter through "
        "local fields only.",
        r"w_j \leftarrow w_j + \tfrac{\gamma}{p n_b} \sum \psi_j x/\sqrt{d}:\ "
        r"\dot M_{jr} = \mathbb{E}[\psi_j h^*_r],\ \dot Q_{jl} = \mathbb{E}[\psi_j h_l + "
        r"\psi_l h_j] + \ldots",
        "theory/one_pass A.0, B.2; [saad_solla_1995]",
    ),
    "square": Rule(
        "Square of one step",
        "Two rows move along the same input, whose squared length is d to leading order. The "
        "product of their updates adds a term of the order of the learning rate to their overlap.",
        r"\dot Q_{jl} = \ldots + \tfrac{\gamma}{p n_b}\,\mathbb{E}[\psi_j \psi_l]",
        "theory/one_pass B.2; [saad_solla_1995]",
    ),
    "block_drift": Rule(
        "Drift of one step, in a block of the inputs",
        "A step moves the coordinates of a block along those of the input. The change of an "
        "overlap is the average of the update times the part of the other field that comes from "
        "this block. By Stein's identity this is a sum of derivatives of the update, with the "
        "overlaps G of the block times the variance c as coefficients.",
        r"\mathbb{E}[\psi\,h_{e,i}] = c_e \sum_y G_{i y e}\,"
        r"\mathbb{E}[\partial_y \psi]",
        "theory/structured_inputs (3), (6); theory/one_pass A.1",
    ),
    "block_square": Rule(
        "Square of one step, in a block of the inputs",
        "Two rows move along the same input. The squared length of its part in a block is nu d, "
        "where nu is the variance of the block times its fraction of the coordinates.",
        r"\dot{Q}_{e,jl} = \ldots + \tfrac{\gamma}{p n_b} \nu_e\,"
        r"\mathbb{E}[\psi_j \psi_l]",
        "theory/structured_inputs (6); theory/one_pass B.2",
    ),
    "mean_gradient": Rule(
        "Two samples of one step",
        "Different samples of a batch are independent. Their contribution to the overlaps of "
        "students is the inner product of the mean updates, which Stein's identity turns into a "
        "sum over fields.",
        r"\Delta Q_{jl} = \ldots + \tfrac{\gamma^2}{(p d)^2} \bigl(1 - \tfrac{1}{n_b}\bigr)\,"
        r"\mathbb{E}[\psi_j x] \cdot \mathbb{E}[\psi_l x]",
        "theory/one_pass B.1",
    ),
    "stein_fields": Rule(
        "Linearity and Stein's identity",
        "The update is a sum of products of functions of single fields. An additional field is "
        "replaced by derivatives of these functions.",
        r"\mathbb{E}[F \lambda_i] = \sum_y \Omega_{iy}\,\mathbb{E}[\partial_y F]",
        "theory/one_pass A.1",
    ),
    "names": Rule(
        "Insert the definitions", "The rate is written in averages of functions of local fields."
    ),
    "sphere": Rule(
        "Rows of constant length",
        "After each step a row is divided by its length. At Q_jj = 1 the rate of an overlap is "
        "the rate without constraint minus half of the growth rate of the squared length times "
        "the overlap.",
        r"\tfrac{d}{dt} M_{jr}/\sqrt{Q_{jj}} = \dot M_{jr} - M_{jr} \Phi_{jj}/2,\ "
        r"\Phi \text{ the rate of } Q \text{ without constraint}",
        "theory/one_pass C; [ben_arous_2021]",
    ),
    # Rules written with vectors
    "one_step": Rule(
        "One step of a rule",
        "A step adds views with the coefficients psi and rows with the coefficients Phi to a row. "
        "The rate of an overlap is the average of psi times the field of the other row, plus the "
        "average of Phi times the overlaps with its rows, plus the average product of both steps.",
        r"\dot G_{ji} = \sum_a \langle\psi_{ja}\lambda^a_i\rangle + \sum_l \langle\Phi_{jl}"
        r"\rangle G_{li} + (j \leftrightarrow i) + \tfrac{g}{n_b} \sum_{ab} C_{ab}"
        r"\langle\psi_{ja}\psi_{ib}\rangle,\ \dot\theta = \langle\chi\rangle",
        "theory/update_rules (4)",
    ),
    "latents": Rule(
        "Average over a latent",
        "Averages given a random number, or given the fields of earlier views, are averaged over "
        "these. For a discrete variable this is a sum over its values, weighted by their "
        "probabilities.",
        source="theory/update_rules 3",
    ),
    "latent_means": Rule(
        "Latents shift the means of fields",
        "A field is its Gaussian part plus the latents of its view times overlaps with the "
        "directions of the latents.",
        r"\lambda_i = \sum_r K_{ir} c_r + \text{Gaussian},\ K = \Omega_{\cdot U} \text{ (adds)}, "
        r"\Omega_{\cdot U}\Omega_{UU}^{-1} \text{ (replaces)}",
        "theory/update_rules (2)",
    ),
    "wick": Rule(
        "Wick's theorem",
        "The average of a product of Gaussian variables is the sum over all ways to pair them, or "
        "to replace single ones by their means.",
        r"\mathbb{E}[x y z] = m_x \mathbb{E}[y z] + C_{xy} m_z + C_{xz} m_y",
        "theory/one_pass A.4",
    ),
    # Exponents
    "mehler": Rule(
        "Hermite coefficient at an overlap",
        "A field of overlap m with the target contributes its Hermite coefficient of order k times "
        "m to the power k. At small overlaps the smallest order dominates.",
        r"\mathbb{E}[f(h)\,\mathrm{He}_n(h')] = m^{|n|}\,\mathbb{E}[f\,\mathrm{He}_n]",
        "theory/one_pass A.7, H; [ben_arous_2021]",
    ),
    "coefficient": Rule(
        "Hermite coefficient",
        "The coefficient is the average of the function times a Hermite polynomial.",
    ),
    # Sequences
    "token_fields": Rule(
        "Only the token fields matter",
        "A token enters a network only through its products with the weights. The fields of "
        "different tokens are independent, and positions shift their means.",
        r"(h^*_l, h_l) \sim \mathcal{N}\left((0, e_l), \begin{pmatrix} 1 & m \\ m & 1 "
        r"\end{pmatrix}\right)",
        "theory/sequence A; [arnaboldi_2025]",
    ),
    "moments": Rule(
        "Moments of the outputs",
        "Each average is a function of the alignments: a polynomial if linked diagrams apply, a "
        "series in the alignment for functions of the mean field, and otherwise a table.",
        source="theory/sequence A.5; [arnaboldi_2025]",
    ),
    # Escape
    "uninformative": Rule(
        "Rates at the uninformative point",
        "If nothing has been learned, all fields are independent. Averages factorise into "
        "moments of single fields, and one small overlap enters through its powers.",
        r"M = 0 \text{ but for one overlap } \mu,\ Q = q I,\ P = I",
        "theory/one_pass D.4, F; [arnaboldi_2023_mediocrity]",
    ),
    "lengths": Rule(
        "Lengths at the start",
        "Rows without a constraint relax to a length while the overlaps are small.",
        source="theory/one_pass F",
    ),
    "growth": Rule(
        "Growth of the overlap",
        "The leading coefficients of the rate are named.",
        source="theory/one_pass F",
    ),
    "passage": Rule(
        "Time from u_0 to u_1",
        "The equation for one overlap, or for u = sum M_jr^2/p, is separable, and its integral is "
        "elementary.",
        r"t = \int_{u_0}^{u_1} du\,/\,\dot u",
        "theory/one_pass F; [arnaboldi_2023_mediocrity]",
    ),
    # Repeated data
    "first_step": Rule(
        "First step on a batch",
        "Before the first step weights and samples are independent. The mean gradient over the "
        "samples is an average over the law of the local fields.",
        r"M^1 = (1 - \eta\lambda) M^0 - \eta\alpha\,\mathbb{E}[g\,h^*],\ g = \partial_h \ell",
        "theory/batch_reuse A.1, B.1; [dandi_2024_reusing]",
    ),
    # Random networks
    "linear_response": Rule(
        "One site more",
        "Site 0 changes the fields of the others by its small couplings; they respond linearly.",
        r"y_j = z_j + \sum_k \int r_{jk} J_{k0}\, y_0\, ds",
        "[eissfeller_opper_1992]",
    ),
    "new_couplings": Rule(
        "Average over new couplings",
        "The couplings of site 0 are independent of the network without it, whose averages over "
        "sites are averages over the process of one site.",
        r"N\,\mathrm{Var}\,J_{0j} = \sigma^2,\ N\,\mathrm{Cov}(J_{0j}, J_{j0}) = \gamma\sigma^2",
        "[sompolinsky_1988]",
    ),
}
