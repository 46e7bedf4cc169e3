"""Built-in measures of many points: what they say of known cases, and which systems they refuse."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.arrays import cosines
from dmft.errors import BadParameter
from dmft.names import FIXED_POINTS, Status, variable_attributes
from dmft.workflow.diagrams.end_states import kind_of
from dmft.workflow.diagrams.measures import LEARNED, MEASURES, EquationMeasure

z, z1, z2 = sp.symbols("z z1 z2", real=True)
SQUARE = dmft.Committee(z**2, width=1)
ERF = dmft.Committee(sp.erf(z / sp.sqrt(2)), width=2)
ONE = dmft.Committee(sp.erf(z / sp.sqrt(2)), width=1)
SMALL = dmft.Overlaps([[1.0]], [[0.1]])
GAMMA = ("learning_rate", 0.05, 0.2)


@pytest.fixture(scope="module")
def spherical():
    return dmft.derive(dmft.Model(SQUARE, SQUARE, 0.1), dmft.SGD(0.05, constraint="sphere"))


@pytest.fixture(scope="module")
def committees():
    return dmft.derive(dmft.Model(ERF, ERF), dmft.SGD(sp.Symbol("g", positive=True)))


@pytest.fixture(scope="module")
def descent():
    target = dmft.MultiIndex(z1 + dmft.hermite(3, z2), [z1, z2])
    return dmft.derive(dmft.Model(ONE, target), dmft.GradientDescent(0.3, samples_per_dim=3))


# In fewer points from files: tests/cli/test_measures_of_files.py.
@pytest.mark.slow
def test_the_uninformative_point_is_reached_from_the_boundary_of_the_theory_on(spherical):
    """theory/one_pass F.1: gamma = 2/(12 + Delta)."""
    found = dmft.boundary(
        "fixed_point", GAMMA, ("label_noise", 0.5, 4.0), grid=(4, 4), step=0.2,
        equations=spherical, start=SMALL, t_max=1000.0,
    )  # fmt: skip
    (curve,) = found.curves
    assert set(curve.labels) == {"specialised", "uninformative"}
    np.testing.assert_allclose(curve.x, 2 / (12 + curve.y), atol=1e-6)


@pytest.mark.slow  # likewise
def test_adaptive_diagram_of_fixed_points(spherical):
    axes = ("learning_rate", np.linspace(0.05, 0.2, 61)), ("label_noise", np.linspace(0.5, 4, 41))
    found = dmft.phase_diagram(
        "fixed_point", *axes, adaptive=True, equations=spherical, start=SMALL, t_max=1000.0
    )
    informed = axes[0][1] < 2 / (12 + axes[1][1][:, None])
    wanted = np.where(informed, FIXED_POINTS.index("specialised"), 0)
    np.testing.assert_array_equal(found.values, wanted)
    assert 5 * found.computed.sum() < found.values.size


def test_a_committee_waits_on_the_plateau_and_leaves_it(committees):
    """theory/one_pass G.3 for gamma = 1: plateau of equal students, risk 0.0032259127."""
    start = dmft.random_overlaps(dmft.Model(ERF, ERF), dim=10**6, seed=1)
    names = []
    for t_max in (10.0, 150.0, 1000.0):
        measure = EquationMeasure("fixed_point", committees, start, t_max)
        names.append(measure.label(measure(learning_rate=1.0)))
    assert names == ["not stationary", "unspecialised", "specialised"]
    early = EquationMeasure("fixed_point", committees, start, 10.0)
    assert str(early(learning_rate=1.0)[1]) == "not_converged"
    plateau = dmft.solve(committees, start, 150.0, learning_rate=1.0)
    assert plateau.risk[-1] == pytest.approx(0.0032259127, rel=0.1)
    swept = dmft.sweep(
        {"learning_rate": [0.5, 4.0]}, "fixed_point", equations=committees, start=start,
        t_max=1000.0,
    )  # fmt: skip
    assert [FIXED_POINTS[int(v)] for v in swept.values["fixed_point"]] == ["specialised"] * 2


def test_runs_that_diverge_have_a_status_and_a_label():
    equations = dmft.derive(dmft.Model(SQUARE, SQUARE), dmft.SGD(0.1))
    for name in ("fixed_point", "overlap", "learned_directions", "status"):
        measure = EquationMeasure(name, equations, SMALL, 50.0)
        result = measure(learning_rate=5.0)
        assert result[1] == "diverged"
        if name != "overlap":
            assert measure.label(result) == "diverged"
    converged = EquationMeasure("converged", equations, SMALL, 50.0)
    assert [converged(learning_rate=g) for g in (0.05, 5.0)] == [True, False]
    shown = dmft.phase_diagram(
        "status", ("learning_rate", [0.05, 5.0]), ("label_noise", [0.0]), equations=equations,
        start=SMALL, t_max=50.0,
    )  # fmt: skip
    assert shown.status.tolist() == [["ok", "diverged"]]
    assert shown.values.tolist() == [[0.0, float(list(Status).index(Status.DIVERGED))]]


def named(Q, M, P=None):
    M = np.asarray(M, dtype=float)
    return kind_of(dmft.Overlaps(Q, M, np.eye(M.shape[1]) if P is None else P))


def test_names_of_fixed_points():
    two = np.eye(2)
    assert named(two, np.zeros((2, 2))) == "uninformative"
    assert named(two, 5e-4 * two) == "uninformative"
    assert named(two, 0.9 * two[::-1]) == "specialised"
    assert named(two, -0.9 * two) == "specialised"
    assert named(two, np.full((2, 2), 0.5)) == "unspecialised"
    assert named(two, [[0.6, 0.4], [0.4, 0.6]]) == "unspecialised"
    assert named(two, [[0.8, 0.1], [0.3, 0.3]]) == "partly specialised"
    assert named(two, [[0.9, 0.0], [0.0, 0.0]]) == "partly specialised"
    # Two students on one teacher; a dead one; one student between two teachers.
    assert named(two, [[0.4], [0.4]]) == "specialised"
    assert named(np.diag([1.0, 0.0]), [[1.0], [0.0]]) == "specialised"
    assert named([[1.0]], [[0.5, 0.5]]) == "unspecialised"
    assert named([[1.0]], [[0.9, 0.1]]) == "partly specialised"
    # Equal students lean on the longer teacher: they are still equal.
    assert named(two, [[0.2, 1.0], [0.2, 1.0]], np.diag([1.0, 4.0])) == "unspecialised"
    # Teachers at 60 degrees: perfect students have the overlaps of the teachers.
    P = np.array([[1.0, 0.5], [0.5, 1.0]])
    assert named(P, P, P) == "specialised"


def test_minima_of_two_token_attention_are_those_of_the_published_codes():
    """theory/sequence D.8: codes of 4 and more have several minima."""
    model = dmft.literature.positional_semantic(*sp.symbols("a omega", positive=True))
    a, omega = np.linspace(0.6, 1.2, 3), np.linspace(0.4, 0.98, 5)
    found = dmft.phase_diagram("minima", ("a", a), ("omega", omega), equations=model)
    several = dmft.literature.positional_semantic_regions(a, omega) >= 4
    np.testing.assert_array_equal(found.values > 1, several)
    assert 0 < several.sum() < several.size
    with pytest.raises(BadParameter, match="width"):
        dmft.phase_diagram("minima", ("a", a), ("width", omega), equations=model)


def test_learned_directions_of_a_descent(descent):
    """theory/batch_reuse B.1: step 1 learns z1 only, M = eta alpha/sqrt(pi); B.2: step 2 z2 too."""
    start = dmft.Overlaps([[1.0]], [[0.0, 0.0]])
    table = dmft.learned_directions(descent.model, descent.algorithm, rtol=1e-3)
    assert [row.when for row in table.table] == ["step 1", "step 2"]
    axes = ("learning_rate", [0.1, 0.3]), ("samples_per_dim", [3.0])
    points = {"samples": 2**11, "scrambles": 4}
    how = {"equations": descent, "start": start, **points}
    counts = [
        dmft.phase_diagram("learned_directions", *axes, t_max=t, overlap=0.02, **how)
        for t in (1, 2)
    ]
    M1 = np.outer(axes[1][1], axes[0][1]) / np.sqrt(np.pi)
    one = dmft.phase_diagram("overlap", *axes, t_max=1, **how)
    for i, alpha in enumerate(axes[1][1]):
        for j, eta in enumerate(axes[0][1]):
            for t, found in enumerate(counts, start=1):
                values = {"learning_rate": eta, "samples_per_dim": alpha}
                run = dmft.solve(descent, start, t, **values, **points)
                shares = np.abs(run.M[-1, 0]) / np.sqrt(run.Q[-1, 0, 0])
                assert found.values[i, j] == np.sum(shares >= 0.02)
                if t == 1:
                    assert run.M[1, 0, 0] == pytest.approx(M1[i, j], abs=5e-3)
                    assert one.values[i, j] == pytest.approx(shares[0], abs=1e-12)
    assert counts[0].values.tolist() == [[1, 1]]
    assert counts[1].values[0, 1] == 2
    final = dmft.sweep({"learning_rate": [0.3]}, "final_risk", t_max=2, **how)
    assert final.values["final_risk"][0] == dmft.solve(descent, start, 2, **points).risk[-1]


@pytest.mark.cases(1)
@pytest.mark.parametrize("measure", ["overlap", "learned_directions"])
def test_boundary_of_learning_in_one_step_is_exact(measure):
    """theory/batch_reuse B.5: w -> w - eta S (w - w*), <S> = alpha, <S^2> = alpha^2 + alpha."""
    line = dmft.Committee(z, 1)
    equations = dmft.derive(dmft.Model(line, line), dmft.GradientDescent(0.2, samples_per_dim=2))
    level = {"level": 0.4} if measure == "overlap" else {"overlap": 0.4}
    found = dmft.boundary(
        measure, ("learning_rate", 0.05, 0.4), ("samples_per_dim", 0.5, 3.0), **level, tol=1e-5,
        grid=(3, 3), step=0.25, equations=equations, start=dmft.Overlaps([[1.0]], [[0.0]]), t_max=1,
    )  # fmt: skip
    (curve,) = found.curves
    eta, alpha = curve.x, curve.y
    Q = (1 - eta * alpha) ** 2 + 2 * eta**2 * alpha + (eta * alpha) ** 2
    np.testing.assert_allclose(eta * alpha / np.sqrt(Q), 0.4, atol=3e-5)


def test_overlaps_of_one_pass_and_of_sequence_models(committees):
    start = dmft.Overlaps(np.eye(2), [[0.2, 0.1], [-0.3, 0.05]])
    run = dmft.solve(committees, start, 5.0, learning_rate=0.5)
    shares = np.abs(run.M[-1]) / np.sqrt(np.diag(run.Q[-1]))[:, None]
    values = {"learning_rate": 0.5}
    largest = EquationMeasure("overlap", committees, start, 5.0)(**values)
    assert largest[0] == pytest.approx(shares.max(), rel=1e-9)
    for least in (0.05, float(shares.max(axis=0).mean()), 0.999):
        counted = EquationMeasure("learned_directions", committees, start, 5.0, {"overlap": least})
        assert counted(**values)[0] == np.sum(shares.max(axis=0) >= least)
    assert LEARNED == 0.1
    fields = sp.symbols("z1:3", real=True)
    tokens = dmft.Model(
        dmft.SequenceTarget(fields[0] ** 2, fields),
        dmft.SequenceTarget(fields[0] ** 2 + fields[1] ** 2, fields), encoding=1,
    )  # fmt: skip
    equations = dmft.derive(tokens, dmft.SGD(0.01))
    begin = dmft.Alignment(e=0.1, m=-0.2)
    swept = dmft.sweep(
        {"learning_rate": [0.01]}, "overlap", equations=equations, start=begin, t_max=1.0
    )
    run = dmft.solve(equations, begin, 1.0, learning_rate=0.01)
    assert swept.values["overlap"][0] == pytest.approx(abs(float(run.m[-1])), rel=1e-7)


def test_students_without_length_have_no_cosine():
    found = cosines(np.array([[1.0, 0.0], [0.0, 0.0]]), np.diag([4.0, 0.0]), np.diag([1.0, 9.0]))
    np.testing.assert_array_equal(found, [[0.5, 0.0], [0.0, 0.0]])


def test_measures_travel(spherical):
    for name in ("fixed_point", "overlap"):
        measure = EquationMeasure(name, dmft.build(spherical), SMALL, 5.0)
        there = pickle.loads(pickle.dumps(measure))
        values = {"learning_rate": 0.1, "label_noise": 0.5}
        assert there(**values) == measure(**values)
        assert there.fingerprint == measure.fingerprint


def refused(name, equations, start=SMALL, t_max=2, match="", **options):
    axes = ("learning_rate", [0.1]), ("label_noise", [0.0])
    with pytest.raises(BadParameter, match=match):
        dmft.phase_diagram(name, *axes, equations=equations, start=start, t_max=t_max, **options)


def test_measures_that_do_not_fit_are_refused_with_the_way_out(spherical, descent):
    refused("growth_rate", descent, match=r'not for a descent .*: for descents use "final_risk"')
    refused("fixed_point", descent, match='use "learned_directions"')
    refused("escape_time", descent, match='use "overlap" with level=')
    refused("minima", spherical, match="pass the model itself")
    model = dmft.literature.positional_semantic(0.8, 0.5)
    refused("overlap", model, match="not for a sequence model: pass derived equations")
    refused("learned_directions", dmft.derive(model, dmft.SGD(0.1)), match='use "overlap"')
    noisy = dmft.derive(dmft.Model(SQUARE, SQUARE), dmft.SGD(0.05), fluctuations=True, dim=100)
    refused("final_risk", noisy, match="equations with fluctuations: .* without fluctuations")
    refused("final_risk", 3, match=r"equations = 3 must be a dmft\.Equations")
    refused("overlap", spherical, start=None, match=r"needs equations=, start=, t_max= \(no start=")
    refused("learned_directions", spherical, overlap=1.5, match=r"overlap = 1\.5 is a cosine")
    refused("final_risk", spherical, overlap=0.5, match=r'not by "final_risk": leave it out')
    refused("overlap", descent, t_max=2.5, match="number of steps")
    refused("overlap", descent, start=dmft.Overlaps([[1.0]], [[0.0, 0.0]]), sample=8,
            match="sample")  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "change", "reason"),
    [
        ("boundary", {"leve": 0.1}, r"\(leve=\): it is called only with the parameters"),
        ("sweep", {"wrokers": 2}, r"\(wrokers=\)"),
        ("phase_diagram", {"t_max": 2.0}, r"\(t_max=\)"),
        ("sweep", {"quantities": ("a", "a")}, "without duplicates and different from"),
        ("sweep", {"quantities": ("status",)}, "the names status and horizon are reserved"),
        ("sweep", {"quantities": ("a",)}, "different from the parameters"),
        ("sweep", {"workers": -1}, "workers or threads = -1 must be an integer"),
        ("boundary", {"threads": 0}, "threads = 0 must be an integer"),
        (
            "boundary",
            {"level": float("nan")},
            "level = nan must be a number; nan is not a number: pass a finite one",
        ),
        ("boundary", {"result": None}, "returned None, which is not a number"),
        ("sweep", {"result": "1.5"}, "returned '1.5', which is not a number"),
        ("phase_diagram", {"result": 1j}, "which is not a number"),
        ("phase_diagram", {"result": (1.0, "fine")}, "a pair must be .number, status., with"),
        ("sweep", {"result": (1.0, 2.0)}, "a pair must be .number, status., with"),
    ],
)
def test_slips_in_measures_of_ones_own(verb, change, reason):
    change = dict(change)
    result = change.pop("result", 1.0)
    axes = {
        "boundary": {"x": ("a", 0.0, 1.0), "y": ("b", 0.0, 1.0)},
        "phase_diagram": {"x": ("a", [0.0, 1.0]), "y": ("b", [0.0, 1.0])},
        "sweep": {"points": {"a": [1.0], "b": [2.0]}},
    }
    with pytest.raises(dmft.errors.BadParameter, match=reason):
        getattr(dmft, verb)(measure=lambda a, b: result, **axes[verb], **change)


def test_axes_of_all_forms():
    """Ends, values and mappings mean the same to diagrams, boundaries and sweeps."""

    def inside(u, v):
        return u**2 + v**2 - 0.5

    low, high = 0.1, 0.9
    values = np.linspace(low, high, 33)
    forms = {
        "ends": (("u", low, high), ("v", low, high)),
        "values": (("u", values), ("v", values)),
        "lists": (["u", low, high], ["v", list(values)]),
        "single mappings": ({"u": values}, {"v": values}),
        "mapping": ({"u": values, "v": values},),
    }
    for name, axes in forms.items():
        diagram = dmft.phase_diagram(inside, *axes)
        assert (diagram.x_name, diagram.y_name) == ("u", "v"), name
        np.testing.assert_allclose(diagram.values, inside(values, values[:, None]), rtol=1e-12)
        (curve,) = dmft.boundary(inside, *axes).curves
        np.testing.assert_allclose(curve.x**2 + curve.y**2, 0.5, rtol=1e-5)
        given = axes[0] if len(axes) == 1 else list(map(tuple, axes))
        if name != "single mappings":  # those are points
            found = dmft.sweep(given, inside)
            np.testing.assert_allclose(found.values["value"], diagram.values.T, rtol=1e-12)
    assert dmft.sweep(("u", low, high), lambda u: u).values["value"].tolist() == values.tolist()
    few = dmft.boundary(inside, ("u", [low, high]), ("v", np.linspace(low, high, 5)))
    assert few.labels.shape == (5, 9)


def test_slips_in_axes_levels_and_parameters(spherical):
    x, y = ("learning_rate", 0.05, 0.2), ("label_noise", 0.0, 4.0)
    how = {"equations": spherical, "start": dmft.Overlaps([[1.0]], [[0.1]])}

    def refused(match, verb, *given, **options):
        with pytest.raises(dmft.errors.BadParameter, match=match):
            verb(*given, **how, **options)

    refused(r"an axis is \(name, values\)", dmft.phase_diagram, "growth_rate", (x[0],), y)
    refused("lowest < highest", dmft.phase_diagram, "growth_rate", (x[0], 0.2, 0.1), y)
    refused("a plane has two axes.*dmft.sweep", dmft.phase_diagram, "growth_rate", {x[0]: [0.1]})
    refused("both axes are", dmft.phase_diagram, "growth_rate", (x[0], [0.1]), (x[0], [0.1]))
    refused("an axis is", dmft.boundary, "growth_rate", (x[0], "a", "b"), y)
    refused("lowest < highest", dmft.boundary, "growth_rate", (x[0], [0.1]), y)
    refused("both axes are", dmft.boundary, "growth_rate", x, x)
    for name in ("escape_time", "final_risk", "overlap"):
        refused("so level= must be positive", dmft.boundary, name, x, y, t_max=5.0)
    refused("must be below t_max", dmft.boundary, "escape_time", x, y, t_max=5.0, level=6.0)
    refused("points have values of it too", dmft.boundary, "growth_rate", x, y, learning_rate=0.1)
    refused(
        "has one quantity", dmft.sweep, {x[0]: [0.1]}, "final_risk", t_max=1.0, quantities=["a"]
    )


def test_whole_numbers_beside_floats_are_no_boundary():
    with pytest.raises(dmft.errors.BadParameter, match="returned 0 at one point and a float"):
        dmft.boundary(lambda a, b: 0 if a < 0.3 else a - b, ("a", 0, 1), ("b", 0, 1))


def test_why_points_of_a_boundary_failed():
    found = dmft.boundary(
        lambda a, b: (a - b, "diverged" if a > 0.7 else "ok"), ("a", 0, 1), ("b", 0, 1), tol=1e-4
    )
    assert "at (0.75, 0): diverged" in found.message
    late = dmft.Censored(8.0, 0.1, "start", dmft.Status.OK, "")
    found = dmft.boundary(lambda a, b: late, ("a", 0, 1), ("b", 0, 1), level=9.0)
    assert "not reached until t = 8, and the level is 9" in found.message


def test_one_warning_for_many_escape_times(committees):
    """Their texts differ: 200 lines of them hide everything else."""
    x, y = ("learning_rate", [0.2, 0.3, 0.4]), ("label_noise", [0.0, 0.1])
    rng = np.random.default_rng(0)
    w, v = rng.normal(size=(2, 400)) / 40, np.linalg.qr(rng.normal(size=(400, 2)))[0].T
    start = dmft.Overlaps(w @ w.T, w @ v.T, v @ v.T)
    how = {"equations": committees, "start": start, "t_max": 60.0}
    for call in (
        lambda: dmft.phase_diagram("escape_time", x, y, **how),
        lambda: dmft.sweep(dict((x, y)), "escape_time", **how),
    ):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            call()
        assert len([w for w in seen if issubclass(w.category, dmft.EscapeWarning)]) == 1


def test_every_measure_says_what_it_is_in_files():
    named = {name for name in MEASURES if variable_attributes(name, "t = steps")}
    assert named == set(MEASURES) - {"status"}  # words already
