"""What must hold for every model and start, degenerate ones included, on the compiled flow."""

from functools import cache

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import dmft

Z = sp.Symbol("z", real=True)
SIGMA = {"erf": sp.erf(Z / sp.sqrt(2)), "square": Z**2, "he2": Z**2 - 1}
# Student and teacher of the models of this room: one build each serves all widths and values.
MODELS = {"erf": ("erf", "erf"), "square": ("square", "square"), "mixed": ("erf", "he2")}
KINDS = ("generic", "rank 1", "rank 2", "twins", "opposite", "perfect", "blind", "dead")
WIDTHS = st.integers(1, 3)
FEW = settings(max_examples=20, deadline=None)


WIDTH, TEACHER_WIDTH = sp.symbols("width teacher_width", integer=True, positive=True)


@cache
def equations_of(name, constraint=None):
    """Equations at any widths, rates and noise; readouts come with the start."""
    student, teacher = (SIGMA[sigma] for sigma in MODELS[name])
    model = dmft.Model(
        dmft.Committee(student, WIDTH), dmft.Committee(teacher, TEACHER_WIDTH), label_noise=0
    )
    return dmft.derive(model, dmft.SGD(1.0, constraint=constraint))


@cache
def problem_of(name):
    return dmft.build(equations_of(name))


def gram(weights, p):
    omega = weights @ weights.T
    return dmft.Overlaps(omega[:p, :p], omega[:p, p:], omega[p:, p:])


def start_of(kind, seed, p, k, scale=1.0):
    """Overlaps of real weights; the kinds are the corners of the set of allowed overlaps."""
    rng = np.random.default_rng(seed)
    dim = {"rank 1": 1, "rank 2": 2}.get(kind, 2 * (p + k))
    weights = scale * rng.standard_normal((p + k, dim)) / np.sqrt(dim)
    if kind in ("twins", "opposite") and p > 1:
        weights[1] = weights[0] if kind == "twins" else -weights[0]
    elif kind == "perfect":
        for j in range(p):
            weights[j] = weights[p + j % k]
    elif kind == "blind":  # students orthogonal to all teachers
        inside = np.linalg.qr(weights[p:].T)[0]
        weights[:p] -= weights[:p] @ inside @ inside.T
    elif kind == "dead":
        weights[0] = 0.0
    return gram(weights, p)


@st.composite
def starts(draw, p=WIDTHS, k=WIDTHS):
    kind, scale = draw(st.sampled_from(KINDS)), draw(st.sampled_from([0.3, 1.0, 2.0]))
    return start_of(kind, draw(st.integers(0, 10**6)), draw(p), draw(k), scale)


def flow(name, start, gamma=0.7, noise=0.2, a=None, a_star=None):
    """Rates of the compiled right-hand side, and the risk."""
    problem = problem_of(name)
    constants = {
        "P": start.P,
        "readout": np.ones(start.p) if a is None else np.asarray(a),
        "teacher_readout": np.ones(start.k) if a_star is None else np.asarray(a_star),
    }
    par = problem.pack_parameters({"learning_rate": gamma, "label_noise": noise}, constants)
    y, widths = problem.pack({"Q": start.Q, "M": start.M}), np.array([start.p, start.k])
    out, risk = np.empty_like(y), np.empty(1)
    problem.rhs(0.0, y, widths, par, out)
    problem.observe(0.0, y, widths, par, risk)
    return problem.unpack(out, {"p": start.p, "k": start.k}), float(risk[0])


def size(rates):
    return 1.0 + max(np.abs(v).max() for v in rates.values())


def assert_rates(one, Q, M):
    scale = size(one)
    np.testing.assert_allclose(one["Q"], Q, atol=3e-13 * scale)
    np.testing.assert_allclose(one["M"], M, atol=3e-13 * scale)


names = pytest.mark.parametrize("name", list(MODELS))


# The risk -----------------------------------------------------------------------------------------


@names
@given(start=starts(), a=st.lists(st.floats(-2, 2), min_size=3, max_size=3))
@FEW
def test_risk_is_not_negative(name, start, a):
    _, risk = flow(name, start, a=a[: start.p])
    tolerance = 1e-13 * (1 + np.abs(start.Omega).max() ** 2)
    assert risk >= -tolerance


@names
@given(start=starts(), readout=st.floats(0.2, 2))
@FEW
def test_gradient_flow_never_raises_the_risk(name, start, readout):
    start = dmft.Overlaps(start.Q, start.M, start.P, [readout] * start.p)
    run = dmft.solve(equations_of(name), start, 1.0, learning_rate=0.0, label_noise=0.0, save_at=20)
    assert run.status == "ok"
    assert (np.diff(run.risk) <= 1e-7 * (1 + run.risk[0])).all()


@given(start=starts(), readout=st.floats(0.2, 2))
@FEW
def test_gradient_flow_on_the_sphere_never_raises_the_risk(start, readout):
    lengths = np.sqrt(np.diag(start.Q))
    if lengths.min() < 1e-6:
        return
    Q = start.Q / np.outer(lengths, lengths)
    np.fill_diagonal(Q, 1.0)
    a = [readout] * start.p
    start = dmft.Overlaps(Q, start.M / lengths[:, None], start.P, a)
    equations = equations_of("erf", "sphere")
    run = dmft.solve(equations, start, 2.0, learning_rate=0.0, label_noise=0.0, save_at=20)
    assert run.status == "ok"
    assert (np.diff(run.risk) <= 1e-7).all()
    np.testing.assert_allclose(np.diagonal(run.Q, axis1=1, axis2=2), 1.0, atol=1e-8)


# The domain ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "gamma"), [("erf", 3.0), ("mixed", 1.0), ("square", 0.1)])
@given(start=starts())
@FEW
def test_overlaps_stay_those_of_real_weights(name, gamma, start):
    run = dmft.solve(
        equations_of(name), start, 1.0, learning_rate=gamma, label_noise=0.1, save_at=10
    )
    assert run.status in ("ok", "diverged"), run.message
    for Q, M in zip(run.Q, run.M, strict=True):
        omega = np.block([[Q, M], [M.T, start.P]])
        assert np.linalg.eigvalsh(omega)[0] > -1e-6 * np.trace(omega)


# Perfect recovery ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["erf", "square"])
@given(
    kind=st.sampled_from(["generic", "rank 1", "rank 2"]),
    seed=st.integers(0, 10**6),
    k=st.integers(1, 3),
    a=st.lists(st.floats(-2, 2), min_size=3, max_size=3),
)
@FEW
def test_student_equal_to_teacher_stays_without_noise(name, kind, seed, k, a):
    P = start_of(kind, seed, 1, k).P  # singular for low rank
    start = dmft.Overlaps(P, P, P)
    rates, risk = flow(name, start, noise=0.0, a=a[:k], a_star=a[:k])
    scale = 1 + np.abs(P).max() ** 3 * 50
    assert max(np.abs(v).max() for v in rates.values()) < 1e-12 * scale
    assert abs(risk) < 1e-13 * scale


@pytest.mark.parametrize("name", ["erf", "square"])
@given(share=st.floats(-1, 2), length=st.floats(0.1, 2))
@FEW
def test_teacher_unit_shared_by_two_students_stays(name, share, length):
    start = dmft.Overlaps(np.full((2, 2), length), np.full((2, 1), length), [[length]])
    rates, risk = flow(name, start, noise=0.0, a=[2 * share, 2 - 2 * share], a_star=[1.0])
    assert max(np.abs(v).max() for v in rates.values()) < 1e-11
    assert abs(risk) < 1e-13


# Symmetries ---------------------------------------------------------------------------------------


@names
@given(start=starts(), seed=st.integers(0, 10**6))
@FEW
def test_relabelling_students_and_teachers(name, start, seed):
    rng = np.random.default_rng(seed)
    s, t = rng.permutation(start.p), rng.permutation(start.k)
    a, a_star = rng.uniform(-1, 2, start.p), rng.uniform(-1, 2, start.k)
    moved = dmft.Overlaps(start.Q[np.ix_(s, s)], start.M[np.ix_(s, t)], start.P[np.ix_(t, t)])
    before, risk = flow(name, start, a=a, a_star=a_star)
    after, other = flow(name, moved, a=a[s], a_star=a_star[t])
    assert_rates(after, before["Q"][np.ix_(s, s)], before["M"][np.ix_(s, t)])
    assert other == pytest.approx(risk, abs=1e-13 * size(before))


@names
@given(start=starts(), seed=st.integers(0, 10**6))
@FEW
def test_reflecting_a_student(name, start, seed):
    """w_j -> -w_j changes an even unit not at all, an odd one by the sign of its readout."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], start.p)
    a = rng.uniform(-1, 2, start.p)
    odd = MODELS[name][0] == "erf"
    moved = dmft.Overlaps(start.Q * np.outer(signs, signs), start.M * signs[:, None], start.P)
    before, risk = flow(name, start, a=a)
    after, other = flow(name, moved, a=a * signs if odd else a)
    assert_rates(after, before["Q"] * np.outer(signs, signs), before["M"] * signs[:, None])
    assert other == pytest.approx(risk, abs=1e-13 * size(before))


@given(p=st.integers(1, 3), k=st.integers(2, 3), seed=st.integers(0, 10**6))
@FEW
def test_square_teachers_of_equal_weight_have_no_preferred_basis(p, k, seed):
    """sum_r h*_r^2 is invariant under rotations of the teacher's span."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((k, k)))[0]
    students = rng.standard_normal((p, k + 2)) / 2
    Q, M = students @ students.T, students[:, :k]
    before, risk = flow("square", dmft.Overlaps(Q, M, np.eye(k)))
    after, other = flow("square", dmft.Overlaps(Q, M @ rotation, np.eye(k)))
    assert_rates(after, before["Q"], before["M"] @ rotation)
    assert other == pytest.approx(risk, abs=1e-13 * size(before))


# Units that do not matter -------------------------------------------------------------------------


@names
@given(start=starts(), seed=st.integers(0, 10**6))
@FEW
def test_a_unit_of_readout_zero_changes_nothing(name, start, seed):
    """The mean over p + 1 units with readouts (p+1)/p a is the old student; t has 1/p in it."""
    rng = np.random.default_rng(seed)
    p, k = start.p, start.k
    a, a_star = rng.uniform(-1, 2, p), rng.uniform(-1, 2, k)
    root = _square_root(start)
    student = rng.standard_normal((1, root.shape[1])) / 2
    wide = gram(np.vstack([root[:p], student, root[p:]]), p + 1)
    stretch = (p + 1) / p
    before, risk = flow(name, start, a=a, a_star=a_star)
    after, same = flow(name, wide, a=[*(stretch * a), 0.0], a_star=a_star)
    assert_rates(
        {"Q": after["Q"][:p, :p], "M": after["M"][:p]}, stretch * before["Q"], stretch * before["M"]
    )
    assert after["Q"][p, p] == 0
    assert (after["M"][p] == 0).all()

    tall = gram(np.vstack([root, student]), p)
    taught, still = flow(name, tall, a=a, a_star=[*((k + 1) / k * a_star), 0.0])
    assert_rates({"Q": taught["Q"], "M": taught["M"][:, :k]}, before["Q"], before["M"])
    # Rounding is relative to the larger of the risk and the overlaps.
    assert same == pytest.approx(risk, rel=1e-13, abs=1e-13 * size(before))
    assert still == pytest.approx(risk, rel=1e-13, abs=1e-13 * size(before))


def _square_root(start):
    value, vector = np.linalg.eigh(start.Omega)
    return vector * np.sqrt(np.maximum(value, 0.0))  # negative by rounding only: Omega is checked


@names
@given(start=starts(), share=st.floats(-1, 2))
@FEW
def test_teacher_unit_cut_in_two_equal_ones(name, start, share):
    """Two teachers on the same weights (singular P) are one of the summed readout."""
    k = start.k
    twice = [*range(k), 0]
    cut = dmft.Overlaps(start.Q, start.M[:, twice], start.P[np.ix_(twice, twice)])
    stretch = (k + 1) / k
    a_star = stretch * np.array([1 - share, *[1.0] * (k - 1), share])
    before, risk = flow(name, start)
    after, other = flow(name, cut, a_star=a_star)
    assert_rates({"Q": after["Q"], "M": after["M"][:, :k]}, before["Q"], before["M"])
    assert other == pytest.approx(risk, abs=1e-13 * size(before))


@names
@given(start=starts(p=st.just(1)))
@FEW
def test_identical_students_move_as_one(name, start):
    """Two equal students with gamma/p fixed follow the single one, and stay equal."""
    pair = dmft.Overlaps(np.full((2, 2), start.Q[0, 0]), np.repeat(start.M, 2, axis=0), start.P)
    one, risk = flow(name, start, gamma=0.7)
    two, other = flow(name, pair, gamma=1.4)
    assert_rates(two, np.full((2, 2), one["Q"][0, 0]), np.repeat(one["M"], 2, axis=0))
    assert other == pytest.approx(risk, abs=1e-13 * size(one))


# The learning rate --------------------------------------------------------------------------------


@names
@given(start=starts(), gamma=st.floats(1e-3, 10))
@FEW
def test_learning_rate_multiplies_the_quadratic_term_alone(name, start, gamma):
    still, _ = flow(name, start, gamma=0.0)
    unit, _ = flow(name, start, gamma=1.0)
    some, _ = flow(name, start, gamma=gamma)
    np.testing.assert_array_equal(some["M"], still["M"])
    scale = (1 + gamma) * size(unit)
    np.testing.assert_allclose(
        some["Q"] - still["Q"], gamma * (unit["Q"] - still["Q"]), atol=1e-13 * scale
    )
    quadratic = unit["Q"] - still["Q"]
    assert np.linalg.eigvalsh(quadratic)[0] > -1e-13 * size(unit)  # a covariance


@names
def test_no_learning_rate_is_gradient_flow(name):
    model = equations_of(name).model
    for kind in KINDS:
        start = start_of(kind, 3, 2, 2)
        reference = dmft.derive(model, dmft.GradientFlow()).evaluate(start)
        still, _ = flow(name, start, gamma=0.0)
        assert_rates(still, reference["Q"], reference["M"])


@names
@given(start=starts(), stretch=st.floats(0.3, 3))
@FEW
def test_scale_of_the_outputs_only_rescales_time(name, start, stretch):
    """Readouts times s, noise times s^2 and gamma over s^2: every rate times s^2."""
    before, _ = flow(name, start, gamma=0.7, noise=0.2)
    after, _ = flow(
        name, start, gamma=0.7 / stretch**2, noise=0.2 * stretch**2,
        a=[stretch] * start.p, a_star=[stretch] * start.k,
    )  # fmt: skip
    assert_rates({b: v / stretch**2 for b, v in after.items()}, before["Q"], before["M"])


def test_small_learning_rate_is_gradient_flow():
    start = start_of("generic", 1, 2, 2)
    options = {"label_noise": 0.5, "save_at": 5, "rtol": 1e-10, "atol": 1e-12}
    limit = dmft.solve(equations_of("erf"), start, 5.0, learning_rate=0.0, **options)
    gaps = []
    for gamma in (1e-2, 1e-3):
        run = dmft.solve(equations_of("erf"), start, 5.0, learning_rate=gamma, **options)
        gaps.append(np.abs(run.risk - limit.risk).max())
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.02)
