"""Pages of Bayes-optimal limits: state evolution, output channel, errors and their numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import sympy as sp

from dmft.equations.channel_forms import MEANINGS
from dmft.equations.output_channel import OutputChannel, output_channel
from dmft.equations.views.closed import ClosedPrinter
from dmft.gaussian.channels.declared import Label, label_of
from dmft.gaussian.channels.priors import Prior
from dmft.model import FIELD, Model
from dmft.model.loss import PREDICTION
from dmft.summary import figures
from dmft.typeset.fragment import align, fitted
from dmft.workflow.static.ridge import squared_loss_in_overlaps
from dmft.workflow.static.several_fields import several_of

B, QHAT = sp.Symbol("B", real=True), sp.Symbol(r"\hat q", positive=True)
Z, G = r"Z_{\mathrm{out}}", r"g_{\mathrm{out}}"
MEAN = r"\mathbb{E}_{\omega}"
SELECTED = {
    "uninformed": "The fixed point that AMP reaches without prior information",
    "informed": "The fixed point closest to the teacher",
    "all": "The fixed point of the largest free entropy, which is the Bayes optimum,",
}
HEAD = (r"$q$", r"$\hat q$", "MMSE", r"$\Phi$", "stable")


def bayes_latex(found: Any, model: Model, prior: Prior, width: float) -> str:
    """Sentences, equations and numbers of a `BayesOptimal`."""
    label = label_of(model, "latex")
    noise = {"label_noise": sp.Symbol("Delta", positive=True)} if label.noise != 0 else {}
    channel = output_channel(replace(model, **noise))
    single, over, note = label.width == 1, *_over(label)
    whole = figures(prior.second_moment) if single else "I"
    square = f"{G}^2" if single else rf"{G} {G}^\top"
    overlap, entropy = _prior_rows(prior, single)
    errors = [
        r"\mathrm{MMSE} &= "
        + (f"{whole} - q" if single else rf"1 - \frac{{1}}{{{label.width}}}\, \mathrm{{tr}}\, q"),
        rf"\mathcal{{R}} &= \frac{{1}}{{2}}\, {MEAN} \mathrm{{Var}}[g(z) | \omega]",
    ]
    if found.error_rate is not None:
        errors.append(rf"\varepsilon &= {MEAN} \min_y {Z}(y; \omega, V)")
    parts = [
        _data(label, prior),
        align([*overlap, rf"\hat q &= \alpha\, {MEAN} {over} {Z}\, {square}"]),
        rf"where $\omega \sim \mathcal{{N}}(0, q)$, $V = {whole} - q$ and the output channel is"
        f"{note}",
        _channel(channel),
        "At a fixed point the free entropy per dimension is",
        align([rf"\Phi &= {entropy} + \alpha\, {MEAN} {over} {Z} \log {Z}"]),
        "The errors of the weights and of a new label, "
        r"whose field is $z \sim \mathcal{N}(\omega, V)$, are",
        align(errors),
    ]
    return f"{fitted(chr(10).join(parts), width)}\n{_numbers(found)}"


def _data(label: Label, prior: Prior) -> str:
    """What is estimated from which data."""
    single, drawn, noisy = label.width == 1, label.drawn, label.noise != 0
    row = "" if single else "_r"
    noise = r" + \sqrt{\Delta}\, \zeta" if noisy else ""
    y = r"y = \pm 1$ with mean $g(h^*)" if drawn else f"y = g(h^*){noise}"
    laws = (
        rf", $\zeta \sim \mathcal{{N}}(0, 1)$ and $\Delta = {float(label.noise):g}$"
        if noisy
        else ""
    )
    flips = rf", times $-1$ with probability ${float(label.flip):g}$," if label.flip != 0 else ""
    overlap, index = (r"\hat w \cdot w^*/d", "i") if single else (r"\hat w \hat w^\top/d", "ri")
    return (
        rf"Labels ${y}$, $g(z) = {_at(label, label.expr)}${flips} are given for $n = \alpha d$ "
        rf"inputs $x \sim \mathcal{{N}}(0, I_d)$, where "
        rf"$h^*{row} = w^*{row} \cdot x/\sqrt{{d}}${laws}. "
        rf"The weights have the prior $w^*_{{{index}}} \sim {_law(prior)}$. "
        rf"As $d \to \infty$, the overlap $q = {overlap}$ of their posterior mean "
        r"$\hat w$ is a fixed point of state evolution,"
    )


def _law(prior: Prior) -> str:
    """A mixture of Gaussians and of point masses."""
    parts = []
    for p, mean, v in zip(prior.weights, prior.means, prior.variances, strict=True):
        m = figures(mean)
        one = rf"\mathcal{{N}}({m}, {figures(v)})" if v > 0 else rf"\delta_{{{m}}}"
        parts.append(one if p == 1 else rf"{figures(p)}\, {one}")
    return " + ".join(parts)


def posterior_mean(prior: Prior) -> sp.Expr:
    """E[w | B] at the precision `QHAT`, shares relative to the first component's."""
    shares = []
    for given in zip(prior.weights, prior.means, prior.variances, strict=True):
        p, mean, v = (sp.nsimplify(a, rational=True) for a in given)
        power = (v * B**2 + 2 * mean * B - mean**2 * QHAT) / (2 * (1 + v * QHAT))
        share = p / sp.sqrt(1 + v * QHAT) * sp.exp(power)
        shares.append((share, (mean + v * B) / (1 + v * QHAT)))
    first = shares[0][0]
    ratios = [(sp.powsimp(share / first), centre) for share, centre in shares]
    total = sp.Add(*(ratio for ratio, _ in ratios))
    whole = sp.Add(*(ratio * centre for ratio, centre in ratios)) / total
    return whole if 0 in prior.means else sp.simplify(whole)


def _prior_rows(prior: Prior, single: bool) -> tuple[list[str], str]:
    """The overlap at a precision, and the prior's part of the free entropy."""
    if not single:
        row = r"q &= \hat q (I + \hat q)^{-1}"
        trace = r"\frac{1}{2} \mathrm{tr}[\hat q - q \hat q] - \frac{1}{2} \log \det(I + \hat q)"
        return [row], trace
    printer = ClosedPrinter({})
    if prior.is_gaussian:
        v = sp.nsimplify(prior.variances[0], rational=True)
        row = rf"q &= {printer.doprint(v**2 * QHAT / (1 + v * QHAT))}"
        size = printer.doprint(v * QHAT)
        return [row], rf"\frac{{1}}{{2}} [{size} - q \hat q - \log(1 + {size})]"
    mean = posterior_mean(prior)
    rows = [
        r"q &= \mathbb{E}[f(B)^2],\quad B = \hat q\, w^* + \sqrt{\hat q}\, \xi",
        rf"f(B) &= \mathbb{{E}}[w^* | B] = {printer.doprint(mean)}",
    ]
    evidence = r"\log \mathbb{E}_{w} e^{B w - \hat q w^2/2}"
    return rows, rf"\mathbb{{E}}_B {evidence} - \frac{{1}}{{2}} q \hat q"


def _over(label: Label) -> tuple[str, str]:
    """The sum over labels, and what is said of it."""
    if label.width == 1:
        channel = label.channel()
        values, atoms = channel.discrete, tuple(channel.atoms)
    else:
        several = several_of(label)
        atoms = tuple(several.atoms)
        values = tuple(several.values) if several.is_discrete else None
    if values is None:
        if label.noise != 0 or not atoms:
            return r"\int dy\,", ""
        shown = ", ".join(map(figures, atoms))
        note = f" (the integral includes the sum over $y = {shown}$, of positive probability)"
        return r"\int dy\,", note
    if tuple(values) == (-1, 1):
        return r"\sum_{y = \pm 1}", ""
    return rf"\sum_{{y \in \{{{', '.join(map(figures, values))}\}}}}", ""


def _at(label: Label, expr: sp.Expr) -> str:
    """A function of the fields of a label, which are z."""
    k = label.width
    names = ["z"] if k == 1 else [f"z_{n}" for n in range(1, k + 1)]
    fields = (sp.Symbol(name, real=True) for name in names)
    return str(
        ClosedPrinter({}).doprint(expr.xreplace(dict(zip(label.fields, fields, strict=True))))
    )


def _channel(channel: OutputChannel) -> str:
    """Z and its score, in closed form or by their definition."""
    label = channel.declared
    if channel.closed and label.width == 1:
        rows = channel.latex(slope=False).split(" \\\\\n")
        told = [y for y in rows if y.replace(" &=", " =", 1) in MEANINGS.values()]
        meanings = (f"${y.replace(' &=', ' =', 1)}$" for y in told)
        return f"{align([y for y in rows if y not in told])}\nHere {' and '.join(meanings)}."
    g, z = _at(label, channel.inner), "z" if label.width == 1 else f"^{label.width} z"
    law = rf"\delta\left(y - {f'[{g}]' if channel.inner.is_Add else g}\right)"
    if label.drawn:
        law = rf"\frac{{1}}{{2}} \left[1 + y {g}\right]"
    elif label.noise != 0:
        law = rf"\mathcal{{N}}\left(y; {g}, {ClosedPrinter({}).doprint(label.noise)}\right)"
    rows = [
        rf"{Z} &= \int d{z}\, \mathcal{{N}}(z; \omega, V)\, P(y | z)",
        rf"P(y | z) &= {law}",
        rf"{G} &= \nabla_\omega \log {Z}",
    ]
    return align(rows)


def _numbers(found: Any) -> str:
    """Fixed points in a table, and errors at the selected one."""
    rows = [
        (*map(_cell, (b.q, b.qhat, b.mmse, b.free_entropy)), "yes" if b.stable else "no")
        for b in found.branches
    ]
    body = " \\\\\n".join(" & ".join(row) for row in (HEAD, *rows))
    body = body.replace(" \\\\\n", " \\\\ \\hline\n", 1)
    values = [rf"$\mathcal{{R}} = {_infinite(figures(found.risk, found.risk_error))}$"]
    if found.error_rate is not None:
        values.append(
            rf"$\varepsilon = {_infinite(figures(found.error_rate, found.error_rate_error))}$"
        )
    error = f" The error of $q$ is below ${_power(f'{found.error:.0e}')}$." if found.error else ""
    return (
        rf"At $\alpha = {figures(found.samples_per_dim)}$ the fixed points are"
        "\n\\begin{center}\n\\renewcommand{\\arraystretch}{1.2}\\setlength{\\tabcolsep}{4pt}\n"
        f"\\begin{{tabular}}{{@{{}}lllll@{{}}}}\n{body}\n\\end{{tabular}}\n"
        rf"\end{{center}}" + f"\n{SELECTED[found.start]} has {' and '.join(values)}.{error}"
    )


def _cell(value: Any) -> str:
    """A number or a matrix in a table."""
    if np.ndim(value) == 0:
        return f"${_infinite(figures(float(value)))}$"
    cells = ((_infinite(figures(float(y), digits=3)) for y in row) for row in value)
    rows = r" \\ ".join(map(" & ".join, cells))
    return rf"$\bigl(\begin{{smallmatrix}}{rows}\end{{smallmatrix}}\bigr)$"


def _infinite(text: str) -> str:
    return _power(text.replace("∞", r"\infty").replace("±", r"\pm"))


def _power(text: str) -> str:
    """Powers of ten as people write them."""
    return re.sub(r"e([+-]?)0*(\d+)", lambda m: rf" \cdot 10^{{{m[1].strip('+')}{m[2]}}}", text)


SADDLE = (
    r"V &= \frac{1}{\lambda + \hat V},\quad M = V \hat m,\quad Q = M^2 + V^2 \hat q",
    r"\hat V &= - \alpha\, \mathbb{E}[\partial_\omega g],\quad \hat q = \alpha\, \mathbb{E}[g^2]",
    r"\hat m &= \alpha\, \mathbb{E}[g h^*] + M \hat V",
)
PROXIMAL = (
    r"g(\omega, y) &= \frac{h_V(\omega, y) - \omega}{V}",
    r"h_V(\omega, y) &= \arg\min_h \Bigl[\ell(h, y) + \frac{(h - \omega)^2}{2 V}\Bigr]",
)
SEEN = (
    r"Averages are over $\omega \sim \mathcal{N}(0, Q)$, the output's field for a new sample, with "
    r"$\langle \omega h^* \rangle = M$, and over $y$. The losses, the risk and the replicon "
    r"eigenvalue are"
)
MEASURES = {
    "M": "M",
    "Q": "Q",
    "V": "V",
    "train_loss": r"\mathcal{L}_{\mathrm{train}}",
    "test_loss": r"\mathcal{L}_{\mathrm{test}}",
    "risk": r"\mathcal{R}",
    "error_rate": r"\varepsilon",
    "stability": r"\Lambda",
}


def erm_latex(found: Any, model: Model, loss: sp.Expr, width: float) -> str:
    """Sentences, equations and numbers of an `ERM`, whose loss is a function of f and y."""
    label, output = label_of(model, "latex"), model.student.outputs_at([FIELD])[0]
    doprint, (y, laws) = ClosedPrinter({}).doprint, _labels(label)
    h = sp.Symbol("h", real=True)
    f = doprint(output.xreplace({FIELD: h}))
    ell = doprint(loss.xreplace({PREDICTION: output.xreplace({FIELD: h})}))
    head = (
        rf"The weights of a student $f = {f}$, $h = w \cdot x/\sqrt{{d}}$, minimise "
        r"$\sum_{\mu=1}^{n} \ell(h^\mu, y^\mu) + \frac{\lambda}{2} \|w\|^2$ with "
        rf"$\ell(h, y) = {ell}$, over $n = \alpha d$ samples with inputs "
        rf"$x \sim \mathcal{{N}}(0, I_d)$. The labels are {y}, where "
        rf"$h^* = w^* \cdot x/\sqrt{{d}}$, $\|w^*\|^2 = d${laws}. As $d \to \infty$, the overlaps "
        r"$M = w \cdot w^*/d$ and $Q = \|w\|^2/d$ are"
    )
    if found.formulas:
        closed = {MEASURES[n]: doprint(e) for n, e in squared_loss_in_overlaps().items()}
        moments = ", ".join(f"${n} = {figures(v)}$" for n, v in found.moments.items())
        first = [rf"{n} &= {closed.pop(n)}" for n in ("V", "M", r"\Lambda", "Q")]
        about = r"where $c_1 = \mathbb{E}[y h^*]$ and $y_2 = \mathbb{E}[y^2]$, here " + moments
        rest = [rf"{n} &= {text}" for n, text in closed.items()]
        rest.append(r"\mathcal{R} &= \frac{1}{2}\, \mathbb{E} [\sigma_*(h^*) - h]^2")
        parts = [
            head,
            align(first),
            rf"{about}. $\Lambda$ is the replicon eigenvalue; losses and risk are",
        ]
    else:
        seen = doprint(output.xreplace({FIELD: sp.Symbol("omega", real=True)}))
        rest = [
            rf"{MEASURES['train_loss']} &= \mathbb{{E}}\, \ell(h_V(\omega, y), y)",
            rf"{MEASURES['test_loss']} &= \mathbb{{E}}\, \ell(\omega, y)",
            rf"\mathcal{{R}} &= \frac{{1}}{{2}}\, \mathbb{{E}} [\sigma_*(h^*) - {seen}]^2",
            r"\Lambda &= \alpha V^2\, \mathbb{E}[(\partial_\omega g)^2]",
        ]
        parts = [head, align(SADDLE), "with the proximal operator", align(PROXIMAL), SEEN]
    known = [name for name in MEASURES if getattr(found, name) is not None]
    body = " \\\\\n".join(
        f"${MEASURES[n]}$ & ${_infinite(figures(getattr(found, n), found.error.get(n)))}$"
        for n in known
    )
    table = f"\\begin{{center}}\n\\begin{{tabular}}{{@{{}}ll@{{}}}}\n{body}\n\\end{{tabular}}\n"
    wrong = r" The sign of the output is wrong with probability $\varepsilon$." * (
        found.error_rate is not None
    )
    at = rf"At $\alpha = {figures(found.samples_per_dim)}$ and $\lambda = {figures(found.ridge)}$"
    at += r", in the limit $\lambda \to 0$" * (found.ridge == 0)
    text = fitted("\n".join([*parts, align(rest)]), width)
    return f"{text}\n{at}:\n{table}\\end{{center}}{wrong}"


def _labels(label: Label) -> tuple[str, str]:
    """Labels of a teacher's output, and the laws of what they hold."""
    noise = r" + \sqrt{\Delta}\, \zeta" if label.noise != 0 else ""
    y = r"$y = \pm 1$ with mean $\sigma_*(h^*)$" if label.drawn else rf"$y = \sigma_*(h^*){noise}$"
    laws = rf", $\zeta \sim \mathcal{{N}}(0, 1)$ and $\Delta = {float(label.noise):g}$"
    flips = rf", times $-1$ with probability ${float(label.flip):g}$" if label.flip != 0 else ""
    return rf"{y}{flips}, $\sigma_*(z) = {_at(label, label.expr)}$", laws if noise else ""
