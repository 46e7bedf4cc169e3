"""Runs of torch.optim against the equations, with the dictionary of `as_torch` between them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import sympy as sp

import dmft

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

z = sp.Symbol("z", real=True)
ERF = sp.erf(z / sp.sqrt(2))
STUDENT, TEACHER, NOISE = dmft.Committee(ERF, 2, [1.5, 1.0]), dmft.Committee(ERF, 1), 0.1
LAW = dmft.Spectrum([2.0, 0.5], [0.3, 0.7])
DIM, SEEDS = 300, 24


def trained(
    optimiser: Any, algorithm: Any, start: dmft.Overlaps, steps: int, scaled_inputs: bool
) -> dict[str, np.ndarray]:
    """Overlaps by block of independent students, the first axis of one parameter."""
    random = torch.Generator().manual_seed(1)
    sizes = [round(DIM * float(part)) for part in LAW.fractions]
    deviation = torch.cat(
        [torch.full((n,), float(c) ** 0.5) for n, c in zip(sizes, LAW.eigenvalues, strict=True)]
    ).double()
    parts = []
    for gram, n in zip(start.Omega, sizes, strict=True):
        basis = torch.linalg.qr(torch.randn(n, 3, generator=random, dtype=torch.float64))[0]
        parts.append(torch.linalg.cholesky(torch.tensor(gram)) @ basis.T * DIM**0.5)
    rows = torch.cat(parts, dim=1)
    W, star = rows[:2].expand(SEEDS, 2, DIM).clone(), rows[2]
    unit = 1.0 if scaled_inputs else DIM**0.5
    stored = torch.nn.Parameter(W / unit)
    taught = optimiser([stored], **algorithm.as_torch(DIM, 2, scaled_inputs=scaled_inputs))
    if getattr(algorithm, "initial", 0) and optimiser is torch.optim.Adam:
        shape, share = torch.zeros_like(stored), 2.0**-2 / (DIM if scaled_inputs else 1)
        taught.state[stored] = {
            "step": torch.tensor(1e9),
            "exp_avg": shape,
            "exp_avg_sq": shape + float(algorithm.initial) * share,
        }
    a = torch.tensor([1.5, 1.0], dtype=torch.float64)
    for _ in range(steps):
        x = deviation * torch.randn(SEEDS, DIM, generator=random, dtype=torch.float64)
        label = torch.erf(x @ star / DIM**0.5 / 2**0.5)
        label = label + NOISE**0.5 * torch.randn(SEEDS, generator=random, dtype=torch.float64)
        fed = x / DIM**0.5 if scaled_inputs else x
        output = (a * torch.erf(torch.einsum("sjd,sd->sj", stored, fed) / 2**0.5)).mean(dim=1)
        taught.zero_grad()
        (0.5 * (label - output) ** 2).sum().backward()
        taught.step()
    W = stored.detach() * unit
    edges = np.concatenate([[0], np.cumsum(sizes)])
    cut = [slice(int(i), int(j)) for i, j in itertools.pairwise(edges)]
    return {
        "block_Q": np.array([(W[..., s] @ W[..., s].mT / DIM).numpy() for s in cut]),
        "block_M": np.array([(W[..., s] @ star[s] / DIM).numpy()[..., None] for s in cut]),
    }


@pytest.mark.cases(2)
@pytest.mark.parametrize("scaled_inputs", [False, True])
@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("SGD", dmft.SGD(0.3, momentum=0.8, weight_decay=0.3)),
        ("Adam", dmft.Adam(0.6, second_moment_rate=3.0, eps=0.2, momentum=0.6, initial=0.4)),
        pytest.param("SGD", dmft.SGD(1.5), marks=pytest.mark.slow),
        pytest.param("Adam", dmft.Adam(0.6, momentum=0.5), marks=pytest.mark.slow),
        pytest.param(
            "AdamW",
            dmft.Adam(0.6, eps=0.1, weight_decay=0.5, decoupled=True),
            marks=pytest.mark.slow,
        ),
        pytest.param("Adam", dmft.Adam(0.6, eps=0.1, weight_decay=0.5), marks=pytest.mark.slow),
        pytest.param("Adam", dmft.SignSGD(0.5), marks=pytest.mark.slow),
        pytest.param("Adagrad", dmft.AdaGrad(0.5, initial=0.2), marks=pytest.mark.slow),
        pytest.param("RMSprop", dmft.RMSProp(0.5, eps=0.1), marks=pytest.mark.slow),
    ],
)
def test_torch_follows_the_equations(name: str, algorithm: Any, scaled_inputs: bool) -> None:
    model = dmft.Model(STUDENT, TEACHER, label_noise=NOISE, inputs=LAW)
    start = dmft.random_overlaps(model, DIM, seed=0)
    steps = 900 if name == "SGD" else 1200
    found = trained(getattr(torch.optim, name), algorithm, start, steps, scaled_inputs)
    pace = 1 / (1 - float(algorithm.momentum)) if name == "SGD" else 1.0
    t = steps * float(algorithm.learning_rate) * pace / (2 * DIM)
    run = dmft.solve(dmft.derive(model, algorithm), start, t, save_at=[t])
    # V that follows at once has a memory of 3 sqrt(d) steps, whose fluctuations change steps by
    # 5/2 (1 - beta_2) (`dmft.equations.update.adaptive_factors`) to first order.
    at_once = getattr(algorithm, "second_moment_rate", 1) is None
    memory = 2.5 / (3 * DIM**0.5) if at_once else 0.0
    moved = 0.0
    for block, runs in found.items():
        mean, error = runs.mean(axis=1), runs.std(axis=1, ddof=1) / SEEDS**0.5
        theory = run.blocks[block][-1]
        away = np.abs(theory - getattr(start, block[-1]))
        # Finite dimension leaves a bias of order 1/d beside the error of the mean.
        off = np.abs(mean - theory) - memory * away
        assert (off / np.hypot(error, 1.0 / DIM)).max() < 4.0, block
        moved = max(moved, away.max())
    assert moved > 0.1


@pytest.mark.parametrize("scaled_inputs", [False, True])
@pytest.mark.parametrize(
    ("name", "algorithm", "own"),
    [
        ("SGD", dmft.SGD(0.5, momentum=0.9, weight_decay=0.25), {}),
        ("SGD", dmft.SGD(0.5, momentum=dmft.Momentum(2.0)), {}),
        ("Adam", dmft.Adam(0.5, 2.0, eps=0.125, momentum=0.5, initial=0.25), {"initial": 0.25}),
        ("Adam", dmft.Adam(0.5, eps=0.125), {}),
        ("Adagrad", dmft.AdaGrad(0.5, initial=0.25), {}),
        ("RMSprop", dmft.RMSProp(0.5, beta2=0.75), {"beta2": 0.75}),
        ("Adam", dmft.SignSGD(0.5), {}),
    ],
)
def test_an_optimiser_of_torch_comes_back(
    name: str, algorithm: Any, own: dict[str, float], scaled_inputs: bool
) -> None:
    settings = algorithm.as_torch(256, 2, scaled_inputs=scaled_inputs)
    optimiser = getattr(torch.optim, name)([torch.nn.Parameter(torch.zeros(2))], **settings)
    for given in (optimiser, settings):
        back = type(algorithm).from_torch(given, 256, width=2, scaled_inputs=scaled_inputs, **own)
        names = ("learning_rate", "momentum", "weight_decay", "eps", "initial")
        for field in names:
            one, two = getattr(algorithm, field, 0), getattr(back, field, 0)
            if isinstance(one, dmft.Momentum):
                one, two = one.rate, two.rate
            assert abs(float(one) - float(two)) < 1e-9, field
