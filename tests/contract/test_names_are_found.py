"""A user who looks for a name finds it: in `dir`, in `help`, and by the field's other names."""

import pydoc
import re
import runpy

import pytest
import sympy as sp

import dmft
from dmft.aliases import KEYWORDS, NAMES
from dmft.errors import BadParameter

Z = sp.Symbol("z", real=True)
LINE = dmft.Committee(Z, 1)
MODEL = dmft.Model(LINE, LINE)
# Names that the page may mention before they are here.
COMING = {"explain", "export", "latex", "cite", "explore"}


def test_the_page_of_the_package_has_every_name_once():
    words = re.findall(r"\b[A-Za-z]\w*", dmft.__doc__.split("Declare\n")[1])
    for name in set(dmft.__all__) - {"__version__"} - COMING:
        assert name in words, f"the docstring of dmft does not mention {name}"


def test_help_is_a_page():
    text = pydoc.plain(pydoc.render_doc(dmft))
    assert len(text.splitlines()) < 160
    for heading in ("Declare", "Derive", "Start and solve", "Measure", "Show and save"):
        assert heading in text


def test_dir_is_what_is_public(tmp_path):
    star = tmp_path / "star.py"
    star.write_text("from dmft import *\nnames = Event.__name__, solve.__name__\n")
    assert dir(dmft) == sorted(dmft.__all__)
    assert {"solve", "Event", "LargestCosine"} <= set(dir(dmft))
    found = runpy.run_path(str(star))
    assert found["names"] == ("Event", "solve")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("generalization_error", "population_risk"),
        ("GeneralisationError", "population_risk"),
        ("order_parameters", "Overlaps"),
        ("learning_curve", "solve"),
        ("overlap", "Overlaps"),
        ("teacher_student", "Model"),
        ("soft_committee_machine", "Committee"),
        ("single_index", "MultiIndex"),
        ("OnlineSGD", "SGD"),
        ("dmft_equations", "GradientDescent"),
        ("plateau", "escape_time"),
        ("saad_solla", "literature"),
        ("callback", "Event"),
        ("sgd", "did you mean 'SGD'"),
        ("commitee", "did you mean 'Committee'"),
        ("ridge", r"GradientDescent\(ridge"),
        ("logistic", "loss=: a formula in f and y"),
        ("spectrum", "Spectrum"),
        ("R", "Overlaps"),
        ("mean_field", "regimes"),
        ("wick", "Gaussian"),
        ("relu", "SymPy expression"),
        ("nesterov", "Momentum"),
        ("bibtex", "cite"),
    ],
)
def test_names_of_the_field_are_refused_with_ours(name, words):
    assert not hasattr(dmft, name)
    with pytest.raises(AttributeError, match=words):
        getattr(dmft, name)


def test_what_is_pointed_to_exists():
    for words in (*NAMES.values(), *KEYWORDS.values()):
        for name in re.findall(r"dmft\.(\w+)", words):
            assert hasattr(dmft, name), words
    assert not {n for n in dmft.__all__ if n.lower().replace("_", "") in NAMES} - {"Model", "t"}


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: dmft.SGD(0.1, ridge=1), TypeError, r"SGD has no ridge= .*GradientDescent\(ridge"),
        (lambda: dmft.SGD(0.1, batchsize=1), TypeError, "did you mean batch_size="),
        (lambda: dmft.SGD(lr=0.1), TypeError, "learning_rate="),
        (lambda: dmft.Model(LINE, LINE, covariance=1), TypeError, "inputs=dmft.GaussianMixture"),
        (lambda: dmft.Committee(Z, hidden=3), TypeError, "width= of dmft.Committee"),
        (lambda: dmft.SGD(0.1, logistic=True), TypeError, "a formula in f and y"),
        (
            lambda: dmft.solve(
                dmft.derive(MODEL, dmft.SGD(0.1)), dmft.Overlaps([[1]], [[0]]), 1, ridge=0.1
            ),
            BadParameter, "unknown parameter 'ridge'.*GradientDescent",
        ),
        (lambda: dmft.latex("a.tex", ridge=1), TypeError, r"latex has no ridge= .*GradientDescent"),
        (lambda: dmft.explain(MODEL, ridge=1), TypeError, "explain has no ridge="),
        (
            lambda: dmft.export(dmft.derive(MODEL, dmft.SGD(0.1)), "a.c", lr=1),
            BadParameter, "unknown parameter 'lr'.*learning_rate= of",
        ),
        (lambda: dmft.load("a.nc", lr=1), TypeError, "load has no lr=.*learning_rate="),
        (lambda: dmft.Adam(0.1, ridge=1), BadParameter, "GradientDescent"),
        (
            lambda: dmft.simulate(MODEL, dmft.SGD(0.1), 10, 1, 1, lr=0.1),
            BadParameter, "unknown parameter 'lr'.*learning_rate= of",
        ),
    ],
)  # fmt: skip
def test_unknown_keywords_point_to_who_has_them(call, kind, words):
    with pytest.raises(kind, match=words):
        call()
