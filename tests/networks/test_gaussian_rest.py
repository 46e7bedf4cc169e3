"""Networks whose sites are Gaussian at rest against quadrature in two fields, and in diagrams."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter
from dmft.workflow.networks.verbs import network_measure

X, H, M, N, A, G = sp.symbols("x h m n a g", real=True)
TANH = sp.tanh(X)
AXIS = np.linspace(-9.0, 9.0, 361)
WEIGHT = np.exp(-(AXIS**2) / 2) / np.exp(-(AXIS**2) / 2).sum()
MEANS, COV = (0.3, 0.2), [[1.0, 0.5], [0.5, 1.0]]


def low_rank(gain, strength):
    law = dmft.laws.JointNormal(COV, MEANS)
    return dmft.RandomNetwork(
        -X + H, X, H, output=TANH, std=gain, parameters={(M, N): law},
        low_rank=[(strength * M, N)],
    )  # fmt: skip


def test_wide_states_agree_with_quadrature_in_both_fields():
    """The fixed point and its stability by sums over the loading and the field."""
    gain, strength = 0.8, 6.0
    point = max(dmft.fixed_points(low_rank(gain, strength)), key=lambda y: y.loadings[0])
    kappa, q = point.loadings[0], gain**2 * point.output_second_moment
    m = strength * (MEANS[0] + AXIS[:, None])
    n = MEANS[1] + 0.5 * AXIS[:, None]  # given m, on which the rest does not depend
    eta = np.sqrt(q) * AXIS
    phi = np.tanh(kappa * m + eta)
    slope = 1 - phi**2

    def mean(values):
        return WEIGHT @ values @ WEIGHT

    matrix = [
        [mean(n * m * slope), mean(n * slope * eta) / q],
        [gain**2 * mean(m * phi * slope), gain**2 * mean(phi * slope * eta) / q],
    ]
    wanted = [mean(phi**2), mean(n * phi), gain**2 * mean(slope**2), mean(slope)]
    found = [point.output_second_moment, kappa, point.replicon, point.response]
    np.testing.assert_allclose(found, wanted, rtol=1e-10)
    outliers = np.sort_complex(np.linalg.eigvals(matrix))
    np.testing.assert_allclose(np.sort_complex(point.outliers), outliers, rtol=1e-9)


def test_diagrams_have_the_values_of_their_points():
    network = low_rank(G, A)
    axes = ("g", [0.5, 1.5, 2.5]), ("a", [0.5, 3.0])
    for name in ("stability", "output_mean"):
        diagram = dmft.phase_diagram(name, *axes, equations=network)
        for row, a in zip(diagram.values, axes[1][1], strict=True):
            for value, g in zip(row, axes[0][1], strict=True):
                points = dmft.fixed_points(network, g=g, a=a)
                best = max(points, key=lambda y: (round(y.output_second_moment, 9), y.output_mean))
                wanted = best.replicon - 1 if name == "stability" else best.output_mean
                assert value == pytest.approx(wanted, rel=1e-10, abs=1e-12)


def test_states_of_either_sign_are_one_value_of_a_diagram():
    network = dmft.RandomNetwork(-X + H, X, H, output=TANH, std=G, low_rank=[(A, 1)])
    values = list(
        network_measure("output_mean", network).many([{"g": g, "a": 2.0} for g in (0.2, 0.5, 0.8)])
    )
    assert min(values) > 0.5
    with pytest.raises(BadParameter, match="neither a symbol"):
        network_measure("output_mean", network)(g=1.0, a=1.0, b=1.0)


def test_chaos_of_symbols_is_that_of_numbers():
    network = dmft.RandomNetwork(-X + H, X, H, output=TANH, std=G, noise=A)
    found = network_measure("chaos", network)(g=2.0, a=0.1)
    numbers = dmft.RandomNetwork(-X + H, X, H, output=TANH, std=2.0, noise=0.1)
    assert found == pytest.approx(dmft.stationary(numbers).lyapunov_exponent, abs=1e-14)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"input": 0.5}, "an input that is zero"),
        ({"input": sp.cos(dmft.t)}, "an input that is zero"),
        ({"input": dmft.GaussianInput(1), "noise": 0.1}, "an input without noise"),
    ],
    ids=str,
)
def test_stationary_states_of_other_inputs_are_refused(given, words):
    rate = H if "kind" in given else -X + H
    with pytest.raises(BadParameter, match=words):
        dmft.stationary(dmft.RandomNetwork(rate, X, H, output=TANH, std=2, **given))


def test_growth_diagrams_read_the_input_and_refuse_unknown_names():
    community = dmft.literature.lotka_volterra(4.0, 0.8, symmetry=0.5)
    measure = network_measure("output_mean", community)
    # the input adds to the capacity 1, in which the mean is linear
    assert measure(input=0.5) == pytest.approx(1.5 * measure(std=0.8))
    for wrong in ({"competition": 1.0}, {"std": -0.5}):
        with pytest.raises(BadParameter):
            measure(**wrong)
