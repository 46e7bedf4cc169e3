"""One pass over real inputs (digits): where the theory holds and where it fails.

Inputs are the 1,797 images of scikit-learn's digits, 64 pixels, centred and scaled to mean
variance one; the label is +1 for even digits, -1 for odd ones. Spectrum and linear teacher are
measured, and the residual of the labels counts as noise. A linear student and a student with two
erf units learn from resampled images by plain SGD, and from Gaussian inputs with the same
covariance. Gaussian inputs deviate from the theory because the intrinsic dimension is small. Images
deviate further because they form clusters.
Run as `python examples/real_data.py [folder]` with the extra `data`; prints the ratio of the final
risks of theory and images, for the linear student.
"""

import sys
from pathlib import Path

import numpy as np
import sympy as sp
from scipy.special import erf

import dmft

try:
    from sklearn.datasets import load_digits
except ImportError as error:
    raise SystemExit(
        'this example reads scikit-learn\'s digits: pip install "dmft[data]"'
    ) from error

RATE, SEEDS, SMALL, T_MAX = 0.2, 16, 0.3, 20.0
digits = load_digits()
X = digits.data - digits.data.mean(axis=0)
X /= np.sqrt((X**2).mean())
y = np.where(digits.target % 2 == 0, 1.0, -1.0)
y -= y.mean()
n, d = X.shape
law = dmft.Spectrum.from_data(X, y, bins=40)
values, basis = np.linalg.eigh(X.T @ X / n)
seen = values > 1e-9 * values[-1]
teacher = basis[:, seen] @ (basis[:, seen].T @ (X.T @ y / n) / values[seen])
residual = y - X @ teacher
noise = float(residual.var())
root = basis * np.sqrt(np.maximum(values, 0.0))
print(f"{law.blocks} blocks, tr Sigma/|Sigma| = {law.intrinsic_dim:.1f} of {d} directions")
print(f"linear part of the labels: {1 - noise / y.var():.3f} of their variance")


def trained(weights, output, slope, readout, gaussian, times):
    """Mean and error of 1/2 E(y - f)^2 over seeds: SGD on images, or on inputs of N(0, Sigma)."""
    rng = np.random.default_rng(1 if gaussian else 2)
    p = readout.size
    found = np.empty((times.size, SEEDS))
    held = rng.standard_normal((4000, d)) @ root.T if gaussian else X
    labels = held @ teacher + np.sqrt(noise) * rng.standard_normal(4000) if gaussian else y
    steps = np.rint(times * p * d / RATE).astype(int)
    for step in range(steps[-1] + 1):
        for i in np.flatnonzero(steps == step):
            f = output(np.einsum("nd,spd->snp", held, weights) / np.sqrt(d)) @ readout / p
            found[i] = ((labels - f) ** 2).mean(axis=1) / 2
        if gaussian:
            x = rng.standard_normal((SEEDS, d)) @ root.T
            label = x @ teacher + np.sqrt(noise) * rng.standard_normal(SEEDS)
        else:
            pick = rng.integers(n, size=SEEDS)
            x, label = X[pick], y[pick]
        h = np.einsum("sd,spd->sp", x, weights) / np.sqrt(d)
        error = label - output(h) @ readout / p
        psi = readout * slope(h) * error[:, None]
        weights = weights + RATE / p * psi[:, :, None] * x[:, None, :] / np.sqrt(d)
    return found.mean(axis=1), found.std(axis=1) / np.sqrt(SEEDS)


z = sp.Symbol("z", real=True)
line = dmft.Committee(z, 1)
students = {
    "linear": (dmft.Committee(z, 1), lambda h: h, np.ones_like, np.ones(1), 0.0),
    "two erf units": (
        dmft.Committee(sp.erf(z / sp.sqrt(2)), 2, readout=[3.0, 2.0]),
        lambda h: erf(h / np.sqrt(2)),
        lambda h: np.sqrt(2 / np.pi) * np.exp(-(h**2) / 2),
        np.array([3.0, 2.0]),
        SMALL,
    ),
}
times = np.append(0.0, np.geomspace(0.03, T_MAX, 20))
curves = {}
for name, (student, output, slope, readout, size) in students.items():
    p = readout.size
    model = dmft.Model(student, line, label_noise=noise, inputs=law)
    start = dmft.Overlaps(
        size**2 * law.fractions[:, None, None] * np.eye(p),
        np.zeros((law.blocks, p, 1)),
        law.teacher,
    )
    run = dmft.solve(dmft.derive(model, dmft.SGD(RATE)), start, T_MAX, save_at=times)
    assert run.status == "ok", run.message
    first = size * np.random.default_rng(0).standard_normal((SEEDS, p, d))
    curves[name] = (
        run.loss,
        [trained(first, output, slope, readout, gaussian, times) for gaussian in (True, False)],
    )
    gauss, images = curves[name][1]
    late = slice(times.size // 2, None)
    print(f"{name}: theory over Gaussian inputs {np.mean(run.loss[late] / gauss[0][late]):.3f}")
    print(f"{name}: theory over images {np.mean(run.loss[late] / images[0][late]):.3f}")

if len(sys.argv) > 1:
    import matplotlib.pyplot as plt

    folder = Path(sys.argv[1])
    fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    order, rank = values[seen][::-1], np.arange(1.0, seen.sum() + 1)
    axes[0].loglog(rank, order, ".", label="images")
    axes[0].loglog(rank, order[0] / rank, "k:", label="1/i")
    axes[0].set(xlabel="i", ylabel="eigenvalue", title="spectrum")
    carried = law.eigenvalues > 0.0
    signal = (law.eigenvalues * law.teacher[:, 0, 0])[carried]
    axes[1].semilogx(law.eigenvalues[carried], np.cumsum(signal[::-1])[::-1], ".-")
    axes[1].set(xlabel="eigenvalue", ylabel="linear signal from it on", title="teacher")
    axes[0].legend(frameon=False)
    fig.savefig(folder / "real_data_spectrum.png", dpi=150)
    for name, (theory, (gauss, images)) in curves.items():
        fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
        axes[0].semilogx(times, theory, "k", label="theory")
        for found, mark, label in ((gauss, "o", "Gaussian inputs"), (images, "s", "images")):
            axes[0].errorbar(times, *found, fmt=mark, ms=4, label=label)
            axes[1].errorbar(times, found[0] - theory, found[1], fmt=mark, ms=4, label=label)
        axes[0].axhline(noise / 2, color="grey", ls=":", label="linear fit of the labels")
        axes[1].axhline(0.0, color="k", lw=0.8)
        axes[0].set(xlabel="t", ylabel="loss", title=f"student: {name}")
        axes[1].set(xlabel="t", ylabel="loss less theory", title="where it fails", xscale="log")
        axes[0].legend(frameon=False)
        fig.savefig(folder / f"real_data_{name.split()[0]}.png", dpi=150)

theory, (_, images) = curves["linear"]
print(f"theory over images, linear student: {theory[-1] / images[0][-1]:.3f}")
