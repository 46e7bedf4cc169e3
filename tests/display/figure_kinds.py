"""One record of each kind that `dmft.plot` draws, small, with the names of a user's records."""

from types import SimpleNamespace

import numpy as np

import dmft
from dmft.analysis.phase_diagram import PhaseDiagram
from dmft.names import Status
from dmft.simulation.descent_runs import DescentEnsemble
from dmft.solvers.solution import Values
from dmft.solvers.two_time.run import DescentRun

UNIT = {"time_unit": "t = steps * learning_rate / (p d), p fixed"}


def run(p=2, k=2, *, rate=0.5, status=Status.OK, points=60):
    """Units that specialise one after another."""
    t = np.linspace(0, 50, points)
    j, r = np.arange(p), np.arange(k)
    late = 10 + 5 * j[:, None] + 3 * r[None, :]
    rise = np.tanh(rate * t[:, None, None] / late) * np.where((j[:, None] - r) % k == 0, 1, 0.4)
    Q = np.einsum("tjr,tlr->tjl", rise, rise) + 0.1 * np.eye(p)
    return SimpleNamespace(
        t=t, M=rise, Q=Q, risk=np.exp(-rate * t / 5) + 1e-3, status=status, provenance=UNIT,
        parameters={"learning_rate": rate},
    )  # fmt: skip


def ensemble(p=2, k=2):
    mean = run(p, k)
    small = SimpleNamespace(**{n: 0.05 + 0 * getattr(mean, n) for n in ("M", "Q", "risk")})
    return SimpleNamespace(
        t=mean.t, mean=mean, stderr=small, dim=1000, counted=tuple(range(8)), provenance=UNIT
    )


def alignments():
    t = np.linspace(0, 5, 40)
    m = np.tanh(t)[:, None] * [1.0, 0.7, 0.5]
    return SimpleNamespace(
        t=t, m=m, e=0.3 * m, risk=np.exp(-t), status=Status.OK, provenance=UNIT, parameters={}
    )


def wide():
    rng = np.random.default_rng(0)
    t = np.linspace(0, 3, 20)
    M = np.tanh(t)[:, None, None] * rng.standard_normal((100, 2))
    return SimpleNamespace(
        t=t, M=M, Q_perp=np.exp(-t)[:, None] * (1 + rng.random(100)), risk=np.exp(-t),
        status=Status.OK, provenance=UNIT, parameters={},
    )  # fmt: skip


def descent_arrays(*, response=True, steps=8):
    t, s = np.arange(steps), np.arange(steps + 1)
    kernel = np.exp(-np.abs(t[:, None] - t) / 3)[:, :, None, None] * np.ones((2, 2))
    two = np.exp(-np.abs(s[:, None] - s) / 9)[:, :, None, None] * np.ones((2, 2))
    found = {
        "M": np.tanh(s / 4)[:, None, None] * [[1.0, 0.2], [0.1, 0.8]], "Q2": 1.5 * two,
        "Q": 1.5 * np.ones((steps + 1, 2, 2)), "corr": 0.3 * kernel, "resp": -0.4 * kernel,
        "train_loss": np.exp(-t / 3.0), "risk": 0.4 + 0.6 * np.exp(-s / 4.0),
        "readout": np.ones((steps + 1, 2)),
    }  # fmt: skip
    if not response:
        del found["resp"], found["risk"]
    return Values(found)


def descent():
    found = descent_arrays()
    error = Values({name: 0.02 + 0 * a for name, a in found.items()})
    return DescentRun(found, error, t=np.arange(9.0), status=Status.OK, message="")


def descents():
    mean = descent_arrays(response=False)
    error = Values({name: 0.05 + 0 * a for name, a in mean.items()})
    many = tuple(range(8))
    return DescentEnsemble(
        mean,
        error,
        error,
        many,
        (Status.OK,) * 8,
        500,
        t=np.arange(9.0),
        status=Status.OK,
        message="",
    )


def diagram(quantity="escape_time", *, failures=True):
    x, y = np.linspace(0.02, 0.8, 20), np.linspace(0.0, 1.0, 16)
    values = 3.0 / (1.05 - x[None, :]) ** 3 + 10 * y[:, None]
    if quantity == "fixed_point":
        values = np.round(1.5 * (x + y[:, None]))
    status = np.full(values.shape, "ok", dtype="<U20")
    if failures:
        status[x[None, :] + y[:, None] > 1.3] = "not_converged"
        status[x[None, :] + y[:, None] > 1.6] = "left_domain"
    values = np.where(status == "ok", values, np.nan)
    horizon = np.where(status == "ok", np.nan, 1000.0)
    return PhaseDiagram("learning_rate", "label_noise", quantity, x, y, values, status, horizon)


def boundary():
    def measure(learning_rate, label_noise):
        if learning_rate > 0.9:
            return np.nan
        return "learns" if learning_rate < 0.3 + 0.4 * label_noise**2 else "does not learn"

    return dmft.boundary(
        measure, ("learning_rate", 0.0, 1.0), ("label_noise", 0.0, 1.0), grid=(9, 8), step=0.1
    )


def regions():
    return dmft.literature.positional_semantic_diagram(
        np.linspace(0.7, 1, 24), np.linspace(0.4, 1, 24)
    )


def landscape():
    return dmft.landscape(dmft.literature.positional_semantic_risk(0.755, 0.975))


def two_time():
    return dmft.solve(dmft.literature.spherical_p_spin(3), None, 5.0, save_at=[1.0, 2.0, 5.0])


def escape():
    return SimpleNamespace(value=12.5, threshold=0.3, reference="plateau")


# name -> records of one figure
KINDS = {
    "run (1, 1)": lambda: [run(1, 1)],
    "run (2, 2), simulation, escape": lambda: [run(), ensemble(), escape()],
    "run (4, 3)": lambda: [run(4, 3)],
    "run (20, 1) that failed": lambda: [run(20, 1, status=Status.LEFT_DOMAIN)],
    "three runs": lambda: [run(rate=rate) for rate in (0.1, 0.5, 2.0)],
    "ensemble": lambda: [ensemble()],
    "alignments": lambda: [alignments()],
    "wide run": lambda: [wide()],
    "descent, simulation": lambda: [descent(), descents()],
    "two times": lambda: [two_time()],
    "diagram of values": lambda: [diagram()],
    "diagram of labels": lambda: [diagram("fixed_point")],
    "boundary": lambda: [boundary()],
    "regimes": lambda: [dmft.regimes(dmft.literature.phase_retrieval(3))],
    "regimes of batches": lambda: [dmft.regimes(dmft.literature.phase_retrieval(3), batch_size=1)],
    "batches": lambda: [dmft.batch_exponents(3)],
    "regions": lambda: [regions()],
    "landscape": lambda: [landscape()],
}
