"""Fluctuations in LaTeX and in plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.increments import CURVATURE, ClosedMoments, Entry, closed_moments, sees_itself

if TYPE_CHECKING:
    from dmft.equations.fluctuations import Noise
    from dmft.equations.latex import EquationPrinter

# Terms of a polynomial on one line.
TERMS_A_LINE = 7


def noise_latex(noise: Noise, printer: EquationPrinter) -> list[str]:
    """Align lines: the stochastic equation, the increments, the drift at order 1/d."""
    batch = noise.algorithm.batch_size
    size = "" if batch == 1 else rf" \cdot {batch}"
    error = r"g(h^*) - f(h)" if sees_itself(noise.algorithm) else "g(h^*)"
    sphere = noise.algorithm.constraint is not None
    lines = [
        rf"d(Q, M) &= F\,dt + \sqrt{{\frac{{\gamma}}{{p\,d{size}}}}}\;\Sigma^{{1/2}}\,dB_t,\quad "
        r"\Sigma = \mathrm{Cov}\bigl[(u, v)\bigr]",
        rf"\psi_j &= a_j\,\sigma'(h_j)\,\bigl[{error} + \sqrt{{\Delta}}\,\xi\bigr],"
        r"\quad \xi \sim \mathcal{N}(0, 1)",
        rf"u^0_{{jl}} &= \psi_j h_l + \psi_l h_j + \frac{{\gamma}}{{p{size}}}\,\psi_j\psi_l,"
        r"\quad v^0_{jr} = \psi_j h^*_r",
    ]
    if sphere:
        lines.append(
            r"u_{jl} &= u^0_{jl} - \tfrac12 Q_{jl}\,(u^0_{jj} + u^0_{ll}),\quad "
            r"v_{jr} = v^0_{jr} - \tfrac12 M_{jr}\,u^0_{jj}"
        )
    else:
        lines.append(r"u_{jl} &= u^0_{jl},\quad v_{jr} = v^0_{jr}")
    return [*lines, *_drift(noise, batch)]


def _drift(noise: Noise, batch: int) -> list[str]:
    """Terms of F at order 1/d."""
    share = "" if batch == 1 else rf"\tfrac1{{{batch}}}"
    gram = "" if batch == 1 else rf" + \tfrac{{{batch - 1}}}{{{batch}}}\,b\,\Omega^+ b^\top"
    sphere = noise.algorithm.constraint is not None
    lines = []
    if "finite_size" in noise.terms:
        excess = (
            rf"\epsilon = {share}\bigl\langle\psi\psi^\top(\lambda^\top\Omega^+\lambda - "
            rf"\mathrm{{rank}}\,\Omega)\bigr\rangle{gram}"
        )
        form = (
            r"\bigl(\epsilon_{jl} - \tfrac12 Q_{jl}(\epsilon_{jj} + \epsilon_{ll}),\ "
            r"-\tfrac12 M_{jr}\,\epsilon_{jj}\bigr)"
            if sphere
            else r"(\epsilon_{jl},\ 0)"
        )
        lines.append(
            rf"F &\ni \frac{{\gamma}}{{p\,d}}\,{form},\quad {excess} && \text{{(finite size)}}"
        )
    if CURVATURE in noise.terms:
        mean = "" if batch == 1 else r", of batch means"
        lines += [
            r"F &\ni \frac{\gamma}{p\,d}\bigl(Q_{jl}\langle\tfrac38 u^0_{jj}{}^2 + "
            r"\tfrac38 u^0_{ll}{}^2 + \tfrac14 u^0_{jj}u^0_{ll}\rangle - "
            r"\tfrac12\langle u^0_{jl}(u^0_{jj} + u^0_{ll})\rangle,",
            rf"&\qquad \tfrac38 M_{{jr}}\langle u^0_{{jj}}{{}}^2\rangle - "
            rf"\tfrac12\langle u^0_{{jj}} v^0_{{jr}}\rangle\bigr) && \text{{(curvature{mean})}}",
        ]
    return lines


def closed_latex(noise: Noise, printer: EquationPrinter) -> list[str]:
    """Align lines of Sigma in closed form, for one student and one teacher."""
    moments = closed_moments(
        noise.model, noise.algorithm, {"p": 1, "k": 1}, _declared(noise) | {"P": None}
    )
    entries = [e for e in moments.entries if moments.projected(e)]
    lines = []
    for number, one in enumerate(entries):
        for two in entries[: number + 1]:
            name = rf"\Sigma_{{{_name(moments, two)}\,{_name(moments, one)}}}"
            lines += _polynomial(name, moments.covariance(one, two), printer)
    return lines


def _declared(noise: Noise) -> dict[str, Sequence[sp.Expr]]:
    networks = {"readout": noise.model.student, "teacher_readout": noise.model.teacher}
    return {name: network.readout or (sp.Integer(1),) for name, network in networks.items()}


def _name(moments: ClosedMoments, entry: Entry) -> str:
    name, (j, n) = entry
    return f"{name}_{{{j + 1}{n + 1}}}"


def _polynomial(name: str, expr: sp.Expr, printer: EquationPrinter) -> list[str]:
    """Lines of a polynomial, sorted by powers of the learning rate and of the noise."""
    terms = sorted(
        sp.Add.make_args(expr),
        key=lambda y: (sp.degree(y, x.gamma), sp.degree(y, x.Delta), sp.default_sort_key(y)),
    )
    lines = []
    for first in range(0, len(terms), TERMS_A_LINE):
        text = ""
        for term in terms[first : first + TERMS_A_LINE]:
            part = printer.doprint(term)
            signed = part.startswith("-") or (first == 0 and not text)
            text += part if signed else f" + {part}"
        lines.append(f"{name} &= {text}" if first == 0 else rf"&\quad {text}")
    return lines


def noise_text(noise: Noise) -> list[str]:
    """Lines for a terminal."""
    batch = "" if noise.algorithm.batch_size == 1 else f" {noise.algorithm.batch_size}"
    error = "g - f" if sees_itself(noise.algorithm) else "g"
    lines = [
        f"d(Q, M) = F dt + sqrt(γ/(p d{batch})) Σ^(1/2) dB,  Σ = Cov[(u, v)]  (Ito)",
        f"ψ_j = a_j σ'(h_j) ({error} + sqrt(Δ) ξ)",
        f"u_jl = ψ_j h_l + ψ_l h_j + γ/(p{batch}) ψ_j ψ_l,  v_jr = ψ_j h*_r",
    ]
    if noise.algorithm.constraint is not None:
        lines.append("less Q_jl (u_jj + u_ll)/2 and M_jr u_jj/2 on the sphere")
    if noise.terms:
        names = ", ".join(name.replace("_", " ") for name in noise.terms)
        lines.append(f"F holds what a step adds at order 1/d: {names}")
    lines.append(noise.approximation)
    return ["  " + line for line in lines]
