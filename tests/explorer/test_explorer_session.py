"""Questions of the page and their answers: values as `dmft.solve` has them, refusals in words."""

import re
import runpy
import tomllib
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.cli.commands import example, session_of
from dmft.cli.main import main
from dmft.cli.toml import declaration_of, read_declaration
from dmft.explorer.session import Session
from dmft.explorer.systems import tilted
from dmft.explorer.texts import title_of

SQUARE = dmft.literature.phase_retrieval(1, 0.1)
SPHERE = dmft.SGD(0.05, constraint="sphere")
FIELDS = sp.symbols("z1:3", real=True)


@pytest.fixture(scope="module")
def session():
    return Session(SQUARE, SPHERE, t_max=4.0)


def test_curves_are_those_of_solve_at_the_moved_values(session):
    # A run of `dmft.solve` at the values, declared as a user would.
    answer = session.reply(
        {"kind": "solve", "values": {"learning_rate": 0.08, "label_noise": 0.3, "seed": 3}}
    )
    start = dmft.random_overlaps(SQUARE, 1000, 3, normalised=True)
    moved = dmft.Model(SQUARE.student, SQUARE.teacher, 0.3)
    equations = dmft.derive(moved, dmft.SGD(0.08, constraint="sphere"))
    run = dmft.solve(equations, start, 4.0, save_at=answer["t"])
    assert answer["status"] == "ok"
    np.testing.assert_allclose(answer["risk"], run.risk, rtol=1e-6)
    curve = next(c for c in answer["curves"] if c["name"] == "M_11")
    np.testing.assert_allclose(curve["values"], run.M[:, 0, 0], rtol=1e-6)


def test_switched_terms_are_left_out(session):
    answer = session.reply({"kind": "solve", "off": ["sgd_noise"]})
    equations = dmft.derive(SQUARE, SPHERE).without("sgd_noise")
    start = dmft.random_overlaps(SQUARE, 1000, 0, normalised=True)
    run = dmft.solve(equations, start, 4.0, save_at=answer["t"])
    np.testing.assert_allclose(answer["risk"], run.risk, rtol=1e-6)
    printed = session.reply({"kind": "equations", "off": ["sgd_noise"]})
    assert printed["latex"] == equations.latex()


def test_a_tilted_start_is_that_of_the_weights():
    # Rows in R^40, turned and rescaled themselves.
    rng = np.random.default_rng(1)
    students, teachers = rng.standard_normal((3, 40)), rng.standard_normal((2, 40))
    c, size = 0.4, 0.5
    turned = []
    for j, row in enumerate(students):
        teacher = teachers[j % 2]
        sum_ = np.sqrt(1 - c**2) * row / np.linalg.norm(row) + c * teacher / np.linalg.norm(teacher)
        turned.append(size * np.linalg.norm(row) * sum_ / np.linalg.norm(sum_))
    turned = np.array(turned)
    start = dmft.Overlaps(*(a @ b.T / 40 for a, b in (
        (students, students), (students, teachers), (teachers, teachers))))  # fmt: skip
    found = tilted(start, c, size)
    np.testing.assert_allclose(found.Q, turned @ turned.T / 40, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.M, turned @ teachers.T / 40, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"kind": "solve", "values": {"learning_rate": -1.0}}, "at least 0"),
        ({"kind": "solve", "values": {"learning_rate": float("nan")}}, "finite"),
        ({"kind": "solve", "values": {"width": 10**9}}, "between 1 and 12"),
        ({"kind": "solve", "values": {"nonsense": 1}}, "no control"),
        ({"kind": "solve", "values": {"seed": 0.5}}, "whole number"),
        ({"kind": "solve", "off": ["nonsense"]}, "no term"),
        ({"kind": "solve", "formulas": {"student": "__import__('os').getcwd()"}}, "not allowed"),
        ({"kind": "solve", "formulas": {"student": "z**(10**9)"}}, "column"),
        ({"kind": "solve", "formulas": {"student": "z" * 400}}, "at most"),
        ({"kind": "solve", "formulas": {"student": "1"}}, "does not depend"),
        ({"kind": "diagram", "measure": "final_risk", "x": {"name": "dim", "values": [1.0]},
          "y": {"name": "label_noise", "values": [0.0]}}, "an axis is one of"),
        ({"kind": "diagram", "measure": "final_risk",
          "x": {"name": "learning_rate", "values": [0.1] * 100},
          "y": {"name": "label_noise", "values": [0.1] * 100}}, "at most"),
        ({"kind": "exec", "code": "1"}, "kind of"),
        (["solve"], "kind of"),
    ],
)  # fmt: skip
def test_bad_questions_are_refused_in_words(session, question, words):
    assert words in session.reply(question)["error"]


def test_no_answer_but_a_refusal_has_an_error(session):
    # The page takes an entry of this name for a refusal.
    values = {"learning_rate": 0.1, "dim": 60, "t_max": 1.0}
    points = session.reply({"kind": "simulate", "values": values})
    assert "error" not in points
    assert len(points["risk"]) == len(points["stderr"]) == len(points["t"])
    assert points["status"] == "ok"


def test_a_model_without_label_noise_is_explored():
    session = Session(dmft.literature.phase_retrieval(1), SPHERE, t_max=1.0)
    noise = session.controls["label_noise"]
    assert (noise.value, noise.low, noise.high) == (0.0, 0.0, 1.0)
    assert session.reply({"kind": "solve"})["status"] == "ok"


def test_terms_that_vanish_have_no_switch():
    """An odd student does not learn an even target: the term is zero."""
    even = dmft.MultiIndex(FIELDS[0] ** 2 + FIELDS[1] ** 2, FIELDS)
    student = dmft.Committee(sp.erf(sp.Symbol("z", real=True)), 1)
    session = Session(dmft.Model(student, even), dmft.SGD(0.1, loss="correlation"), t_max=1.0)
    assert session.reply({"kind": "solve"})["status"] == "ok"


def test_simulated_points_of_letters_lie_on_the_curve():
    gamma, noise = sp.symbols("gamma D", real=True)
    square = SQUARE.student
    letters = dmft.SGD(gamma / 2, constraint="sphere")
    given = {"gamma": 0.1, "D": 0.1}
    session = Session(dmft.Model(square, square, noise), letters, t_max=1.0, values=given)
    points = session.reply({"kind": "simulate", "values": {"dim": 1000, "overlap": 0.5}})
    start = tilted(dmft.random_overlaps(SQUARE, 1000, 0, normalised=True), 0.5, 1.0)
    run = dmft.solve(dmft.derive(SQUARE, SPHERE), start, 1.0, save_at=[0.0, *points["t"]])
    off = np.abs(points["risk"] - run.risk[-len(points["t"]) :]) / points["stderr"]
    assert np.median(off) < 4


def test_files_are_explored_as_they_are_solved():
    """Events end the runs; numbers of [solve] are sliders; schedules are refused."""

    def opened(more):
        text = blocks("toml")[0].replace("[solve]", "[solve]\n" + more)
        return session_of(declaration_of(Path("page.toml"), tomllib.loads(text)))

    event = opened('events = [{quantity = "t", threshold = 0.5}]').reply({"kind": "solve"})
    assert (event["status"], event["t"][-1]) == ("event", pytest.approx(0.5))
    moved = opened("learning_rate = 0.2")
    assert moved.controls["learning_rate"].value == 0.2
    assert "learning_rate = {{learning_rate}}" in moved.description()["toml"].split("[solve]")[1]
    with pytest.raises(dmft.errors.BadParameter, match="not schedules"):
        opened('learning_rate = "0.2/(1 + t)"')


def test_a_diagram_is_that_of_phase_diagram(session):
    rates, noises = [0.05, 0.1, 0.3], [0.0, 0.5]
    question = {
        "kind": "diagram", "measure": "final_risk",
        "x": {"name": "learning_rate", "values": rates},
        "y": {"name": "label_noise", "values": noises},
    }  # fmt: skip
    found = session.reply(question)
    start = dmft.random_overlaps(SQUARE, 1000, 0, normalised=True)
    wanted = dmft.phase_diagram(
        "final_risk", ("learning_rate", rates), ("label_noise", noises),
        equations=dmft.derive(SQUARE, SPHERE), start=start, t_max=4.0,
    )  # fmt: skip
    np.testing.assert_allclose(found["values"], wanted.values, rtol=1e-6)
    # An axis of the start: the largest overlap ends where it starts at t -> 0.
    question |= {"measure": "overlap", "y": {"name": "overlap", "values": [0.0, 0.9]}}
    values = np.array(session.reply(question)["values"])
    assert values.shape == (2, 3)
    assert (values[1] > values[0]).all()


def test_texts_say_what_the_page_shows():
    session = session_of(example())
    toml = session.description()["toml"]
    places = {
        "remark": "", "start": 'kind = "random"\ndim = 100\nseed = 2', "t_max": "7.0",
        "width": "3", "batch_size": "2", "gamma": "0.25", "label_noise": "0.5",
    }  # fmt: skip
    places |= {f"formula:{part}": f'"{text}"' for part, text in session.activations.items()}
    for name, text in places.items():
        toml = toml.replace("{{" + name + "}}", text)
    assert "{{" not in toml
    read = declaration_of(Path("page.toml"), tomllib.loads(toml))
    assert read.model.student.width == 3
    assert read.algorithm.batch_size == 2
    assert dict(read.parameters) == {"gamma": 0.25}
    assert read.options["solve"]["t_max"] == 7.0
    assert read.start().Q.shape == (3, 3)


DOCS = Path(__file__).parents[2] / "docs" / "explore.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


def test_examples_of_the_docs_run(tmp_path):
    text = blocks("toml")[0]
    untitled = "".join(line for line in text.splitlines(True) if not line.startswith("title"))
    (tmp_path / "untitled.toml").write_text(untitled, encoding="utf-8")
    untitled = session_of(read_declaration(tmp_path / "untitled.toml"))
    assert untitled.title == "1 square unit learning 1 square unit by SGD"
    (tmp_path / "model.toml").write_text(text, encoding="utf-8")
    read = session_of(read_declaration(tmp_path / "model.toml"))
    rate = read.controls["gamma"]
    assert (rate.value, rate.low, rate.high, rate.words) == (0.05, 0.002, 2.0, "learning rate")
    assert read.title == "Phase retrieval on the sphere"
    # The start of [start], at the value of gamma that the slider has.
    assert "error" not in read.reply({"kind": "solve", "values": {"gamma": 0.1, "t_max": 1.0}})
    pytest.importorskip("anywidget")
    (tmp_path / "cell.py").write_text(blocks("python")[0], encoding="utf-8")
    page = runpy.run_path(str(tmp_path / "cell.py"))["page"]
    assert page.session.controls["learning_rate"].high == 20


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    assert main(["explore", "--static", str(tmp_path / "page.txt")]) == 2
    assert "ends in .html" in capsys.readouterr().err
    assert main(["explore", "--static", str(tmp_path / "absent" / "page.html")]) == 2
    assert "no folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["explore", "--help"])
    assert ended.value.code == 0
    assert "--static" in capsys.readouterr().out


def test_what_is_too_slow_or_lacks_values_is_refused():
    with pytest.raises(dmft.errors.BadParameter, match="whole history"):
        Session(SQUARE, dmft.GradientDescent(0.1, samples_per_dim=2))
    with pytest.raises(dmft.errors.BadParameter, match="gamma has no value"):
        Session(SQUARE, dmft.SGD(sp.Symbol("gamma")))
    with pytest.raises(dmft.errors.BadParameter, match="Alignment"):
        Session(dmft.literature.positional_semantic(1.0, 0.5), dmft.GradientFlow())


def test_the_widget_answers_by_messages(monkeypatch):
    pytest.importorskip("anywidget")
    page = dmft.explore(SQUARE, SPHERE, t_max=4.0)
    sent = []
    monkeypatch.setattr(page, "send", sent.append)
    page._asked(None, {"number": 7, "question": {"kind": "solve"}}, [])
    assert sent[0]["number"] == 7
    assert sent[0]["answer"]["status"] == "ok"
    assert page.description["terms"]["sgd_noise"] == ["Q"]
    assert "katex" in page._esm


def test_without_anywidget_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "anywidget", None)
    with pytest.raises(dmft.errors.MissingExtra, match=r"dmft\[explore\]"):
        dmft.explore(SQUARE, SPHERE)


@pytest.mark.parametrize(
    ("model", "algorithm", "title"),
    [
        (
            dmft.literature.saad_solla(3, 2),
            dmft.SGD(0.5),
            "3 erf units learning 2 erf units by SGD",
        ),
        (SQUARE, dmft.GradientFlow(), "1 square unit learning 1 square unit by gradient flow"),
        (
            dmft.Model(SQUARE.student, dmft.MultiIndex(FIELDS[0] * FIELDS[1], FIELDS)),
            dmft.SignSGD(0.5),
            "1 square unit learning a function of 2 directions by SignSGD",
        ),
    ],
)
def test_titles_are_made_of_the_declaration(model, algorithm, title):
    assert title_of(model, algorithm) == title


def test_every_letter_has_words():
    noise = sp.Symbol("D", real=True)
    model = dmft.Model(SQUARE.student, SQUARE.teacher, noise)
    description = Session(model, dmft.SGD(0.1, momentum=0.5), values={"D": 0.1}).description()
    known = {symbol["name"] for symbol in description["symbols"]}
    for control in description["controls"]:
        assert control["words"]
        assert len(control["words"]) > 3
        assert control["group"] != "parameters" or control["name"] in known
    blocks = {block for blocks in description["terms"].values() for block in blocks}
    assert blocks <= known
    assert all(symbol["words"] for symbol in description["symbols"])


def test_switching_a_term_builds_nothing():
    """Runs with and without a term share their equations; a switch is a parameter."""
    system = Session(SQUARE, SPHERE, t_max=1.0).declared
    whole, on = system.running([])
    less, off = system.running(["label_noise"])
    assert whole is less
    assert {n for n in on if on[n] != off[n]} == {"keep_label_noise"}
