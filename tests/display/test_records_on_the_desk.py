"""Every public record: a line or two as text, mathematics or a page in a notebook."""

import importlib.util
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.display import pages

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
