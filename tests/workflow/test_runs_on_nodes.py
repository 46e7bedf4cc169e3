"""Runs with averages on nodes: their error is measured, kept, saved, and covers what it claims."""

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import sympy as sp

import dmft
from dmft.errors import BadParameter
from dmft.model import FIELD as z

ERF = sp.erf(z / sp.sqrt(2))


@pytest.fixture(scope="module")
def equations():
    student, teacher = dmft.Committee(sp.tanh(z), 2), dmft.Committee(sp.tanh(z), 1)
    return dmft.derive(dmft.Model(student, teacher, 0.1), dmft.SGD(0.8))


@pytest.fixture(scope="module")
def start(equations):
    return dmft.random_overlaps(equations.model, dim=20, seed=4)


@pytest.fixture(scope="module")
def run(equations, start):
    return dmft.solve(equations, start, 4.0, save_at=9, quadrature_tol=1e-5)


def test_a_run_meets_its_tolerance_and_says_how(run):
    assert run.status == "ok"
    assert run.error["Q"].shape == run.Q.shape
    assert run.error["risk"].shape == run.t.shape
    assert run.quadrature_error.shape == run.t.shape
    assert run.quadrature_error[0] < 1e-14
    assert 0 < run.quadrature_error.max() <= 1e-5 * max(1.0, np.abs(run.Q).max())
    assert "quadrature error" in run.provenance["approximation"]
    assert "4 error functions" in run.provenance["quadrature_rule"]
    assert run.provenance["quadrature_tol_met"]


def test_the_error_of_a_run_covers_that_of_independent_nodes(equations, start, run):
    truth = dmft.solve(equations, start, 4.0, save_at=9, nodes=2048, seed=77)
    hits = []
    for seed in range(5):
        other = dmft.solve(equations, start, 4.0, save_at=9, nodes=64, seed=seed)
        for name in ("Q", "M", "risk"):
            gap = np.abs(other[name] - truth[name])[1:]
            hits += (gap <= other.error[name][1:] + truth.error[name][1:]).ravel().tolist()
    assert np.mean(hits) >= 0.95
    assert "Sobol" in truth.provenance["quadrature_rule"]
    gap = np.abs(run.Q - truth.Q)
    assert np.all(gap <= run.error["Q"] + truth.error["Q"] + 1e-9)
    assert np.max(gap) < 2e-5


@pytest.mark.parametrize("t_max", [3.0, 40.0])
@pytest.mark.parametrize("rate", [0.4, 4.0])
def test_claims_of_sums_of_error_functions_cover_those_of_eight_terms(
    equations, start, rate, t_max
):
    """At every saved time, on the plateau too; and they are no larger than a hundred errors."""
    options = {"learning_rate": rate, "save_at": 12}
    truth = dmft.solve(equations, start, t_max, nodes=8, **options)
    for terms in (4, 5):
        run = dmft.solve(equations, start, t_max, nodes=terms, **options)
        gap = np.concatenate([np.abs(run[n] - truth[n])[1:].ravel() for n in "QM"])
        claim = np.concatenate([run.error[n][1:].ravel() for n in "QM"])
        assert np.all(gap <= claim + 1e-9)
        assert claim.max() < 100 * gap.max() + 1e-9


def test_too_few_nodes_are_told(equations, start):
    rough = dmft.solve(equations, start, 1.0, save_at=2, nodes=4, quadrature_tol=1e-9)
    assert "exceeds quadrature_tol" in rough.message
    assert not rough.provenance["quadrature_tol_met"]
    for wrong in ({"quadrature_tol": 0.0}, {"nodes": 3}, {"replicas": 2}):
        with pytest.raises(BadParameter):
            dmft.solve(equations, start, 1.0, **wrong)


def test_the_error_is_saved_and_comes_back(run, tmp_path):
    back = dmft.load(run.save(tmp_path / "run.nc"))
    assert back == run
    np.testing.assert_array_equal(back.error["M"], run.error["M"])
    np.testing.assert_array_equal(back.quadrature_error, run.quadrature_error)


def test_events_escape_times_and_parameters_work_on_nodes(equations, start):
    event = dmft.Event("risk", 0.1)
    stopped = dmft.solve(equations, start, 50.0, nodes=64, events=event, learning_rate=0.4)
    assert stopped.parameters["learning_rate"] == 0.4
    assert stopped.error["Q"].shape == stopped.Q.shape
    escape = dmft.escape_time(equations, start, 50.0, nodes=64, fraction=0.3, rtol=1e-8)
    again = dmft.escape_time(dmft.solve(equations, start, 50.0, nodes=64), fraction=0.3)
    assert float(escape.value) == pytest.approx(float(again.value), rel=1e-6)


def test_diagrams_work_on_nodes(equations, start):
    diagram = dmft.phase_diagram(
        "final_risk", ("learning_rate", [0.2, 0.8]), ("label_noise", [0.0, 0.1]),
        equations=equations, start=start, t_max=2.0, nodes=64,
    )  # fmt: skip
    assert np.all(diagram.status == "ok")
    assert np.all(np.isfinite(diagram.values))


def test_perfect_recovery_on_nodes_stays_in_the_domain():
    tanh = dmft.Committee(sp.tanh(z), 1)
    equations = dmft.derive(dmft.Model(tanh, tanh), dmft.SGD(0.5))
    run = dmft.solve(equations, dmft.Overlaps([[0.6]], [[0.2]], [[1.0]]), 80.0, save_at=5)
    assert run.status == "ok"
    assert run.risk[-1] < 1e-7
    assert "Gauss-Hermite" in run.provenance["quadrature_rule"]
    assert run.quadrature_error.max() < 1e-5


def test_exact_runs_claim_no_error(start):
    closed = dmft.derive(dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(ERF, 1)), dmft.SGD(0.5))
    run = dmft.solve(closed, start, 1.0)
    assert run.error is None
    assert run.quadrature_error is None
    assert run.provenance["approximation"] == "exact"
    with pytest.raises(BadParameter, match="nodes"):
        dmft.solve(closed, start, 1.0, nodes=64)


@pytest.fixture(scope="module")
def clipped():
    h, s, y = sp.symbols("h s y", real=True)
    rule = dmft.UpdateField(sp.Min(1, sp.Max(-1, y - h)), fields=(h, s, y), learning_rate=1)
    model = dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(ERF, 1))
    return dmft.derive(model, rule), dmft.random_overlaps(model, dim=200, seed=0)


def test_the_mean_of_replicas_is_the_run_with_all_points(clipped):
    """To a part of the tolerance (steps differ, too); its error covers the distance to others."""
    run = dmft.solve(*clipped, 2.0, save_at=5, quadrature_tol=2e-3)
    count = int(run.provenance["quadrature_rule"].split()[2])
    whole = dmft.solve(*clipped, 2.0, save_at=5, quadrature_tol=2e-3, nodes=count)
    truth = dmft.solve(*clipped, 2.0, save_at=5, nodes=1024, seed=7)
    assert run.constants["normal"].shape == whole.constants["normal"].shape
    for name in ("Q", "M", "risk"):
        assert np.max(np.abs(run[name] - whole[name])) < 2e-5
        assert run.error[name] == pytest.approx(whole.error[name], rel=1e-2, abs=1e-7)
        gap = np.abs(run[name] - truth[name])
        assert np.all(gap <= run.error[name] + truth.error[name] + 1e-12)
    assert np.array_equal(run.Q[0], whole.Q[0])


def from_samples(psi):
    """<lambda_i psi_j> and <psi_j psi_l>/2 of psi(h, h*), where p = 2."""

    def moments(normal, root):
        h = normal @ root.T
        step = psi(h[:, :2], h[:, 2:])
        return h.T @ step / len(h), step.T @ step / (2 * len(h))

    return moments


def clipped_step(h, h_star):
    return np.clip(scipy.special.erf(h_star / np.sqrt(2)) - h, -1, 1)


def hinge_step(h, h_star):
    """Of readouts 3 and 2."""
    a, label = np.array([3.0, 2.0]), np.sign(h_star)
    f = np.mean(a * scipy.special.erf(h / np.sqrt(2)), axis=1, keepdims=True)
    return label * (label * f < 1) * a * np.sqrt(2 / np.pi) * np.exp(-(h**2) / 2)


def of_signs(normal, root):
    """sqrt(2/pi) <sum_mu psi_mu lambda_mu / |psi|> of four samples of tanh, and <1>."""
    lam = normal.reshape(len(normal), 4, 2) @ root.T
    out = np.tanh(lam)
    psi = (out[..., 1] - out[..., 0]) * (1 - out[..., 0] ** 2)
    pull = np.einsum("nm,nmi,n->i", psi, lam, 1 / np.linalg.norm(psi, axis=1)) / len(lam)
    return np.sqrt(2 / np.pi) * pull[:, None], np.ones((1, 1))


def definition(start, moments, rate, t_max, points, steps=40):
    """dM = <h* psi>, dQ = <h psi> + <psi h> + rate <psi psi> by Runge-Kutta, on SciPy's points."""
    p, whole, step = len(start.Q), start.Omega, t_max / steps

    def rates(x, normal):
        pull, square = moments(normal, np.linalg.cholesky(x))
        change = np.zeros_like(x)
        change[:p, :p] = pull[:p] + pull[:p].T + rate * square
        change[p:, :p] = pull[p:]
        change[:p, p:] = pull[p:].T
        return change

    found = []
    for normal in points:
        x = whole
        for _ in range(steps):
            a = rates(x, normal)
            b = rates(x + step / 2 * a, normal)
            c = rates(x + step / 2 * b, normal)
            x = x + step / 6 * (a + 2 * b + 2 * c + rates(x + step * c, normal))
        found.append(x)
    return np.mean(found, axis=0), np.ptp(found, axis=0)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_hinge_loss_of_outputs_below_one_is_the_correlation_loss(noise):
    """Closed on one side, on the other the signs of h* and the two fields are averaged over."""
    model = dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(sp.sign(z), 1), label_flip=noise)
    start = dmft.random_overlaps(model, dim=20, seed=0)
    run, closed = (
        dmft.solve(dmft.derive(model, dmft.SGD(0.5, loss=loss)), start, 1.0, save_at=2, **options)
        for loss, options in (("hinge", {"nodes": 2048}), ("correlation", {}))
    )
    assert "2 dimensions" in run.provenance["quadrature_rule"]
    assert "nodes" not in closed.provenance["approximation"]
    for name in ("Q", "M", "risk"):
        gap = np.abs(run[name] - closed[name])
        assert np.all(gap <= run.error[name] + 1e-6)
        assert gap.max() < 2e-4
    assert run.loss == pytest.approx(closed.loss, abs=2e-4)


def test_signs_of_a_label_are_averaged_over_beside_functions_that_are_not_even():
    """A ReLU under the hinge loss, at one state, by nested quadrature of the definition."""
    model = dmft.Model(dmft.Committee(sp.Max(0, z), 1), dmft.Committee(sp.sign(z), 1))
    start = dmft.Overlaps([[1.3]], [[0.4]], [[0.9]])
    run = dmft.solve(dmft.derive(model, dmft.SGD(0.5, loss="hinge")), start, 1e-3, nodes=4096)
    density = scipy.stats.multivariate_normal(cov=start.Omega).pdf

    def average(f):
        """<f psi>, psi = 1 where 0 < h < 1 and h* > 0, -1 where h > 0 and h* < 0."""

        def part(y, h, h_star):
            return scipy.integrate.dblquad(lambda v, u: f(u, v, y) * density([u, v]), *h, *h_star)

        return part(1.0, (0, 1), (0, 8))[0] - part(-1.0, (0, 8), (-8, 0))[0]

    changes = {
        "M": average(lambda u, v, y: v),
        "Q": average(lambda u, v, y: 2 * u + 0.5 * y),
    }
    for name, change in changes.items():
        assert (run[name][-1] - run[name][0]).item() / 1e-3 == pytest.approx(change, abs=2e-3)


def hinge():
    model = dmft.Model(dmft.Committee(ERF, 2, [3.0, 2.0]), dmft.Committee(sp.sign(z), 1))
    start = dmft.random_overlaps(model, dim=200, seed=0)
    return dmft.derive(model, dmft.SGD(0.5, loss="hinge")), start


def signs():
    unit = dmft.Committee(sp.tanh(z), 1)
    model = dmft.Model(unit, unit)
    return dmft.derive(model, dmft.SignSGD(0.1, 4)), dmft.random_overlaps(model, dim=200, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "moments", "rate", "fields", "tolerance"),
    [
        ("clipped", from_samples(clipped_step), 1.0, 3, 1e-5),
        ("hinge", from_samples(hinge_step), 0.5, 3, 1e-4),
        ("signs", of_signs, 0.1, 8, 1e-5),
    ],
)
def test_runs_on_sobol_points_are_within_their_error_of_the_definition(
    request, name, moments, rate, fields, tolerance
):
    derived = {"hinge": hinge, "signs": signs}
    equations, start = derived[name]() if name in derived else request.getfixturevalue(name)
    run = dmft.solve(equations, start, 2.0, save_at=[2.0], quadrature_tol=tolerance)
    draws = (scipy.stats.qmc.Sobol(fields, seed=seed).random_base2(18) for seed in range(2))
    points = (scipy.special.ndtri(np.clip(y, 1e-12, 1 - 1e-12)) for y in draws)
    truth, spread = definition(start, moments, rate, 2.0, points)
    p = len(start.Q)
    for block, part in (("Q", np.s_[:p, :p]), ("M", np.s_[:p, p:])):
        gap = np.abs(run[block][-1] - truth[part])
        assert spread[part].max() < 3 * tolerance
        assert np.all(gap <= run.error[block][-1] + spread[part] + 1e-6), (gap, run.error[block])


def test_a_run_on_replicas_ends_at_an_event(clipped):
    half = dmft.Event("M[0,0]", 0.1)
    run = dmft.solve(*clipped, 2.0, events=half, quadrature_tol=2e-3)
    count = int(run.provenance["quadrature_rule"].split()[2])
    whole = dmft.solve(*clipped, 2.0, events=half, quadrature_tol=2e-3, nodes=count)
    assert [e.t for e in run.events] == [e.t for e in whole.events] != []
    assert np.array_equal(run.Q, whole.Q)
