"""Declarations of sequence models, their encodings and starts: what they hold, what is refused."""

import copy
import pickle

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter, InvalidCovariance, ShapeMismatch
from dmft.model import Encoding, as_encoding, token_fields

a, b, c = sp.symbols("a b c", real=True)
omega = sp.Symbol("omega", positive=True)
PRODUCT = dmft.SequenceTarget(a * b, [a, b])


def test_attention_is_softmax_of_products_of_fields():
    h = np.array([0.7, -1.2, 0.3])
    scores = np.exp(np.outer(h, h))
    T = scores / scores.sum(axis=1, keepdims=True)
    left, right = np.array([0.2, -1.0, 0.5]), np.array([1.0, 0.4, -0.3])
    values = dict(zip(token_fields(3), h, strict=True))
    wanted = {
        dmft.Attention(3): T,
        dmft.Attention(3, "trace"): [[np.trace(T) / np.sqrt(3)]],
        dmft.Attention(3, (left, right)): [[left @ T @ right]],
    }
    for student, value in wanted.items():
        found = np.array(student.outputs.subs(values).tolist(), dtype=float)
        np.testing.assert_allclose(found, value, rtol=1e-14)
        assert student.shape == np.shape(value)


def test_attention_does_not_overflow_at_large_fields():
    z = token_fields(2)
    with np.errstate(over="ignore"):
        T = sp.lambdify(z, dmft.Attention(2).outputs, "numpy")(30.0, -20.0)
    assert np.allclose(T, np.eye(2))


def test_a_mixture_keeps_omega_as_a_parameter():
    fixed = [[0.9, 0.1], [0.2, 0.8]]
    teacher = dmft.Attention(2).mixture(omega, fixed)
    assert teacher.parameters == {omega}
    at_one = np.array(teacher.outputs.subs(omega, 1).tolist(), dtype=float)
    np.testing.assert_allclose(at_one, fixed)
    assert sp.simplify(teacher.outputs.subs(omega, 0) - dmft.Attention(2).matrix) == sp.zeros(2, 2)


def test_networks_and_targets_in_token_fields():
    z = sp.Symbol("z", real=True)
    network = dmft.SequenceNetwork(z**2, 3)
    z1, z2, z3 = network.fields
    assert sp.expand(network.outputs[0] - (z1 + z2 + z3) ** 2 / 3) == 0
    target = dmft.SequenceTarget(sp.Matrix([[a, b * c], [1, omega * a]]), [a, b, c])
    assert target.outputs[0, 1] == z2 * z3
    assert target.parameters == {omega}
    assert target.expr.shape == (2, 2)


def test_a_sequence_student_makes_a_sequence_model():
    model = dmft.Model(dmft.Attention(2, "trace"), PRODUCT, 0.1, encoding=0.8)
    assert isinstance(model, dmft.SequenceModel)
    assert model.encoding.radius == pytest.approx(0.8)
    assert model.label_noise == 0.1
    assert pickle.loads(pickle.dumps(model)) == model == copy.deepcopy(model)
    assert hash(model) == hash(pickle.loads(pickle.dumps(model)))
    plain = dmft.Committee(sp.Symbol("z") ** 2, 2)
    committee = dmft.Model(plain, plain)
    assert type(committee) is dmft.Model
    assert pickle.loads(pickle.dumps(committee)) == committee


def test_encodings_by_radius_pattern_and_gram():
    e, e1, e3 = sp.symbols("e e1 e3", real=True)
    assert as_encoding(None, 3).means == (0, 0, 0)
    assert as_encoding(2, 2).means == (e, -e)
    assert as_encoding(2, 2).radius == 2
    assert as_encoding([1, 0, -2], 3).means == (e, 0, -2 * e)
    pair = [[1, 0, 0], [0, 4, -4], [0, -4, 4]]
    assert as_encoding(pair, 2) == as_encoding(2, 2)
    free = as_encoding(np.eye(4), 3)
    assert (free.means[0], free.means[2]) == (e1, e3)
    oblique = Encoding([1, -1], [[1, 0.45], [0.45, 2.25]])
    assert not oblique.orthogonal
    assert as_encoding(2, 2).orthogonal
    assert as_encoding([1, 0, -2], 3).as_array([0.1, 0, -0.2]) == pytest.approx([0.1])


def test_the_feasible_set_is_that_of_vectors():
    # Alignments of a random w with random p_l are feasible, and w longer than sqrt(d) are not.
    rng = np.random.default_rng(3)
    d = 7
    w, w_star = (v * np.sqrt(d) / np.linalg.norm(v) for v in rng.standard_normal((2, d)))
    p = rng.standard_normal((2, d))
    basis = np.vstack([w_star / np.sqrt(d), p])
    encoding = as_encoding(basis @ basis.T, 2)
    e, m = p @ w / np.sqrt(d), float(w @ w_star / d)
    encoding.check(e, m)
    inside = basis.T @ np.linalg.solve(basis @ basis.T, np.array([m, *e]))
    with pytest.raises(InvalidCovariance, match=r"s\^T G\^\+ s"):
        encoding.check(1.001 * e / np.linalg.norm(inside), 1.001 * m / np.linalg.norm(inside))
    with pytest.raises(InvalidCovariance, match="range of the Gram"):
        Encoding(np.eye(2), [[1, 0, 0], [0, 1, -1], [0, -1, 1]]).check(np.array([0.1, 0.1]), 0.0)


def test_starts_outside_the_feasible_set_are_refused():
    assert dmft.Alignment(e=0.6, m=0.8).e == 0.6
    assert dmft.Alignment(e=1.2, m=0.6, radius=2).radius == 2
    assert dmft.Alignment(m=[1.0, -1.0, 1.0]).m.shape == (3,)
    with pytest.raises(InvalidCovariance, match=r"e\^2/r\^2 \+ m\^2 = 1.45"):
        dmft.Alignment(e=0.9, m=0.8)
    with pytest.raises(InvalidCovariance, match="exceeds 1"):
        dmft.Alignment(m=[1.5, 1.0])
    with pytest.raises(InvalidCovariance, match="not finite"):
        dmft.Alignment(e=np.nan, m=0.1)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: dmft.Attention(1), BadParameter, "at least 2"),
        (lambda: dmft.Attention(2, "rows"), BadParameter, "two vectors"),
        (lambda: dmft.Attention(2, ([1, 2, 3], [1, 2])), ShapeMismatch, "3 entries"),
        (lambda: dmft.Attention(2).mixture(0.5, [[1, 2]]), ShapeMismatch, r"\(1, 2\)"),
        (lambda: dmft.SequenceTarget(sp.Integer(3), [a, b]), BadParameter, "none of its fields"),
        (lambda: dmft.SequenceTarget("a*b", [a, b]), BadParameter, "SymPy expression"),
        (lambda: dmft.SequenceNetwork(a**2, 2, tied=1), BadParameter, "tied"),
        (lambda: dmft.Model(dmft.Attention(3), dmft.Attention(2)), ShapeMismatch, "3 and 2"),
        (lambda: dmft.Model(dmft.Attention(2), PRODUCT), ShapeMismatch, "outputs"),
        (lambda: dmft.Model(dmft.Attention(2), dmft.Committee(a, 1)), BadParameter, "teacher"),
        (lambda: dmft.Model(dmft.Committee(a, 1), PRODUCT), BadParameter, "teacher"),
        (lambda: dmft.Model(PRODUCT, dmft.SequenceNetwork(a, 2, False)), BadParameter, "one w"),
        (
            lambda: dmft.Model(dmft.SequenceNetwork(a, 2, False), PRODUCT, encoding=1),
            BadParameter,
            "untied",
        ),
        (lambda: as_encoding(1, 3), BadParameter, "opposite pair"),
        (lambda: as_encoding(-1, 2), BadParameter, "positive"),
        (lambda: as_encoding([1, 0], 3), ShapeMismatch, "2 tokens"),
        (lambda: as_encoding(np.ones((3, 3)) - 2 * np.eye(3), 2), InvalidCovariance, "semi"),
        (lambda: as_encoding(np.eye(4) * 2, 3), BadParameter, "on the sphere"),
        (lambda: as_encoding(None, 2).as_array(0.1), BadParameter, "without an encoding"),
        (lambda: as_encoding(1, 2).as_array([0.1, 0.1]), ShapeMismatch, "not an alignment"),
    ],
)
def test_refusals(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_the_norm_as_loss_belongs_to_sequences():
    plain = dmft.Committee(a**2, 1)
    sgd = dmft.SGD(0.1, loss="frobenius")
    for refused in (
        lambda: dmft.derive(dmft.Model(plain, plain), sgd),
        lambda: dmft.simulate(dmft.Model(plain, plain), sgd, dim=10, t_max=1, seeds=1),
    ):
        with pytest.raises(BadParameter, match="frobenius"):
            refused()
