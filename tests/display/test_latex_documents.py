"""LaTeX documents: balanced, escaped, and complete; compiled where pdflatex is installed."""

import re
import shutil
import subprocess

import numpy as np
import pytest
import sympy as sp
from scipy import special

import dmft
from dmft.display.bibliography import subject
from dmft.display.declaration import escape
from dmft.display.latex import document
from dmft.equations.views.declared import _with_noise_in_square
from dmft.equations.views.networks import put_in
from dmft.errors import BadParameter
from dmft.literature import (
    hermite_committee,
    lotka_volterra,
    phase_retrieval,
    reinforcement_perceptron,
    ridge_flow,
    saad_solla,
    spherical_p_spin,
)

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
        ell partial leftarrow
        let renewcommand leftbracket rightbracket mathopen mathclose bgroup egroup aftergroup
        raggedbottom parindent notag label makeatletter makeatother itemsep parsep
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
    assert text.count(r"\sigma(z) &= \operatorname{erf}") == 2
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
        (
            descent,
            (
                r"M^{t + 1} &= M^{t} - \eta \alpha \langle g^{t}\,h^* \rangle,",
                "g^{t} &= f^{t} - y.",
            ),
        ),
        (document(flow), (r"\partial_t M^{t} &= - \alpha \langle g^{t}\,h^* \rangle,",)),
    ):
        assert all(y in text for y in (*common, *lines)), text
        assert all(len(re.findall(rf"^{y} &=", text, re.MULTILINE)) == 1 for y in "fy")
        assert not any(y in text for y in (r"\lambda", "averages: ", "steps$", r"\text"))


Z = sp.Symbol("z", real=True)
ERF = sp.erf(Z / sp.sqrt(2))


def of_two(teachers=2, noise=0.0):
    return dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(ERF, teachers), label_noise=noise)


def test_adam_prints_the_second_moment_of_its_update():
    """S = <psi psi> holds the label's noise, which a Huber loss reads in y."""
    equations = dmft.derive(of_two(noise=0.1), dmft.Adam(0.5))
    plain = {d.name: d for d in equations.definitions if d.role != "block"}
    whole = {d.name: d for d in _with_noise_in_square(equations.definitions) if d.role != "block"}
    assert "S_label" not in whole
    parts = {name: plain[name] for name in ("S_update", "S_label")}
    for name in ("Q", "gain"):
        one = put_in(whole[name].expr, {"S_update": whole["S_update"]})
        assert sp.expand(one - put_in(plain[name].expr, parts)) == 0
    text = document(equations)
    assert r"S_{j l}^{\psi} &= \langle \psi_{j}\,\psi_{l} \rangle = " in text
    huber = document(dmft.derive(of_two(noise=0.1), dmft.Adam(0.5, loss="huber")))
    assert r"S_{j l}^{\psi} &= \langle \psi_{j}\,\psi_{l} \rangle, \\" in huber
    assert r"\langle h_{r}^*\,\psi_{j} \rangle" in huber
    assert r"and the noise $\xi \sim \mathcal{N}(0, 1)$" in huber
    assert not re.search(r"b_\{|\\sqrt\{\\Delta\}\}", huber)


def test_increments_precede_the_drift_that_they_give():
    text = document(dmft.derive(of_two(), dmft.SGD(0.5), dim=1000, fluctuations=True))
    order = (
        r"\bigl[(\delta Q, \delta M)\bigr]",
        "in units of",
        r"\delta Q_{j l} &=",
        "F_{M_{j r}}",
    )
    assert [*order] == sorted(order, key=text.index)
    assert text.index(r"\frac{\gamma \epsilon") < text.index(r"\epsilon_{j l} &=")
    one = document(dmft.derive(phase_retrieval(1), dmft.SGD(0.5), dim=1000, fluctuations=True))
    assert one.index(r"\Sigma_{MM} &=") < one.index("In these order parameters the population risk")


def test_samples_of_descents_are_printed_with_their_time():
    """And the risk, as a population risk, with sums over indices that are no times."""
    text = document(dmft.derive(of_two(1), dmft.GradientDescent(0.1, samples_per_dim=3)))
    assert r"f^{t} &= \frac{1}{p} \sum_{l=1}^{p} \sigma(h^{t}_{l})" in text
    assert r"g^{t}_{j} &= \frac{\left(f^{t} - y\right) \sigma'(h^{t}_{j})}{p}" in text
    risk = dmft.population_risk(of_two(1)).latex(width=500)
    row = re.search(r"\\mathcal\{R\} &= (.*)", risk).group(1)
    row = row.replace("u,v", "l,m").replace("_{u", "_{l").replace("h_{v}", "h_{m}")
    assert " ".join(row.split()) in " ".join(text.replace("\\\\\n& \\quad ", "").split())


def test_pages_of_single_units_use_angles_and_normal_distributions():
    """Lines of a hinge loss and of a ReLU, whose values other tests compare with quadrature."""
    one = dmft.Committee(Z, 1), dmft.Committee(sp.sign(Z), 1)
    text = document(dmft.derive(dmft.Model(*one), dmft.SGD(0.5, loss="hinge")), width=470)
    for line in (
        r"\sqrt{P} \left[\Phi\left(s_{1}\right) - e^{-1/(2 Q)} \Phi\left(s_{2}\right) \cos \theta",
        r"\left[\Phi\left(\frac{1}{\sqrt{Q}}\right) - \Phi_{2}\left(\frac{1}{\sqrt{Q}}, 0;",
        r"s_{2} &= \frac{\cos \theta}{\sqrt{Q} \sin \theta}",
        r"\Phi(a) &= \Pr(z_1 \le a)",
        r"\operatorname{sign}\left(z\right)",
        r"$z_1, z_2$ with correlation $c$",
    ):
        assert line in text
    clusters = dmft.GaussianMixture([[1.0], [-1.0]], labels=[1, -1])
    both = document(dmft.derive(dmft.Model(one[0], clusters), dmft.SGD(0.5, loss="hinge")))
    assert r"s &= \frac{1 - M}{\sqrt{Q}}" in both
    assert "s_{" not in both
    assert text.index(r"\theta &=") < text.index("s_{1} &=")
    assert "C_{" not in text
    ramp = dmft.Model(*[dmft.Committee(sp.Max(0, Z), 1)] * 2)
    text = document(dmft.derive(ramp, dmft.SGD(0.5)), width=470)
    assert r"P \left(\pi - \theta\right) - \pi M + P \sin \theta \cos \theta" in text


def test_the_printed_step_has_the_drift_of_the_overlaps():
    """E[-p dl/dh_j h*] is dM/dt, by samples of two units that learn one: the step in the text."""
    erf = lambda n: dmft.Committee(ERF, n)  # noqa: E731
    equations = dmft.derive(dmft.Model(erf(2), erf(1)), dmft.SGD(0.5))
    text = document(equations)
    assert (
        r"updates $w_j \leftarrow w_j - \frac{\gamma}{\sqrt{d}} (\partial_{h_j} \ell) \, x$ "
        "for the rows $w_j$ of $W$."
    ) in text
    assert "The initial weights are independent of the samples." in text
    Q, M = np.array([[1.2, 0.3], [0.3, 0.8]]), np.array([[0.4], [-0.2]])
    covariance = np.block([[Q, M], [M.T, np.eye(1)]])
    fields = np.random.default_rng(1).multivariate_normal(np.zeros(3), covariance, 400_000)
    values = special.erf(fields / np.sqrt(2))
    error = values[:, :2].mean(1) - values[:, 2]
    slopes = error[:, None] * np.sqrt(2 / np.pi) * np.exp(-(fields[:, :2] ** 2) / 2) / 2
    drift = -2 * slopes * fields[:, 2:]
    rate = equations.evaluate(dmft.Overlaps(Q, M, np.eye(1)))["M"][:, 0]
    assert (np.abs(drift.mean(0) - rate) < 4 * drift.std(0) / np.sqrt(len(drift))).all()


def test_one_order_parameter_is_written_in_the_singular():
    """On the sphere; the weights are rescaled in the step, and the loss is given once."""
    text = document(dmft.derive(phase_retrieval(1), dmft.SGD(0.1, constraint="sphere")))
    assert "concentrate on the solution of the equation of motion\n" in text
    assert text.count(r"\label{eq:") == 2
    risk = r"the population risk $\mathcal{R} = \frac{1}{2} \langle (f - y)^2 \rangle$"
    assert f"In terms of $M$ {risk}, an average over a fresh example, is\n" in text
    assert text.count(r"\mathcal{R} =") == 1
    assert r"length $\|w\|^2 = \|w^*\|^2 = d$, that is $Q = P = 1$." in text
    assert r"(\partial_h \ell) \, x$, then rescales $w$ to $\|w\|^2 = d$." in text
    assert text.count(r"\ell = \frac{1}{2} (f - y)^2") == 1
    two = document(dmft.derive(phase_retrieval(1), dmft.SGD(0.1)))
    assert "concentrate on the solution of the equations of motion\n" in two
    assert text.count(r"\notag") == 0
    assert "In these order parameters the population risk" in two


def test_mixtures_state_their_clusters_first_and_once():
    line = dmft.Committee(Z, 1)
    model = dmft.Model(line, dmft.GaussianMixture([[1.0], [-0.7]], labels=[1, -1]))
    text = document(dmft.derive(model, dmft.SGD(0.5, loss="logistic")))
    assert text.count(r"\mu_2 = -0.7") == text.count("f &= h = ") == 1
    assert r"\sigma" not in text
    assert text.index(r"\mu_2 = -0.7") < text.index("the equations of motion")
    assert r"\bar{f}" not in text
    assert "is trained to classify inputs drawn from Gaussian clusters" in text
    two = document(dmft.derive(dmft.Model(dmft.Committee(ERF, 2), model.inputs), dmft.SGD(0.5)))
    assert (
        r"\mathcal{R} &= \frac{1}{2} \sum_c \rho_c \langle (f - y_c)^{2} \rangle_c. \label{eq:3}"
        in two
    )
    assert r"in cluster $c$ (average $\langle \cdot \rangle_c$)" in two
    assert r"$h^*$ is the projection of $x$ on $w^*$" in two
    assert "form=" not in two
    assert two.count(r"\psi_{j} &=") == two.count(r"\ell =") == 1
    assert "$p$, $k$" not in document(dmft.derive(of_two(1), dmft.SGD(0.5)))


def test_an_equation_is_kept_in_one_column():
    """Rows that continue one allow no break before them; long equations may be split."""
    text = document(dmft.derive(saad_solla(3), dmft.SGD(sp.Symbol("gamma"))), width=246)
    continued = re.findall(r"(\\\\\*?)\n& \\q?quad", text)
    assert len(continued) > 10
    assert set(continued) == {r"\\*"}
    assert not re.search(r"\\\\\*\n(?!& \\q?quad)", text)


def test_letters_of_a_single_teacher_in_sums():
    """The field of one teacher is y, its output K g(y) where networks of K units are sums."""
    equations = dmft.derive(saad_solla(2, 1), dmft.SGD(sp.Symbol("gamma")))
    text = document(equations, notation="saad-solla")
    assert r"\zeta &= K\, g(y),\quad y =" in text
    assert r"\langle g'(x_{j})\,{y}\,g(y) \rangle" in text
    assert r"\,\zeta\," not in text
    assert "a teacher with one hidden unit, output scale $K$ and weights $b$" in text
    assert "for the rows $J_j$ of $J$" in text
    order = (
        r"g(z_{1})\,g(z_{2}) ",
        r"g'(z_{1})\,z_{2}\,g(z_{3})",
        r"\Lambda_{4} &",
        r"\Lambda_{0} &",
    )
    places = [re.search(re.escape(y).replace("&", "&?"), text).start() for y in order]
    assert places == sorted(places)
    assert r"As ${N \to \infty}$ at fixed $K$, the overlaps concentrate" in text


def test_momentum_is_declared_by_its_step():
    unit = dmft.Committee(sp.erf(sp.Symbol("z") / sp.sqrt(2)), 1)
    algorithm = dmft.SGD(0.5, momentum=dmft.Momentum(2.0, 0.5))
    text = document(dmft.derive(dmft.Model(unit, unit), algorithm))
    assert r"G &= -\frac{\gamma}{\sqrt{d}} (\partial_h \ell) \, x," in text
    assert r"u &\leftarrow (1 - \kappa \gamma/d) u + \kappa G," in text
    assert r"w &\leftarrow w + \alpha_1 G + (\gamma/d) u," in text
    assert text.index(r"$\kappa$ is the rate of the velocity (here $\kappa = 2$)") < text.index(
        "risk"
    )


def test_overlaps_with_a_spectrum_are_defined_once():
    """By blocks, as those of the velocity; the values of the blocks are given."""
    unit = dmft.Committee(ERF, 1)
    model = dmft.Model(unit, unit, inputs=dmft.Spectrum([0.5, 2.0], [0.25, 0.75]))
    equations = dmft.derive(model, dmft.SGD(0.5, momentum=dmft.Momentum(2.0)))
    assert subject(equations).endswith("trained by plain SGD with isotropic inputs")
    text = document(equations)
    for line in (
        r"Q_e &= \frac{\|w_e\|^2}{d}",
        r"Q &= \sum_e c_e Q_e = \frac{w^\top \Sigma w}{d}",
        r"eigenvalues $c_e$ ($c_1 = 0.5, c_2 = 2$), which hold the fractions $\phi_e$ "
        r"($\phi_1 = 0.25, \phi_2 = 0.75$)",
        r"$\nu_e = c_e \phi_e$",
        r"L_e &= u_e \cdot w_e^* / d",
        r"\frac{d M_{e}}{dt} &= L_{e}",
        "The initial weights and velocity are independent of the samples.",
    ):
        assert text.count(line) == 1, line
    assert len(re.findall(r"^[QMP] &=", text, re.MULTILINE)) == 2
    assert "block $e = 1" not in text
    flow = document(dmft.derive(model, dmft.GradientFlow()))
    assert r"\nu_e" not in flow


def test_attention_defines_its_outputs_and_its_step_before_the_equations():
    a, omega = sp.symbols("a omega", positive=True)
    model = dmft.literature.positional_semantic(a, omega)
    text = document(dmft.derive(model, dmft.SGD(sp.Symbol("gamma"))))
    order = (
        r"h_l &= \frac{w \cdot (x_l + p_l)}{\sqrt{d}}",
        r"$\|w\|^2 = \|w^*\|^2 = d$, $p_1 = -p_2$, $\|p_1\| = 1$, $p_1 \cdot w^* = 0$",
        r"A_{i j}(h) &=",
        r"\epsilon_i &= A_{ii}(h) - y_{ii}(h^*)",
        "The target has the parameters $a$",
        r"$\ell = \frac{1}{2} \|A - y\|_F^2$",
        r"$w \leftarrow w - \frac{\gamma}{\sqrt{d}} \sum_l \partial_{h_l} \ell \, (x_l + p_l)$",
        "the alignments concentrate on the solution of the equations of motion",
        r"\label{eq:2}",
        "\nwhere\n",
        r"\epsilon_{1}^{2} + \epsilon_{2}^{2}",
    )
    assert [*order] == sorted(order, key=text.index)
    assert "tables" not in text
    assert r"\mathcal{N} &=" not in text


U, V, RHO = sp.symbols("u v rho", real=True)
LINE, SIGN = dmft.Committee(U, 1), dmft.Committee(sp.sign(U), 1)
# Records of other kinds than equations of overlaps, and the paper that their document cites.
OTHERS = {
    "rule": (lambda: dmft.derive(reinforcement_perceptron(4, 1.0, sp.Symbol("b"))), ""),
    "p-spin": (lambda: spherical_p_spin(3), "cugliandolo_kurchan_1993"),
    "ridge flow": (lambda: ridge_flow(2.0, 0.1, (1, 0.2, 1)), ""),
    "species": (lambda: dmft.derive(lotka_volterra(4.0, 0.8, 0.5)), "bunin_2017"),
    "minimiser": (lambda: dmft.erm(dmft.Model(LINE, SIGN), "squared", 2.0, 0.1), ""),
    "Bayes": (lambda: dmft.bayes_optimal(dmft.Model(LINE, SIGN), 2.0), "barbier_2019"),
    "channel": (lambda: dmft.output_channel(dmft.Model(LINE, SIGN)), "barbier_2019"),
    "thresholds": (lambda: dmft.thresholds(dmft.Model(LINE, dmft.Committee(U**2, 1))), ""),
    "escape": (
        lambda: dmft.escape_formula(
            phase_retrieval(2, label_noise=sp.Symbol("Delta")), dmft.SGD(0.1, constraint="sphere")
        ),
        "arnaboldi_2023_mediocrity",
    ),
    "series": (
        lambda: dmft.Gaussian([U, V], [[1, RHO], [RHO, 1]]).series(sp.tanh(U) * sp.tanh(V), 4),
        "",
    ),
    "batches": (lambda: dmft.batch_exponents(3), "arnaboldi_2024"),
    "exponent": (lambda: dmft.leap_exponent(U + U * V, [U, V]), ""),
    "fluctuations": (
        lambda: dmft.derive(
            phase_retrieval(1), dmft.SGD(0.1), dim=sp.Symbol("d"), fluctuations=True
        ),
        "arnaboldi_2023_mediocrity",
    ),
}
DISPLAYED = re.compile(r"\\begin\{(align\*?|tabular|center)\}.*?\\end\{\1\}", re.DOTALL)


@pytest.mark.cases(3)
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("width", [246.0, 455.0])
def test_documents_of_other_records(name, width, tmp_path):
    """No tab in a sentence, no two numbers side by side, the right paper; TeX accepts it."""
    make, paper = OTHERS[name]
    file = dmft.latex(tmp_path / "a.tex", make(), width=width)
    body = file.read_text().split(r"\begin{document}")[1]
    assert not re.search(r"(?<!\\)&", DISPLAYED.sub("", body))
    assert not re.search(r"\d \d(?![^{]*\})", body)
    assert paper in "".join(re.findall(r"\\cite\{[^}]*\}", body)) if paper else r"\cite" not in body
    if shutil.which("pdflatex"):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        log = done.stdout.decode(errors="replace")
        assert done.returncode == 0, log[-2000:]
        assert "Overfull" not in log
