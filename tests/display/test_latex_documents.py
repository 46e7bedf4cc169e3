"""LaTeX documents: balanced, escaped, and complete; compiled where pdflatex is installed."""

import re
import shutil
import subprocess

import pytest
import sympy as sp

import dmft
from dmft.display.declaration import escape
from dmft.display.latex import document
from dmft.errors import BadParameter
from dmft.literature import hermite_committee, phase_retrieval, saad_solla

MODELS = {
    "erf": (saad_solla(4, 2, 0.1), dmft.SGD(0.5)),
    "square-sphere": (phase_retrieval(2), dmft.SGD(0.1, constraint="sphere")),
    "hermite-3": (hermite_committee(3, 2), dmft.SGD(0.1)),
    "flow": (saad_solla(2), dmft.GradientFlow()),
}


@pytest.fixture(scope="module", params=MODELS, ids=list(MODELS))
def text(request):
    model, algorithm = MODELS[request.param]
    parts = (dmft.derive(model, algorithm), dmft.population_risk(model))
    return document(*parts, title=f"{request.param} 100% of a_j & more", note="t^2 ~ #1")


def strip_comments(text):
    return re.sub(r"(?<!\\)%.*", "", text)


def test_environments_and_brackets_are_balanced(text):
    body = strip_comments(text)
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{([a-z*]+)\}", body):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", body):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    # \left and \right pair within each line of an alignment: TeX allows no alignment inside.
    for line in re.split(r"\\\\(?![a-z])", body):
        assert len(re.findall(r"\\left(?![a-z])", line)) == len(
            re.findall(r"\\right(?![a-z])", line)
        )


def test_only_plain_characters_and_known_commands(text):
    assert text.isascii()
    words = """
        documentclass usepackage begin end section allowdisplaybreaks textbackslash
        textasciitilde textasciicircum frac sum sqrt left right langle rangle text mathrm quad
        gamma Delta Omega Phi lambda sigma tau pi mathcal arcsin erf operatorname Bigl Bigr
        Lambda delta setlength columnsep raggedright hfuzz subsection xi sim cdot ldots top quad
        qquad times biggl biggr pmatrix to infty tilde
        let renewcommand leftbracket rightbracket mathopen mathclose bgroup egroup aftergroup
    """
    known = set(words.split())
    used = set(re.findall(r"\\([A-Za-z]+)", strip_comments(text)))
    assert used <= known, sorted(used - known)


def test_displayed_lines_have_at_most_the_columns_of_align(text):
    for block in re.findall(r"\\begin\{align\*\}(.*?)\\end\{align\*\}", text, re.DOTALL):
        for line in re.split(r"\\\\(?![a-z])", block):
            assert line.count("&") - line.count(r"\&") <= 3


def test_title_and_note_are_escaped(text):
    assert r"100\% of a\_j \& more" in text
    assert r"t\textasciicircum{}2 \textasciitilde{} \#1" in text


def test_escape_leaves_plain_words_alone():
    assert escape("plain words 123") == "plain words 123"
    assert escape("\\{}") == r"\textbackslash{}\{\}"


def test_powers_of_starred_fields_have_one_superscript_only():
    u, v, z = sp.symbols("u v z", real=True)
    target = dmft.MultiIndex(u + v**3 * sp.sign(u), [u, v])
    text = dmft.derive(dmft.Model(dmft.Committee(z**2, 1), target), dmft.GradientFlow()).latex()
    assert "{h_{2}^*}^{3}" in text
    assert "^*^" not in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_document_compiles(text, tmp_path):
    (tmp_path / "a.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.slow
def test_equations_whose_rates_are_not_explained_say_how_to_print_them(tmp_path):
    two = dmft.Attention(2)
    model = dmft.Model(two, two, encoding=1)
    equations = dmft.derive(model, dmft.SGD(0.1))
    with pytest.raises(BadParameter, match=r"explain=True: .*leave it out"):
        dmft.latex(tmp_path / "a.tex", equations, explain=True)
    proof = dmft.explain(dmft.population_risk(model))
    assert dmft.latex(tmp_path / "a.tex", equations, proof).exists()


def test_clocks_of_flows_and_of_momentum_are_formulas():
    model = saad_solla(2)
    flow = document(dmft.derive(model, dmft.GradientFlow()))
    assert r"as ${\gamma / p \to 0}$" in flow
    heavy = document(dmft.derive(model, dmft.SGD(0.5, momentum=0.9)))
    assert r"n \frac{\gamma}{1 - \beta} / " in heavy
    noisy = document(dmft.derive(model, dmft.SGD(0.5), scaling="noise-dominated"))
    assert r"$t' = n (\gamma / p)^2 / (n_b d)$, that is $t' = t \gamma / (p n_b)$, as " in noisy
    assert r"${(\gamma / p)^2 / (n_b d) \to 0}$" in noisy
    assert "learning_rate" not in heavy + flow
    assert r"\_" not in heavy


def test_every_system_of_a_document_is_complete():
    """Equal lines of other systems are printed again, as letters change their meaning."""
    z = sp.Symbol("z", real=True)
    erf, square = (dmft.Model(*[dmft.Committee(f, 2)] * 2) for f in (sp.erf(z / sp.sqrt(2)), z**2))
    flow, decay = dmft.GradientFlow(), dmft.SGD(0.1, weight_decay=0.2)
    systems = [dmft.derive(erf, flow), dmft.derive(square, flow), dmft.derive(erf, decay)]
    text = document(*systems, dmft.population_risk(erf))
    assert text.count(r"\frac{d M_{j r}}{dt}") == text.count(r"\mathcal{R} &=") == 3
    assert text.count(r"\sigma(z) = \operatorname{erf}") == 2
    assert not re.search(r"local fields,\n\s*\n", text)


@pytest.mark.parametrize(
    ("notation", "lines"),
    [
        (None, (r"M = \frac{W W^{*\top}}{d}", r"with learning rate $\gamma$.")),
        ("saad-solla", (r"R = \frac{J B^\top}{N}", r"with learning rate $\eta$.")),
    ],
)
def test_sums_over_units_hold_at_any_width(notation, lines):
    """Widths are letters; displays are punctuated; f and y are defined once."""
    text = document(dmft.derive(saad_solla(3), dmft.SGD(sp.Symbol("gamma"))), notation=notation)
    assert all(line in text for line in lines)
    assert not re.search(r"[pkKM] = 3|gamma/", text)
    displays = [y.rstrip() for y in re.findall(r"align\*\}(.*?)\\end\{align", text, re.DOTALL)]
    assert all(y.endswith((".", ",")) for y in displays)


def test_descents_on_repeated_data_read_as_in_papers():
    """A linear unit on itself: the field of a sample, its law, averages, and what weights do."""
    line, z = dmft.Committee(sp.Symbol("z", real=True), 1), sp.Symbol("z", real=True)
    erf = dmft.Committee(sp.erf(z / sp.sqrt(2)), 1)
    descent = document(dmft.derive(dmft.Model(line, erf), dmft.GradientDescent(0.4, 2.0)))
    flow = dmft.derive(dmft.Model(erf, erf), dmft.GradientDescent(0.4, 2), scaling="gradient-flow")
    common = (
        r"r &\sim \mathcal{N}(0, C^{\theta}), \quad h^* \sim \mathcal{N}(0, P),",
        r"C^{\ell}(t, s) &= \alpha \langle g^{s}\,g^{t} \rangle,",
        r"$n = \alpha d$",
    )
    for text, lines in (
        (descent, (r"M^{t + 1} &= M^{t} - \eta \alpha \langle g^{t}\,h^* \rangle,", "g &= f - y.")),
        (document(flow), (r"\partial_t M^{t} &= - \alpha \langle g^{t}\,h^* \rangle,",)),
    ):
        assert all(y in text for y in (*common, *lines)), text
        assert all(len(re.findall(rf"^{y} &=", text, re.MULTILINE)) == 1 for y in "fy")
        assert not any(y in text for y in (r"\lambda", "averages: ", "steps$", r"\text"))
