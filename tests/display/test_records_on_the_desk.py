"""Every public record: a line or two as text, mathematics or a page in a notebook."""

import importlib.util
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.display import pages
from dmft.summary import Summary, figures

_SPEC = importlib.util.spec_from_file_location("records", Path(__file__).parent / "records.py")
records = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(records)

EVERY = {**records.RECORDS, **records.OTHERS}
# Minutes of compiling, or of drawing.
LONG = {"TwoTimeRun", "DescentRun", "EscapeTimes", "landscape", "stability", "series"}
# Two lines of a terminal.
LONGEST = 200


def test_every_public_class_has_a_record_here():
    classes = {
        name
        for name in dmft.PUBLIC
        if isinstance(getattr(dmft, name), type)
        and not issubclass(getattr(dmft, name), (Warning, str))
    }
    assert classes == set(records.RECORDS)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in EVERY]
)
def test_records_show_themselves(name, tmp_path):
    if name == "Certificate":
        pytest.importorskip("flint", reason="python-flint is not installed (extra certify)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        record = EVERY[name](tmp_path / "store")
    text = repr(record)
    assert text.count("\n") <= 1
    assert len(text) <= LONGEST
    html = record._repr_html_() if hasattr(record, "_repr_html_") else None
    latex = record._repr_latex_() if hasattr(record, "_repr_latex_") else None
    assert html or latex
    if html:
        assert "array([" not in html
        assert r"\paragraph" not in html
        assert "\n%" not in html
        assert html.count("<tr>") <= 40
        drawn = {one.__name__ for one in type(record).__mro__} & pages.DRAWN
        assert ("<img" in html) == bool(drawn)
        assert html.count("<div>") == html.count("</div>")
        if not drawn:
            assert len(html) < 6000


TABLE = {
    "ERM": [("M", "M"), ("Q", "Q"), ("risk", "risk"), ("test loss", "test_loss")],
    "Spectral": [("cosine squared", "cosine_squared"), ("threshold", "threshold")],
    "Separability": [("ratio", "ratio")],
    "EscapeTime": [("value", "value"), ("threshold", "threshold")],
    "FixedPoint": [("risk", "risk"), ("residual", "residual")],
    "Stationary": [("variance", "variance"), ("lyapunov exponent", "lyapunov_exponent")],
    "NetworkFixedPoint": [("output mean", "output_mean"), ("replicon", "replicon")],
    "LyapunovExponent": [("value", "value")],
}


def cells(text):
    """Rows of a printed table, by their first cell."""
    return {row[0]: row[1:] for row in (re.split(r"\s{2,}", y.strip()) for y in text.split("\n"))}


@pytest.mark.parametrize("name", TABLE)
def test_printed_numbers_are_the_fields(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        record = EVERY[name](tmp_path / "store")
    text, html = str(record), record._repr_html_()
    rows = cells(text)
    assert max(map(len, text.split("\n"))) <= 110
    for label, attribute in TABLE[name]:
        shown = rows[label][0].partition(" ± ")[0]
        number = float(shown.replace("∞", "inf"))
        assert number == pytest.approx(getattr(record, attribute), rel=6e-6), label
        assert f">{rows[label][0]}<" in html
    assert "=" not in rows


def test_errors_decide_the_digits():
    assert figures(1.23456789, 0.004) == "1.235 ± 0.004"
    assert figures(1.23456789, 1e-9) == "1.23457"
    assert figures(-3.2e-7, 2e-8) == "-3.2e-07 ± 2e-08"
    assert figures(1234.5, 30) == "1.23e+03 ± 3e+01"
    assert figures(float("-inf"), 1.0) == "-∞"
    assert figures(np.array([[1.0, 0.25]])) == "[[1, 0.25]]"
    assert figures(2 - 1j) == "2-1j"


def test_summaries_have_three_layouts():
    said = Summary(
        r"Law of $\hat q$ & $M_{11}$", (("a_b", "1 ± 0.5"), ("c", "2", "note")), ("", "x")
    )
    lines = said.text().split("\n")
    assert lines == ["Law of q̂ & M_11", "       x", "  a_b  1 ± 0.5", "  c    2        note"]
    assert said.html().count("<td ") == 9
    assert r"Law of $\hat q$ &amp; $M_{11}$" in said.html()
    assert r"a\_b & 1 $\pm$ 0.5 &  \\" in said.latex()
    assert r"Law of $\hat q$ \& $M_{11}$" in said.latex()


def test_results_are_printed_in_documents(tmp_path):
    found = dmft.erm(records.labels(), "squared", 2.0, 0.5)
    text = dmft.latex(tmp_path / "erm.tex", found).read_text()
    assert f"{found.M:.6g}" in text
    assert r"$\mathcal{L}_{\mathrm{train}}$ & " in text


def test_thresholds_and_states_are_tables():
    model = dmft.Model(records.LINE, dmft.Committee(sp.Abs(records.Z), 1))
    found = dmft.thresholds(model)
    rows = cells(str(found))
    assert rows["weak recovery"][0] == "1/2 = 0.5"
    assert rows["algorithmic"][0] == f"{found.algorithmic:.6g}"
    assert float(rows["information theoretic"][0]) == pytest.approx(1.0)
    assert rows["order"] == ["first"]
    assert rows["label"] == ["|z1|"]
    assert rows["1/2 = 0.5"][1] == found.staircase[0].reason
    state = dmft.bayes_optimal(model, 1.05)
    lines = str(state).split("\n")
    assert cells(str(state))["risk"][0] == f"{state.risk:.6g}"
    place = lines.index("All fixed points, in order of their overlap") + 1
    assert lines[place].split() == ["q", "qhat", "mmse", "free", "entropy", "stable"]
    for line, branch in zip(lines[place + 1 : place + 5], state.branches, strict=True):
        q, qhat, mmse, entropy, stable = line.replace("∞", "inf").split()
        shown = [float(y) for y in (q, qhat, mmse, entropy)]
        known = [branch.q, branch.qhat, branch.mmse, branch.free_entropy]
        assert shown == pytest.approx(known, rel=6e-6)
        assert stable == ("yes" if branch.stable else "no")
    assert lines[-2:] == ["Method: quadrature.", f"Errors are up to {state.error:.1g}."]


def test_fixed_points_and_modes_are_tables():
    flow = dmft.derive(records.MODEL, dmft.GradientFlow())
    points = dmft.fixed_points(
        flow, [dmft.Overlaps([[1.1]], [[0.9]]), dmft.Overlaps([[0.5]], [[0]])]
    )
    lines = str(points).split("\n")
    assert points.message in lines[0]
    assert [float(y.split()[0]) for y in lines[2:4]] == pytest.approx(
        [p.risk for p in points], abs=1e-5
    )
    assert "[[0.3333]]" in str(points)
    assert len(repr(points)) <= LONGEST
    modes = dmft.stability(flow, points[1])
    rows = cells(str(modes))
    assert str(modes).startswith("Linear modes around a fixed point: unstable")
    assert rows["0"][:3] == ["4", "0.25", "M[0, 0]"]
    assert rows["1"][:3] == ["-4", "0.25", "Q[0, 0]"]


def test_runs_print_their_start_and_end():
    run = records.run()
    rows = cells(str(run))
    assert rows["t"][:2] == ["0", "3"]
    assert rows["R"][:2] == [f"{run.risk[0]:.6g}", f"{run.risk[-1]:.6g}"]
    runs = records.ensemble()
    rows = cells(str(runs))
    value, error = map(float, rows["R"][1].split(" ± "))
    assert value == pytest.approx(runs.mean.risk[-1], abs=runs.stderr.risk[-1])
    assert error == pytest.approx(runs.stderr.risk[-1], rel=0.5)


def test_weak_recovery_prints_its_coefficients():
    found = dmft.weak_recovery(records.MODEL, records.SPHERE)
    rows = cells(str(found))
    assert rows["samples"][0] == "d log d"
    assert [rows[f"e_{k}"][0] for k in (1, 2, 3)] == ["0", "4", "0"]
    assert rows["γ_max"][0] == "1/6"
    assert rows["⟨ψ²⟩"][0] == str(found.square.value)
    assert float(rows["Λ"][0]) == pytest.approx(found.growth_rate)


def test_diagrams_print_their_range_and_failures():
    axes = ("a", [1.0, 2.0, 3.0]), ("b", [0.0, *np.linspace(0.5, 1.0, 9)])
    found = dmft.phase_diagram(lambda a, b: a / b, *axes)
    rows = cells(str(found))
    assert rows["x"] == ["[1, 2, 3]"]
    assert rows["values"][0] == "10 x 3 values, 1 to 6, 3 unknown"
    assert rows["status"][0] == "3 nonfinite, 27 ok"
    curve = records.curve()
    assert f"{curve.curves[0].x.size} values, " in str(curve)
    assert f"Errors are up to {curve.curves[0].error.max():.1g}." in str(curve.curves[0])
    swept = dmft.sweep(
        {"a": [1.0, 2.0]},
        lambda a: {"root": a**0.5, "square": a * a},
        quantities=["root", "square"],
    )
    assert cells(str(swept))["square"] == ["[1, 4]"]


def test_changes_name_the_parts_of_declarations():
    noisy = dmft.Model(records.SQUARE, records.SQUARE, label_noise=sp.Rational(1, 4))
    found = records.flow().diff(dmft.derive(noisy, dmft.SGD(0.1, constraint="sphere")))
    rows = cells(str(found))
    assert rows["model.label_noise"] == ["changed", "0 → 1/4"]
    assert rows["algorithm.learning_rate"] == ["changed", "0.05 → 0.1"]
    assert "Committee(" not in str(found)


def test_a_model_is_shown_as_its_declaration():
    z = sp.Symbol("z", real=True)
    model = dmft.Model(dmft.Committee(sp.erf(z), 4, [1, 2, 3, 4]), dmft.Committee(z**2, 1), 0.25)
    html = model._repr_html_()
    assert r"\frac{1}{4} \sum_{j=1}^{4} a_j \operatorname{erf}{\left(h_{j} \right)}" in html
    assert "$a = (1, 2, 3, 4)$" in html
    assert "$f = h^{2}$" in html
    assert r"$\Delta = 0.25$" in html
    assert "0.5" in dmft.SGD(0.5)._repr_html_()
    assert "momentum" not in dmft.SGD(0.5)._repr_html_()


def test_times_in_a_record_are_numbers():
    escape = dmft.escape_time(records.run(), overlap=0.9)._repr_html_()
    assert "time per step, times d" in escape
    assert "time step times" not in escape
    html = dmft.phases(records.run())._repr_html_()
    assert "EscapeTime" not in html
    assert "0.672079" in html


def test_a_closed_risk_prints_one_line():
    risk = dmft.population_risk(dmft.literature.phase_retrieval(1))
    assert str(risk) == "R = (3 P² - 2 P Q + 3 Q² - 4 M²)/2\nHere σ(z) = z²."
    assert "⟨" in str(dmft.population_risk(dmft.literature.saad_solla(2)))


def test_without_matplotlib_the_facts_remain(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    html = records.run()._repr_html_()
    assert "<img" not in html
    assert "reached t = 3" in html
    assert "rk5" in html


def test_text_of_a_record_in_html_is_escaped():
    event = dmft.Event("M[0,0]", 0.5, name="<script>")
    assert "<script>" not in event._repr_html_()


def test_stores_still_tell_starts_apart():
    """Names of values in stores hold everything, though a line of text does not."""
    from dmft.analysis.sweeps.named import _Known

    spectra = [dmft.Spectrum([1, a, 6 - a, 4, 5], [0.2] * 5) for a in (2, 2.1)]
    assert repr(spectra[0]) == repr(spectra[1])
    assert _Known().word(spectra[0]) != _Known().word(spectra[1])
    wide = [dmft.Overlaps(np.eye(4) + n, np.full((4, 4), 0.1), 2 * np.eye(4)) for n in (0, 0.1)]
    assert repr(wide[0]) == repr(wide[1])
    assert _Known().word(wide[0]) != _Known().word(wide[1])


MANY = sp.symbols("u1:7", real=True)
MEANS = np.arange(200.0).reshape(20, 10)


@pytest.mark.parametrize(
    ("record", "kept"),
    [
        (lambda: dmft.Committee(records.Z, 50, list(range(1, 51))), ["activation=z, width=50"]),
        (lambda: dmft.MultiIndex(sum(MANY) ** 4 + sp.tanh(MANY[0] * MANY[1]), MANY), ["width=6"]),
        (lambda: dmft.SequenceTarget(sp.expand(sum(MANY) ** 4), MANY), ["length=6"]),
        (lambda: dmft.GaussianMixture(MEANS, range(20)), ["means=[[0.0, 1.0,"]),
        (
            lambda: dmft.Model(
                dmft.Committee(records.Z, 50, list(range(1, 51))),
                dmft.Committee(sum(records.Z**n / n for n in range(1, 40)), 2),
                label_noise=0.25,
            ),
            ["student=Committee(activation=z,", "teacher=Committee(", "label_noise=0.25"],
        ),
        (
            lambda: dmft.SGD(
                0.5, loss=sum(sp.log(1 + sp.exp(-n * sp.Symbol("f"))) for n in range(1, 20))
            ),
            ["learning_rate=0.5, loss="],
        ),
        (lambda: dmft.Event("M[0,0]/sqrt(Q[0,0])" + " + M[0,0]" * 40, 0.5), ["threshold=0.5"]),
        (lambda: dmft.hermite_expansion(sp.tanh(records.Z), records.Z, 15), ["tanh(z), order 15"]),
        (lambda: records.flow().explain("M").steps[0], ["rule="]),
        (
            lambda: dmft.solve(
                records.flow(), records.START, 3.0, events=dmft.Event("M[0,0]", 0.4)
            ).events[0],
            ["M[0,0] crosses 0.4; t = "],
        ),
    ],
)
def test_a_line_holds_whatever_the_record_does(record, kept):
    """What is long gives way, what is short stays; `str` holds everything."""
    found = record()
    assert len(repr(found)) <= LONGEST
    assert "\n" not in repr(found)
    for words in kept:
        assert words in repr(found)


def test_what_a_line_leaves_out_is_in_the_text():
    models = [
        dmft.Model(dmft.Committee(records.Z, 50, [*range(1, 50), last]), records.LINE)
        for last in (50, 51)
    ]
    assert repr(models[0]) == repr(models[1])
    assert str(models[0]) != str(models[1])
    assert repr(dmft.SGD(0.1)) == "SGD(learning_rate=0.1)"
