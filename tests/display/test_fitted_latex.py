"""LaTeX that fits its page: widths against TeX, exact rewrites, documents compiled, KaTeX."""

import contextlib
import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import pytest
import sympy as sp

import dmft
from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation, free_indices
from dmft.equations.averages.passes import value_of
from dmft.equations.definitions import MeanSlope
from dmft.equations.symbols import ONLY
from dmft.equations.views.closed import closed_system
from dmft.equations.views.declared import declared_definitions
from dmft.equations.views.latex import subject_of
from dmft.equations.views.printer import EquationPrinter
from dmft.equations.views.text import printed_definitions
from dmft.errors import BadParameter
from dmft.explanation.print_forms import Polynomials, for_print, written
from dmft.gaussian.closed.orthant import ORTHANT, RHO, C, FourSigns, orthant_moment
from dmft.gaussian.closed.pair import elementary
from dmft.typeset.breaking import Names, broken
from dmft.typeset.formula import width
from dmft.typeset.fragment import ALIGN, fitted, split_rows
from dmft.typeset.plain import plain

_SPEC = importlib.util.spec_from_file_location(
    "latex_models", Path(__file__).with_name("latex_models.py")
)
models = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(models)
MODELS, NOT_EXPLICIT = models.MODELS, models.NOT_EXPLICIT
# Three tokens have six fields, which no quadrature judges: refused in words.
NOT_EXPLAINED = {"three_tokens"}
equations, explicit = models.equations, models.explicit

needs_tex = pytest.mark.skipif(shutil.which("latexmk") is None, reason="no TeX (latexmk) here")
z = sp.Symbol("z", real=True)
FORMULAS = (
    r"\frac{\gamma a_{j} a_{l}}{p} \sum_{m,n=1}^{k + p} c_{m} c_{n} \left\langle \sigma'(h_{j})"
    r"\,\sigma(\lambda_{n}) \right\rangle",
    r"\frac{2}{\pi \sqrt{\left(1 + C_{11}\right) \left(1 + C_{22}\right) - C_{12}^{2}}}",
    r"\Omega = \begin{pmatrix} Q & M \\ M^\top & P \end{pmatrix}",
    r"\frac{1}{e^{h^{*}_{1} \left(- h^{*}_{1} + h^{*}_{2}\right)} + 1}",
    r"\left(4 \Phi_{2}\left(\tau_{96} \sqrt{2}, \tau_{96} \sqrt{2}; \tau_{91}\right) -1 \right)",
    r"8 C_{12} C_{34}^{2} + 16 C_{13} C_{24} C_{34} - \operatorname{erf}{\left(\frac{z}{2}\right)}",
    r"18 M \left[M \left(1 - M^{2}\right) - 3 \gamma \left(1 + 12 M^{2} + 18 M^{4}\right)\right]",
)
# Files beside which nothing else is written.
WARNINGS = re.compile(r"(Reference|Citation) .* undefined|There were undefined")
OVERFULL = re.compile(r"Overfull \\hbox \(([\d.]+)pt too wide\)")


def compiled(file):
    command = ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", file.name]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, check=False)
    log = file.with_suffix(".log").read_text(errors="replace")
    assert done.returncode == 0, log[-2000:]
    return log


@needs_tex
def test_widths_are_estimated_from_above(tmp_path):
    lines = "\n".join(
        rf"\setbox0\hbox{{$\displaystyle {y}$}}\typeout{{width: \the\wd0}}" for y in FORMULAS
    )
    text = rf"\documentclass[11pt]{{article}}\usepackage{{amsmath}}\begin{{document}}{lines}a"
    (tmp_path / "a.tex").write_text(text + r"\end{document}")
    found = re.findall(r"width: ([\d.]+)pt", compiled(tmp_path / "a.tex"))
    for formula, points in zip(FORMULAS, found, strict=True):
        assert 0.99 * float(points) < width(formula) < 1.2 * float(points), formula


def test_names_of_exponents_are_not_named_again():
    """Where even a name is too wide it stays, however narrow the line is."""
    names = Names()
    assert broken(r"e^{a + b + c + d} x", 12.0, 12.0, names)
    assert names.texts == {"a + b + c + d": "A_{1}"}


def test_lines_are_broken_and_nothing_is_lost():
    text = r"\frac{a + b + c + d}{e} \left[ x_{1} + x_{2} + \frac{x_{3}}{y_{3}} + z_{4} \right] - u"
    lines = broken(text, 100.0, 90.0, Names(text))
    assert len(lines) > 1
    assert all(width(line) <= 100 for line in lines)
    letters = re.sub(r"\\[a-zA-Z]+|[^a-z0-9]", "", text)
    shown = re.sub(r"\\[a-zA-Z]+|[^a-z0-9]", "", " ".join(lines))
    assert sorted(letters) == sorted(shown)


def test_long_denominators_are_named_and_defined():
    below = " + ".join(f"x_{{{n}}}" for n in range(12))
    text = fitted(rf"\begin{{align*}} y &= \frac{{1}}{{{below}}} \end{{align*}}", 150)
    assert r"\frac{1}{A_{1}}" in text
    assert "where" in text
    assert "A_{1} &= x_{0}" in text


def unnamed(expr, names):
    """The closed form with all names written out."""
    back = {s: p for p, s in names.found.items()} | dict(names.angles)
    while expr.free_symbols & set(back):
        expr = expr.xreplace(back)
    return written(expr)


def closed_forms(name):
    """Closed forms of the averages of the equations, in symbols C_{ij}."""
    for one in equations(name).lowered:
        q = one.average
        if one.how != "value" or not q.is_product or len(q.factors) > 4:
            continue
        places = (At(g, sp.Integer(n)) for n, g in enumerate(q.factors))
        yield elementary(value_of(Expectation(*places), covariance))


def covariance(first, second):
    low, high = sorted((int(first), int(second)))
    name = f"C_{{{low + 1}{high + 1}}}"
    return sp.Symbol(name, positive=True) if low == high else sp.Symbol(name, real=True)


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", ["saad_solla", "sign_erf", "relu"])
def test_forms_of_print_are_exact(name):
    values = [[3, 1, -1, 2], [0, 2, 1, 1], [1, 0, 2, -1], [0, 1, 1, 3]]
    root = sp.Matrix(values) / 3
    law = root * root.T + sp.eye(4) / 7
    at = {covariance(i, j): law[i, j] for i in range(4) for j in range(i, 4)}
    count = 0
    for closed in closed_forms(name):
        names = Polynomials()
        shown = unnamed(for_print(closed, names), names)
        gap = sp.N((shown - closed).xreplace(at), 50, maxn=400)
        assert abs(gap) < sp.Float(10) ** -45
        count += 1
    assert count >= 4


def test_kernels_are_those_of_papers():
    text = equations("saad_solla").latex()
    assert r"\frac{4}{\pi^{2} \sqrt{\Lambda_{4}}} \arcsin" in text
    assert r"\frac{2}{\pi \sqrt{\left(1 + C_{11}\right) \left(1 + C_{22}\right) - C_{12}^{2}}}" in (
        " ".join(text.split())
    )
    # Symbolically: I_2 squared is a rational function.
    a, b = sp.symbols("C_{11} C_{22}", positive=True)
    c = sp.Symbol("C_{12}", real=True)
    closed = 2 / (sp.pi * sp.sqrt(1 + a) * sp.sqrt(1 + b - c**2 / (1 + a)))
    names = Polynomials()
    shown = unnamed(for_print(closed, names), names)
    assert sp.simplify(shown**2 - closed**2) == 0
    assert sp.simplify(shown**2 - 4 / (sp.pi**2 * ((1 + a) * (1 + b) - c**2))) == 0


def test_relu_is_printed_by_angles():
    """In kernels of two and three fields; those of four are printed in the slow documents."""
    text = dmft.derive(MODELS["relu"][0], dmft.GradientFlow()).latex()
    assert r"\left(\pi - \theta_{12}" in text
    assert r"\theta_{12} &= \arccos" in text


@pytest.mark.slow
def test_averages_of_four_relu_fields_are_moments_of_an_orthant():
    """What is printed, in numbers and with rho_qs by its definition, against the compiled form."""
    text = " ".join(equations("relu").latex(width=470).split())
    assert (
        r"I_{4} &= \langle \sigma'(z_{1})\,\sigma'(z_{2})\,\sigma(z_{3})\,\sigma(z_{4}) \rangle = "
        in text
    )
    assert r"= P_{4} C_{3 4} + \sum_{q,s=1}^{4} C_{3 q} F_{q s}" in text
    assert text.count(r"\arcsin") == 1
    assert "Where two of the fields coincide, the average is the limit" in text
    root = sp.Matrix([[3, 1, -1, 2], [0, 2, 1, 1], [1, 0, 2, -1], [0, 1, 1, 3]]) / 3
    covariances = root * root.T + sp.eye(4) / 7  # exact: the angle of a field with itself is 0
    at = {covariance(i, n): covariances[i, n] for i in range(4) for n in range(i, 4)}
    closed = next(e for e in closed_forms("relu") if e.has(FourSigns))
    signs = next(iter(closed.atoms(FourSigns)))
    moment, terms = orthant_moment(3, 4)
    (density,) = terms
    known = {C[i + 1, n + 1]: covariances[i, n] for i in range(4) for n in range(4)}
    correlations = (
        covariances[i, n] / sp.sqrt(covariances[i, i] * covariances[n, n])
        for i, n in combinations(range(4), 2)
    )
    pairs = sum(2 * sp.asin(y) / sp.pi for y in correlations)
    known[ORTHANT] = (1 + pairs + signs.xreplace(at).evalf()) / 16
    for pair in product(range(1, 5), repeat=2):
        border = density.xreplace(dict(zip(density.indices, pair, strict=True)))
        known[border] = sp.S.Zero
        if pair[0] != pair[1]:
            given = [n - 1 for n in pair]
            rest = [n for n in range(4) if n not in given]
            law = covariances.inv().extract(rest, rest).inv()
            value = terms[density].xreplace(dict(zip(density.indices, pair, strict=True)))
            correlation = law[0, 1] / sp.sqrt(law[0, 0] * law[1, 1])
            known[border] = value.subs({RHO[pair]: correlation} | known)
    value = float(moment.doit().subs(known).evalf())
    assert value == pytest.approx(float(closed.xreplace(at).evalf()), rel=1e-12)


def test_declared_values_are_used_and_told():
    plain = equations("erf_one").latex()
    assert r"\frac{d M}{dt}" in plain
    assert r"\Delta = 0" in plain.partition("Here ")[2]
    assert "\nIn these order parameters the risk is\n\\begin{align*}\n\\mathcal{R} &=" in plain
    wide = equations("relu").latex(width=470)  # I_2 is the average of the risk alone
    assert r"I_{2} &= \langle \sigma(z_{1})\,\sigma(z_{2}) \rangle =" in wide
    assert wide.count("I_{2} &=") == 1
    symbolic = equations("erf_one").latex(symbolic=True)
    assert "M_{j r}" in symbolic
    assert r"\Delta" in symbolic
    assert "a_{j}" in symbolic


def test_notations():
    text = equations("saad_solla").latex(notation="saad-solla")
    assert r"\epsilon_g" in text
    assert r"\frac{d R_{j r}}{dt}" in text
    assert r"\eta" in text
    own = equations("saad_solla").latex(notation={"M": "m", "gamma": r"\eta"})
    assert r"\frac{d m_{j r}}{dt}" in own
    with pytest.raises(dmft.errors.BadParameter, match="saad-solla"):
        equations("saad_solla").latex(notation="nobody")
    with pytest.raises(dmft.errors.BadParameter, match="'nothing'"):
        equations("saad_solla").latex(notation={"nothing": "x"})


def test_letters_of_saad_and_solla_are_distinct(tmp_path):
    """Inputs xi, fields x and y, labels zeta: no letter has two meanings."""
    file = dmft.latex(tmp_path / "a.tex", equations("saad_solla"), notation="saad-solla")
    text = file.read_text()
    assert r"x = \frac{J \xi}{\sqrt{N}}" in text
    assert r"y = \frac{B \xi}{\sqrt{N}}" in text
    defined = re.findall(r"(?:^|quad|\n)\s*(\S+) &?=", text.split("The inputs")[0])
    assert len(defined) == len(set(defined)) >= 7
    assert "W" not in re.sub(r"\\[a-zA-Z]+", "", text.split("The inputs")[0])


SPECTRUM = dmft.Spectrum([3, 1], [0.25, 0.75])
h, h_star, y = sp.symbols("h h_star y", real=True)
KEPT = {
    "velocities by block": (1, dmft.SGD(0.5, momentum=dmft.Momentum(1.0, 0.5)), SPECTRUM),
    "averages by block": (2, dmft.SGD(0.5, average=0.3), SPECTRUM),
    "rule by block": (
        1, dmft.UpdateField(sp.tanh(y - h), fields=(h, h_star, y), learning_rate=1), SPECTRUM
    ),
    "velocities": (1, dmft.SGD(0.5, momentum=dmft.Momentum(1.0)), None),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_every_printed_index_is_bound_and_no_letter_has_two_meanings(name):
    width, algorithm, inputs = KEPT[name]
    model = models.committees(models.ERF, width, models.ERF, 1, inputs=inputs)
    derived = dmft.derive(model, algorithm)
    for d in printed_definitions(declared_definitions(subject_of(derived))[0]):
        free = set(free_indices(d.expr)) - set(free_indices(d.target))
        assert not free or (d.expr.has(MeanSlope) and free == {x.n})
    text = derived.latex()
    for odd in ("MeanSlope", "root_", "block_", r"\langle 1", r"\ell"):
        assert (odd in text) == (odd == r"\ell" and width > 1 and "by block" in name)
    assert "c_{m}" not in text
    assert not inputs or r"$\nu_e = c_e \phi_e$" in text
    equal = re.findall(r"(G\S*) = ", text)
    assert len(equal) == len(set(equal))
    if inputs is not None:
        assert "eigenvalue $c_e$" in text
    if "velocities" in name:
        assert r"$\kappa = 1" in text
        one = r"$L_e = u_e \cdot w_e^* / d$" if inputs else r"$L = u \cdot w^* / d$"
        assert (one if width == 1 else "$L = u w^* / d$") in text


def test_explanations_print_signs_and_lengths_as_formulas():
    text = dmft.explain(equations("erf_one")).latex()
    assert r"\,-1\," not in text
    assert "->" not in text
    assert "|x|" not in text.replace(r"\textbar{}", "|")
    wide = dmft.explain(equations("saad_solla"), of="M").latex()
    plain = re.sub(r"\s+|&|\\q?quad|\\,", "", wide.replace(r"\\", ""))
    assert r"\frac{1}{k}\sum_{s=1}^{k}\sigma(h_{s}^*)-\frac{1}{p}\sum" in plain  # teachers first
    assert r"\sqrt{\Delta}\xi" in plain


def test_explicit_relu_is_finite_where_fields_coincide():
    relu = dmft.Committee(sp.Max(0, z), 1)
    one = dmft.derive(dmft.Model(relu, relu), dmft.SGD(0.1))
    found = one.explicit()
    start = dmft.Overlaps([[1.3]], [[0.4]], [[0.9]])
    values = {"Q_11": 1.3, "M_11": 0.4, "P_11": 0.9}
    rate = float(found.subs({n: sp.Float(v) for n, v in values.items()})[found.symbols["Q_11"]])
    want = one.evaluate(start)["Q"][0, 0]
    assert abs(rate - want) < 1e-12


TWICE = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("latex_models", sys.argv[1])
models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(models)
for name in ("relu_tokens", "saad_solla"):
    print(models.equations(name).latex(), models.explicit(name).latex())
"""


@pytest.mark.slow
def test_text_is_the_same_in_each_process():
    """Whatever the hashes of symbols: the order of terms is theirs alone."""
    here = "".join(
        f"{equations(name).latex()} {explicit(name).latex()}\n"
        for name in ("relu_tokens", "saad_solla")
    )
    seed = "0" if os.environ.get("PYTHONHASHSEED") != "0" else "2"  # another one than here
    done = subprocess.run(
        [sys.executable, "-c", TWICE, models.__file__], capture_output=True, check=True, text=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )  # fmt: skip
    assert len(here) > 1000
    assert done.stdout == here


@pytest.mark.cases(1)
@needs_tex
@pytest.mark.parametrize("name", ["saad_solla", "relu_tokens"])
def test_sample_of_documents(name, tmp_path):
    title = "100% of a_j"
    check_document(dmft.latex(tmp_path / "a.tex", equations(name), explicit(name), title=title))


def check_document(file):
    """No line too wide, no symbol without meaning, no equation twice."""
    log, text = compiled(file), file.read_text()
    assert OVERFULL.findall(log) == []
    assert not WARNINGS.search(log)
    assert undefined(text) == set()
    assert repeated(text) == []


@pytest.mark.slow
@needs_tex
@pytest.mark.parametrize("points", [246, 455])
@pytest.mark.parametrize("name", MODELS)
def test_every_document(name, points, tmp_path):
    records = [equations(name)] + ([] if name in NOT_EXPLICIT else [explicit(name)])
    check_document(dmft.latex(tmp_path / "a.tex", *records, width=points))


class InForm:
    """Equations that documents print in one form."""

    def __init__(self, record, form):
        self.record, self.form = record, form

    def __getattr__(self, name):
        return getattr(self.record, name)

    def latex(self, **options):
        return self.record.latex(form=self.form, **options)


@pytest.mark.slow
@needs_tex
@pytest.mark.parametrize("form", ["closed", "structured"])
@pytest.mark.parametrize("name", [y for y in MODELS if y != "descent"])
def test_every_form(name, form, tmp_path):
    found = equations(name)
    subject = subject_of(found)
    if found.noise and found.noise.closed:  # the drift of a stochastic equation
        subject = replace(subject, kind="ode", fluctuates=False)
    if form == "closed" and closed_system(subject) is None:
        with pytest.raises(BadParameter, match="form='structured'"):
            found.latex(form="closed")
        return
    check_document(dmft.latex(tmp_path / "a.tex", InForm(found, form)))


@pytest.mark.cases(3)
@pytest.mark.parametrize("name", [y for y in MODELS if y != "descent"])
def test_no_index_is_free(name):
    """In equations as printed, closed and structured."""
    subject = subject_of(equations(name))
    system = closed_system(subject)
    shown = [*declared_definitions(subject)[0], *(system.definitions if system else ())]
    for d in printed_definitions(shown):
        free = set(free_indices(d.expr)) - set(free_indices(d.target))
        assert not free or (d.expr.has(MeanSlope) and free == {x.n}), (d.target, free)


@pytest.mark.slow
@needs_tex
@pytest.mark.parametrize("name", [y for y in MODELS if y not in NOT_EXPLAINED])
def test_every_explained_document(name, tmp_path):
    """Equations with the derivation of each block."""
    with contextlib.suppress(BadParameter):  # none of the blocks is explained
        check_document(dmft.latex(tmp_path / "a.tex", equations(name), explain=True))


@needs_tex
def test_phase_retrieval_is_explained_on_two_pages(tmp_path):
    """From one step on the sphere to the closed form, with no average of more than two fields."""
    noise = sp.Symbol("Delta", nonnegative=True)
    model = dmft.literature.phase_retrieval(1, label_noise=noise)
    rate = sp.Symbol("gamma", positive=True)
    found = dmft.derive(model, dmft.SGD(rate, constraint="sphere"))
    file = dmft.latex(tmp_path / "a.tex", found, explain=True)
    check_document(file)
    text = file.read_text()
    assert len(text) < 9000
    assert "(2 pages," in file.with_suffix(".log").read_text(errors="replace").replace("\n", "")
    line = r"M \left[\left(4 - 24 \gamma\right) \left(1 - M^{2}\right) - 2 \gamma \Delta\right]"
    assert text.rindex(line) > text.index(r"\section*{Derivation}")
    equations = text.split("the equation of motion")[1].split("Rows of constant length")[0]
    assert r"_{j" not in equations


def explanations(name):
    """Derivations of a model: of its risk and of the rates of its blocks, where there are any."""
    found = equations(name)
    jobs = [lambda: dmft.population_risk(MODELS[name][0]).explain()]
    if name == "descent":
        jobs.append(lambda: dmft.explain(found))
    else:
        jobs += [lambda block=block: dmft.explain(found, of=block) for block in found.terms]
    for job in jobs:
        with contextlib.suppress(dmft.errors.BadParameter):
            yield job()


@needs_tex
def test_sample_of_explanations(tmp_path):
    """A derivation with diagrams, by its keys in a bibliography, and one with long laws."""
    noisy = equations("erf_readout").explain("Q", "sgd_noise")
    drawn = dmft.population_risk(MODELS["he4_on_he2"][0]).explain()
    file = dmft.latex(tmp_path / "a.tex", noisy, drawn)
    check_document(file)
    text = file.read_text()
    assert r"\qbezier" in text
    assert r"~\cite{saad_solla_1995}" in text
    # What a rule says stands once, and is cited by its number.
    stated = re.findall(r"\\paragraph\{Rule (\d+)", text)
    assert stated == [str(n) for n in range(1, len(stated) + 1)]
    assert len(stated) == len({y for one in (noisy, drawn) for s in one.steps for y in s.rules})
    assert text.count("The average of a sum is the sum of the averages") == 1
    headings = re.findall(r"\\paragraph\{\d[\d.]*\. (.*)\.\}", text)
    runs = (run for heading in headings for run in re.findall(r"(\d+)(?:--(\d+))?", heading))
    cited = {str(n) for one, two in runs for n in range(int(one), int(two or one) + 1)}
    assert cited == set(stated)


@pytest.mark.slow
@needs_tex
@pytest.mark.parametrize("points", [246, 455])
@pytest.mark.parametrize("name", [y for y in MODELS if y not in NOT_EXPLAINED])
def test_every_explanation(name, points, tmp_path):
    check_document(dmft.latex(tmp_path / "a.tex", *explanations(name), width=points))


# Mathematics in HTML and in LaTeX: displays, and what stands between dollars.
MATHS = re.compile(
    r"(?P<align>\\begin\{(align|gather)(\*?)\}.*?\\end\{\2\3\})"
    r"|\$\$(?P<display>.+?)\$\$|\$(?P<inline>.+?)\$",
    re.DOTALL,
)


def formulas(record):
    """Formulas of the notebook forms of a record: (display, LaTeX)."""
    for form in ("_repr_latex_", "_repr_html_"):
        text = getattr(record, form, lambda: None)() or ""
        if form == "_repr_html_":
            text = html.unescape(re.sub(r"<[^>]+>", " ", text))
        for match in MATHS.finditer(text):
            shown = next(y for y in match.group("align", "display", "inline") if y)
            yield match.group("inline") is None, shown


def node(*command):
    """Run node with the packages of this folder, or of NODE_PATH."""
    known = [str(Path(__file__).parent / "node_modules"), os.environ.get("NODE_PATH", "")]
    where = {**os.environ, "NODE_PATH": os.pathsep.join(y for y in known if y)}
    return subprocess.run(
        ["node", *command], env=where, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
@pytest.mark.parametrize("name", MODELS)
def test_notebook_forms_are_read_by_katex_and_mathjax(name, tmp_path):
    if node("-e", "require('katex')").returncode:
        pytest.skip("no katex: npm install --prefix tests/display katex mathjax-full")
    records = [equations(name), dmft.population_risk(MODELS[name][0]), *explanations(name)]
    records += [] if name in NOT_EXPLICIT else [explicit(name)]
    found = [formula for record in records for formula in formulas(record)]
    (tmp_path / "a.json").write_text(json.dumps(found))
    done = node(str(Path(__file__).with_name("maths.js")), str(tmp_path / "a.json"))
    assert done.returncode == 0, done.stderr[-800:]
    assert json.loads(done.stdout)["formulas"] == len(found) > 0
    assert json.loads(done.stdout)["found"] == []


# Symbols --------------------------------------------------------------------------------------

NAME = re.compile(r"\\mathcal\{\w\}|\\(?:[A-Za-z]+)|[A-Za-z]")
# Indices, arguments of functions, fields and covariances of averages: told in sentences.
BOUND = set("abcdejlrsimnuvxyzCtpk")
COMMANDS = set(
    re.findall(
        r"\w+",
        """
    frac sqrt left right Bigl Bigr biggl biggr Biggl Biggr langle rangle sum quad qquad begin end
    text mathrm operatorname arcsin arccos log exp tanh max min erf mathbb mathcal pmatrix top times
    approx sim dot pi partial infty ldots cdot le ge star bigl bigr bar tilde Pr sign delta nu
    equiv neq prime mathfrak leftarrow displaystyle xi to perp parallel hat ell int limits mid tfrac
    setminus
    """,
    )
)


def undefined(text):
    """Symbols of displayed formulas that nothing defines: neither a left side nor a sentence."""
    body = text.split(r"\begin{document}")[1]
    prose = ALIGN.sub(" ", body)
    known = set(NAME.findall(" ".join(re.findall(r"\$([^$]*)\$", prose))))
    used = set()
    for match in ALIGN.finditer(body):
        for row in split_rows(match.group(3)):
            plain = re.sub(r"\\(text|mathrm|operatorname|label)\{[^{}]*\}|\\notag", " ", row)
            plain = re.sub(r"\\(begin|end)\{[^{}]*\}", " ", plain)
            for part in re.split(r",\s*\\(?:quad|\s)", plain):
                left = re.split(r"=|\\sim|\\approx", part, maxsplit=1)
                if len(left) == 2:
                    known |= set(NAME.findall(left[0]))
            used |= set(NAME.findall(plain))
    commands = {f"\\{c}" for c in COMMANDS} | {r"\mathcal{N}"}
    return {y for y in used - known if y not in commands and y not in BOUND}


def repeated(text):
    """Equations that a document displays twice; a derivation ends with what it derives."""
    parts = text.split(r"\begin{document}")[1].split(r"\section*{Derivation}")
    return [y for part in parts for y in _repeated(part)]


def _repeated(text):
    found = []
    for match in ALIGN.finditer(text):
        for row in split_rows(match.group(3)):
            plain = re.sub(r"\s+|\\q?quad|&|\\notag|\\label\{[^}]*\}", "", row)
            if re.match(r"\s*&\s*\\q?quad", row) and found:
                found[-1] += plain
            else:
                found.append(plain)
    count = Counter(found)
    named = re.compile(r"=|[A-Z]_\{\d+\}=")  # continued, or a part of the formula before it
    return [y for y in count if count[y] > 1 and "=" in y and not named.match(y)]


@pytest.mark.parametrize("width", [0, 100, -1.0, None, "a4", float("nan")])
def test_widths_that_are_none_are_refused(width):
    """They ended in a recursion without end."""
    risk = dmft.population_risk(dmft.literature.phase_retrieval(1))
    with pytest.raises(BadParameter, match="246 is a column of a journal"):
        risk.latex(width=width)


def test_documents_say_what_they_take(tmp_path):
    model = dmft.literature.phase_retrieval(1)
    with pytest.raises(BadParameter, match=r"pass dmft\.derive"):
        dmft.latex(tmp_path / "a.tex", model)
    with pytest.raises(BadParameter, match="has no LaTeX"):
        dmft.latex(tmp_path / "a.tex", 3)
    z = sp.Symbol("z", real=True)
    file = dmft.latex(tmp_path / "a.tex", dmft.Gaussian([z], [[1]]))
    assert r"\mathcal{N}" in file.read_text()
    assert not file.with_suffix(".bib").read_text().strip()


def test_papers_of_a_declaration_are_those_of_its_equations():
    model, sphere = dmft.literature.phase_retrieval(1), dmft.SGD(0.1, constraint="sphere")
    assert dmft.cite(model, sphere) == dmft.cite(dmft.derive(model, sphere))
    assert "ben_arous_2021" in dmft.cite(model, sphere)
    assert "ben_arous_2021" not in dmft.cite(model, dmft.SGD(0.1))
    for objects, words in (((), "cite requires at least one object"), ((3,), "has no citations")):
        with pytest.raises(BadParameter, match=words):
            dmft.cite(*objects)


def test_polynomials_of_many_terms_are_printed_as_they_are(monkeypatch):
    """SymPy's factors of one with 38 terms in 10 symbols take hours in one printing of 25."""
    seen, factor = [], sp.factor
    monkeypatch.setattr(sp, "factor", lambda e: seen.append(e) or factor(e))
    a, b = sp.symbols("z1 z2", real=True)
    student = dmft.Committee(sp.erf(z / sp.sqrt(2)), 1)
    model = dmft.Model(student, dmft.MultiIndex(a**2 / 2 + b**2, [a, b]))
    dmft.derive(model, dmft.SGD(0.1, loss="correlation", constraint="sphere")).latex()
    assert seen
    assert max(len(sp.Add.make_args(sp.expand(e))) for e in seen) <= 30


GELU = z * (1 + sp.erf(z / sp.sqrt(2))) / 2


@pytest.mark.parametrize("kind", ["latex", "text"])
def test_activations_that_are_products_have_their_names(kind):
    """Multiplied out they were printed as sigma(%s)(h)."""
    found = dmft.derive(models.committees(GELU, 2, GELU, 1), dmft.SGD(0.1))
    text = found.latex(kernels="none") if kind == "latex" else str(found)
    assert "%s" not in text
    assert (r"\sigma'(h_{j})\,h^{*}\,\sigma(h^*)" if kind == "latex" else "σ'(h[j])") in text


def test_losses_and_rules_are_declared_in_words(tmp_path):
    """By name and as a formula; an `UpdateField` has an update, no loss."""

    def text(algorithm):
        found = dmft.derive(models.committees(models.ERF, 2, models.ERF, 1), algorithm)
        return " ".join(dmft.latex(tmp_path / "a.tex", found).read_text().split())

    half = r"\left|{f - y}\right|"
    square = r"$\ell = \frac{\left(f - y\right)^{2}}{2}$"
    huber = text(dmft.SGD(0.1, loss="huber"))
    assert rf"on the Huber loss, {square} for ${half} \leq 1$" in huber
    assert r"on the hinge loss $\ell = \max\left(0, 1 - y f\right)$, with" in text(
        dmft.SGD(0.1, loss="hinge")
    )
    rule = dmft.UpdateField(sp.tanh(y - h), fields=(h, h_star, y), learning_rate=0.1)
    assert "None" not in text(rule)
    assert r"gradient descent along the updates $\psi$ uses" in text(rule)


def test_decimals_are_short():
    """Roots of short decimals as roots, others by six digits."""
    printed = {0.1**0.5: r"\sqrt{0.1}", 1e-2 * 0.1**0.5: r"0.01 \sqrt{0.1}", 4.0: "4", 0.25: "0.25"}
    printed |= {1 / 3: "0.333333", 1.5e-7: r"1.5 \cdot 10^{-7}"}
    printer = EquationPrinter({})
    for value, text in printed.items():
        assert printer.doprint(sp.Float(value)) == text
        assert printer.doprint(x.Q[x.j, x.l] - sp.Float(value) * x.gamma).endswith(
            rf"- {text} \gamma"
        )


def test_stochastic_equations_are_drift_and_increments():
    """At the declared readouts and noise, in sums over units; the increments are defined."""
    model = models.committees(models.ERF, 2, models.ERF, 2)
    found = dmft.derive(model, dmft.SGD(0.1), dim=100, fluctuations=True)
    text = found.latex()
    for row in (
        r"F_{M_{j r}} &= \frac{1}{k} \sum_{s=1}^{k} I_{3}(j, r, s)",
        r"\frac{\gamma \epsilon_{j l}}{d p}",
        r"\delta Q_{j l} &= \frac{\gamma \psi_{j} \psi_{l}}{p} + h_{j} \psi_{l} + h_{l} \psi_{j}",
        r"\delta M_{j r} &= h_{r}^* \psi_{j}",
        r"\psi_{j} &= \sigma'(h_{j}) \left[\frac{1}{k} \sum_{r=1}^{k} \sigma(h_{r}^*)",
    ):
        assert row in text
    assert not re.search(r"(?<![a-z])a_\{", text)
    for letter in (r"\xi", r"\Delta}", r"\tilde", r"}{dt}"):
        assert letter not in text
    assert "a_{j}" in found.latex(symbolic=True)
    one = models.committees(models.ERF, 1, models.ERF, 1)
    text = dmft.derive(one, dmft.SGD(0.1), dim=100, fluctuations=True).latex(width=470)
    assert r"\sqrt{\frac{\gamma}{d}}" in text
    assert r"F_{M} &= \frac{2}{\pi \left(1 + Q\right)}" in text
    assert text.index(r"\psi &=") < text.index(r"\delta Q &=") < text.index(r"\mathcal{R} &=")
    assert "C_{" not in text


def test_output_channels_are_aligned_once(tmp_path):
    """Each row of a document has its formula beside its name."""
    channel = dmft.output_channel(models.committees(z, 1, sp.sign(z), 1))
    text = dmft.latex(tmp_path / "a.tex", channel).read_text()
    for row in (
        r"& Z_{\mathrm{out}}(y; \omega, V) = H(- \omega y/\sqrt{V}),",
        r"& g_{\mathrm{out}}(y; \omega, V) = \frac{y \phi(\omega/\sqrt{V})}{H",
    ):
        assert f"\n{row}" in text
    explained = dmft.latex(tmp_path / "b.tex", channel, explain=True).read_text()
    assert "oo" not in explained.split("Derivation")[1].split("Sources")[0]
    assert r"\begin{cases}" not in explained


def test_overlaps_of_single_units_have_no_index():
    """Explanations printed Omega with the internal name of the only teacher."""
    student, teacher = ONLY[0], x.p + ONLY[1]
    printed = EquationPrinter({}).doprint
    entries = {x.Omega[student, student]: "Q", x.Omega[teacher, teacher]: "P"}
    entries |= {x.Omega[student, teacher]: "M", x.Omega[teacher, student]: "M"}
    entries[x.Omega[x.j, teacher]] = "M_{j}"
    for entry, text in entries.items():
        assert printed(entry) == text


def test_cases_of_a_loss_are_text():
    """Huber's loss in a terminal, without the name of a class."""
    found = dmft.derive(models.committees(z, 1, z, 1), dmft.SGD(0.1, loss="huber"))
    text = str(found)
    assert "{(y - f)²/2 for |y - f| ≤ 1; |y - f| - 1/2 otherwise}" in text
    assert "Piecewise" not in text


PLAIN = {
    r"\frac{d M_{j r}}{dt} = - \frac{1}{p} \sum_{u=1}^{p} M_{u r}": "dM[j,r]/dt = - 1/p Σ_u M[u,r]",
    r"\sum_{s=0}^{t -1} R_{j l}(t, s)": "Σ_s=0..t-1 R[j,l](t, s)",
    r"w_j + \gamma \sum \psi_j": "w[j] + γ Σ ψ[j]",
    r"\left\langle \sigma'(h_{j})\,\sigma(h_{r}^*)^{2} \right\rangle": "⟨σ'(h[j]) σ(h*[r])²⟩",
    r"\frac{a + b}{c d} x": "(a + b)/(c d) x",
    r"\frac{\left(a + b\right) c}{d}": "(a + b) c/d",
    r"\sqrt{\frac{2}{\pi}} e^{- z^{2}/2}": "sqrt(2/π) e^(- z²/2)",
    r"\frac{\gamma}{d p} + \frac{\gamma}{d p^{2}}": "γ/(d p) + γ/(d p²)",
    r"\sqrt{D' \left(1 + Q\right)} \sigma' (h)": "sqrt(D' (1 + Q)) σ'(h)",
    r"{\lambda^{n}_{w}}^{2}": "(λ[w]^n)²",
    r"F_{M} + \rho_{a} dB_t \simeq \Phi_{2} \left(x; c\right)": "F_M + ρ_a dB_t ≃ Φ_2(x; c)",
    r"\left[\begin{matrix}1 & 0\\0 & 2\end{matrix}\right] \otimes I": "[[1, 0], [0, 2]] ⊗ I",
    r"\int\limits_{0}^{1} 4 m\, d\tau": "∫_0^1 4 m dτ",
    r"\mathbb{E}_{T_{1}}\left[x_{1}^{3}\right]": "E_T_1[x_1³]",
    r"\begin{pmatrix} Q & M \\ M^\top & I \end{pmatrix}": "[[Q, M], [Mᵀ, I]]",
    r"\mathcal{N}(0, I_d),\quad 10^{-10}": "N(0, I_d),    10⁻¹⁰",
    r"\begin{cases} x & \text{for}\: x > 0 \\ 0 & \text{otherwise} \end{cases}": (
        "{x for x > 0; 0 otherwise}"
    ),
}


@pytest.mark.parametrize("latex", PLAIN)
def test_formulas_as_text(latex):
    assert plain(latex) == PLAIN[latex]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("mixture", "sde")]


@pytest.mark.parametrize("name", ["phase_sphere", "attention", "descent", *SLOW])
def test_print_has_no_commands_and_fits_a_terminal(name):
    lines = str(models.equations(name)).split("\n")
    assert not any("\\" in line or "$" in line or "&" in line for line in lines)
    assert max(map(len, lines)) < 130
    assert len(lines) < 40


def test_print_says_what_its_letters_are():
    line = dmft.Committee(z, 1)
    signs = dmft.Model(line, dmft.Committee(sp.sign(z), 1), label_flip=0.1)
    assert str(signs).split("\n") == [
        "labels   y = sign(z), the sign wrong with probability 0.1, z = W* x/sqrt(d)",
        "student  f = z, z = W x/sqrt(d)",
        "inputs   x ~ N(0, I_d)",
    ]
    # What runs record holds all fields, which tell declarations apart.
    assert "label_flip=0.1" in dmft.derive(signs, dmft.SGD(0.5)).provenance["model"]
    text = " ".join(str(dmft.derive(signs, dmft.SGD(0.5))).split())
    assert "ε = 0.1 is the probability that a label has the wrong sign" in text
    assert "Here L is the expected loss, E is the probability of a wrong sign." in text
    square = dmft.Model(*[dmft.Committee(z**2, 1)] * 2)
    ahead = dmft.SGD(0.5, repeat=dmft.Lookahead(0.2), readout_rate=0.1)
    text = str(dmft.derive(square, ahead))
    assert "ρ = 0.2 is the length of the displacement" in text
    assert "ρ_a = 0.1 is the rate of the readouts a" in text
    text = str(dmft.derive(square, dmft.SGD(0.5, momentum=0.9)))
    assert text.split("\n")[0].endswith("; with γ/(1 - β) in place of γ")
    descent = dmft.derive(square, dmft.GradientDescent(0.3, 3, ridge=0.1, momentum=0.5))
    text = " ".join(str(descent).split())
    assert "n = α d samples" in text
    assert "λ = 0.1 is the ridge, β = 0.5 is the momentum. A new example has centred" in text
    formula = dmft.escape_formula(square, dmft.SGD(0.1, constraint="sphere"))
    assert str(formula).endswith("Here u_0 is u at the start, u_1 at time t.")
    rule = str(dmft.derive(dmft.literature.masked_inputs(0.5)))
    assert "Terms in this order" not in rule
    assert "Fields are products such as λ[B]^x = B · x / sqrt(d)." in rule
    student = dmft.Committee(z**2, 2, readout=[1, -1])
    risk = dmft.population_risk(dmft.Model(student, dmft.Committee(sp.tanh(z), 1)))
    assert "a = (1, -1) are the readouts" in str(risk)
    network = dmft.literature.low_rank_network(sp.tanh(z), 1.5)
    assert "(m, n) of a unit is drawn from JointNormal(" in str(dmft.derive(network))


def test_two_time_problems_are_printed_as_their_formulas():
    rows = str(dmft.literature.spherical_p_spin(3)).split("\n")
    assert rows[:4] == [
        "spherical 3-spin glass",
        "  ∂_t C(t,s) = - C(t,s) μ(t)     (sphere)",
        "      + 3/2 ∫_0^s C²(t,u) R(s,u) du     (noise)",
        "      + 3 ∫_0^t C(t,u) C(u,s) R(t,u) du     (memory)",
    ]
    assert "  μ(t) = 9/2 ∫_0^t C²(t,u) R(t,u) du" in rows


@pytest.mark.parametrize("head", ["= ", "- ", "+ 2 ", "= 2 "])
def test_short_factors_are_distributed_where_inner_brackets_would_be_broken(head):
    """The lines are the same function, and no bracket is open at their ends."""
    formula = rf"{head}k \left[a \left[b + c\right] - d \left[e + g\right] - h\right]"
    lines = broken(formula, 70.0, 70.0, Names(("A",)))
    assert len(lines) > 1
    assert all(line.count("[") == line.count("]") == line.count(r"\left[") for line in lines)
    letters = dict(zip("abcdeghk", sp.symbols("a b c d e g h k"), strict=True))

    def value(text):
        text = text.replace(r"\left[", "(").replace(r"\right]", ")").replace("=", "")
        text = re.sub(r"(?<=[a-z0-9)])\s+(?=[a-z(])", "*", text.strip())
        return sp.parse_expr(text, local_dict=letters)

    assert sp.expand(value(" ".join(lines)) - value(formula)) == 0


@pytest.mark.parametrize(
    "formula",
    [
        r"32 \left[2 Q \left[P - 3 Q\right] + 5 M \left[P + 1\right] - 7\right]",
        r"- 4 M \left[3 \gamma \left[P - Q\right] + M \left[Q + 1\right]\right]",
        r"0.5 \left[2 Q \left[P - 3 Q\right] + M \left[P + 1\right]\right]",
        r"2 \left[0.5 Q \left[P - 3 Q\right] + M \left[P + 1\right]\right]",
    ],
)
def test_numbers_of_a_distributed_factor_are_multiplied(formula):
    """Two numbers side by side would be read as one."""
    lines = " ".join(broken(formula, 70.0, 70.0, Names(("A",))))
    assert not re.search(r"\d \d|(?<![A-Za-z\\])([A-Z]) \1", lines)


def test_no_two_numbers_stand_side_by_side_in_the_covariance():
    for points in (246, 455):
        text = equations("sde").latex(width=points)
        assert r"\Sigma_{Q Q}" in text or r"\Sigma_{QQ}" in text
        assert not re.search(r"\d \d", text)
