"""Documents of Bayes-optimal limits: what they print is what the numbers solve."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import quad
from scipy.stats import norm

import dmft
from dmft.gaussian.channels.priors import as_prior
from dmft.workflow.static.page import QHAT, B, bayes_latex, posterior_mean

z, z1, z2 = sp.symbols("z z1 z2", real=True)
LINE = dmft.Committee(z, 1)


def found(label, alpha, *fields, prior="gaussian", **options):
    model = dmft.Model(LINE, dmft.MultiIndex(label, fields or (z,)), **options)
    return dmft.bayes_optimal(model, alpha, prior=prior)


def test_a_page_of_signs_has_equations_errors_and_numbers(tmp_path):
    limit = found(sp.sign(z), 1.0)
    text = dmft.latex(tmp_path / "signs.tex", limit).read_text()
    for line in (
        r"q &= \frac{\hat q}{1 + \hat q}",
        r"\hat q &= \alpha\, \mathbb{E}_{\omega} \sum_{y = \pm 1} Z_{\mathrm{out}}\, g",
        r"Z_{\mathrm{out}}(y; \omega, V) &= H(- \omega y/\sqrt{V})",
        r"\varepsilon &= \mathbb{E}_{\omega} \min_y Z_{\mathrm{out}}(y; \omega, V)",
        r"$0.486264$ & $0.946524$ & $0.513736$ & $-0.596441$ & yes",
        r"\cite{barbier_2019,aubin_2018}",
    ):
        assert line in text
    assert not re.search(r"samples\\?_per|qhat|-> infinity|\d\.0*e-|quadrature", text)

    def over(function):  # the printed averages, by the printed channel
        q, v = limit.q, 1 - limit.q

        def inside(w):
            probabilities = norm.sf(-y * w / np.sqrt(v))
            scores = y * norm.pdf(w / np.sqrt(v)) / (probabilities * np.sqrt(v))
            return function(probabilities, scores) * norm.pdf(w, scale=np.sqrt(q))

        y = np.array([1.0, -1.0])
        return quad(inside, -6, 6, epsabs=1e-10)[0]

    qhat = over(lambda p, g: p @ g**2)
    assert limit.q == pytest.approx(qhat / (1 + qhat), abs=1e-8)
    part = 0.5 * (qhat - limit.q * qhat - np.log1p(qhat))
    assert limit.free_entropy == pytest.approx(part + over(lambda p, g: p @ np.log(p)), abs=1e-8)
    assert limit.error_rate == pytest.approx(over(lambda p, g: p.min()), abs=1e-8)


def test_priors_print_their_posterior_mean():
    assert posterior_mean(as_prior("rademacher")) == sp.tanh(B)
    sparse = dmft.GaussBernoulli(0.3)
    field, precision = 1.7, 2.5

    def moment(n):
        slab = quad(lambda w: w**n * np.exp(field * w - precision * w**2 / 2) * norm.pdf(w), -9, 9)
        return 0.3 * slab[0] + 0.7 * (n == 0)

    formula = posterior_mean(sparse).subs({B: field, QHAT: precision})
    assert float(formula) == pytest.approx(moment(1) / moment(0), rel=1e-10)
    text = found(z, 0.5, prior=sparse, label_noise=0.1).latex()
    assert r"w^*_{i} \sim 0.3\, \mathcal{N}(0, 1) + 0.7\, \delta_{0}" in text
    assert r"g_{\mathrm{out}}(y; \omega, V) &= \frac{y - \omega}{\Delta + V}" in text
    assert r"\Delta = 0.1$" in text
    assert "V = 0.3 - q" in text


def test_labels_without_closed_channel_print_its_definition():
    text = found(z**3 - 3 * z, 1.1).latex()
    assert r"Z_{\mathrm{out}} &= \int dz\, \mathcal{N}(z; \omega, V)\, P(y | z)" in text
    assert r"P(y | z) &= \delta\left(y - [z^{3} - 3 z]\right)" in text
    relu = found(sp.Max(0, z), 1.0).latex()
    assert "the integral includes the sum over $y = 0$" in relu
    assert r"\begin{cases} H(\omega/\sqrt{V}), & y = 0" in relu


def test_pages_of_several_fields_print_matrices():
    model = dmft.Model(LINE, dmft.MultiIndex(sp.sign(z1 * z2), (z1, z2)))
    branch = SimpleNamespace(q=np.eye(2) / 4, qhat=np.eye(2) / 3, mmse=0.75, free_entropy=-2.0)
    branch.stable = True
    limit = SimpleNamespace(branches=[branch], samples_per_dim=3.0, start="all", error=2e-3)
    limit.risk, limit.risk_error, limit.error_rate = 0.48793, 4e-4, None
    text = bayes_latex(limit, model, as_prior("gaussian"), 246)
    assert r"$\bigl(\begin{smallmatrix}0.25 & 0 \\ 0 & 0.25\end{smallmatrix}\bigr)$ &" in text
    assert r"\mathcal{R} = 0.4879 \pm 0.0004$. The error of $q$ is below $2 \cdot 10^{-3}$" in text
    assert r"q &= \hat q (I + \hat q)^{-1}" in text
    assert r"\int d^2 z\," in text
    assert r"g_{\mathrm{out}} g_{\mathrm{out}}^\top" in text
    assert r"\mathrm{MMSE} &= 1 - \frac{1}{2}\, \mathrm{tr}\, q" in text


def test_a_limit_of_a_file_prints_its_table(tmp_path):
    limit = found(sp.sign(z), 1.0)
    again = dmft.load(limit.save(tmp_path / "limit.nc"))
    assert again == limit
    assert again.latex().count(r"\begin{tabular}") == 2


def test_no_label_has_two_signs_at_once():
    model = dmft.Model(LINE, dmft.MultiIndex(sp.Max(0, z), (z,)), label_flip=0.1)
    assert r"y > 0 \wedge y < 0" not in dmft.output_channel(model).latex()


def test_minimisers_print_their_equations():
    """The printed lines hold for the numbers, with the moments of signs by hand."""
    model = dmft.Model(LINE, dmft.MultiIndex(sp.sign(z), (z,)))
    found = dmft.erm(model, "squared", 2.0, 0.5)
    text = found.latex(width=455)
    assert r"\ell(h, y) = \frac{\left(h - y\right)^{2}}{2}" in text
    assert r"Q &= \frac{\Lambda \left(y_{2} - 2 M c_{1}\right) + M^{2}}{1 - \Lambda}" in text
    c1, y2, M, Q, V = np.sqrt(2 / np.pi), 1.0, found.M, found.Q, found.V
    Lambda = found.stability
    assert pytest.approx((Lambda * (y2 - 2 * M * c1) + M**2) / (1 - Lambda)) == Q
    general = dmft.erm(model, "logistic", 2.0, 0.1).latex(width=455)
    assert r"\hat m &= \alpha\, \mathbb{E}[g h^*] + M \hat V" in general
    assert r"with the proximal operator" in general
    # The general lines, for the squared loss, whose proximal operator is (omega + V y)/(1 + V).
    slope, square, along = -1 / (1 + V), (y2 - 2 * c1 * M + Q) / (1 + V) ** 2, (c1 - M) / (1 + V)
    Vhat, qhat, mhat = -2.0 * slope, 2.0 * square, 2.0 * along - 2.0 * M * slope
    assert pytest.approx([V, M, Q]) == [1 / (0.5 + Vhat), V * mhat, M**2 + V**2 * qhat]
    for line in ("0.573857", "0.473596", "0.186118", r"\mathcal{L}_{\mathrm{train}}"):
        assert line in text
    limit = dmft.erm(model, "squared", 2.0, 0.0).latex()
    assert r"in the limit $\lambda \to 0$" in limit


def test_tables_of_results_fit_a_column():
    """A meaning is below its value, and the widest column is broken into lines."""
    model = dmft.Model(LINE, dmft.MultiIndex(sp.Abs(z), (z,)))
    text = dmft.thresholds(model)._summary().latex()
    assert r"algorithmic & 1.12847 \newline Smallest alpha" in text
    assert r"\begin{tabular}{@{}lp{0.47\linewidth}@{}}" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}}") == 2


def test_a_minimiser_prints_its_loss_and_no_empty_table():
    """A field that only `latex` reads is not listed; functions have lower-case names."""
    model = dmft.Model(LINE, dmft.MultiIndex(sp.sign(z), (z,)))
    text = str(dmft.erm(model, "hinge", 2.0, 0.1))
    assert "max(0, " in text
    assert not re.search(r"latex|Max\(", text)


def test_each_abbreviation_of_a_channel_has_a_line():
    relu = dmft.Model(LINE, dmft.MultiIndex(sp.Max(0, z), [z]))
    lines = dmft.output_channel(relu).latex().split("\\\\\n")
    names = (r"H(t) &=", r"\phi(t) &=", r"\mathcal{N}(t; m, v) &=")
    for line, name in zip(lines[-3:], names, strict=True):
        assert line.strip().startswith(name)
