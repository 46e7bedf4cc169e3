"""Options of descents on repeated data: response, error bars, threads, checkpoints, memory."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import time
import tracemalloc

import numpy as np
import pytest
import sympy as sp
from scipy import stats

import dmft
from dmft.errors import BadParameter

z, u = sp.symbols("z u", real=True)
LINE = dmft.Committee(z, 1)
ERF = sp.erf(z / sp.sqrt(2))
PAIR = dmft.Committee(ERF, 2, readout=(2, sp.Rational(-6, 5)))
FOUR = dmft.Model(PAIR, dmft.MultiIndex(sp.tanh(u**3 - 3 * u), [u]), label_noise=0.1)
PAIR_START = dmft.Overlaps([[1.0, 0.3], [0.3, 0.8]], [[0.3], [-0.1]], [[1.4]])
RELU_ONE = dmft.Model(dmft.Committee(sp.Max(z, 0), 1), LINE)
ONE_START = dmft.Overlaps([[1.0]], [[0.0]])


def test_both_responses_are_exact_for_linear_students():
    """Stein's identity and the derivative of the path, on nodes that are exact for both."""
    model = dmft.Model(dmft.Committee(z, 2, readout=(2, -1)), LINE, label_noise=0.2)
    equations = dmft.derive(model, dmft.GradientDescent(0.2, 1.5, ridge=0.1, momentum=0.3))
    start = dmft.Overlaps([[1.0, 0.2], [0.2, 0.8]], [[0.3], [-0.1]], [[1.3]])
    stein = dmft.solve(equations, start, 6, method="stein")
    path = dmft.solve(equations, start, 6, method="pathwise")
    for name in ("resp", "corr", "Q2", "M"):
        assert np.abs(stein[name] - path[name]).max() < 1e-11, name


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    "options", [{}, {"batch": "bernoulli", "batch_fraction": 0.5}], ids=["full", "bernoulli"]
)
def test_path_and_stein_agree_within_their_errors(options):
    equations = dmft.derive(FOUR, dmft.GradientDescent(0.6, 1.5, ridge=0.05, **options))
    stein = dmft.solve(equations, PAIR_START, 4, samples=2**12, method="stein")
    path = dmft.solve(equations, PAIR_START, 4, samples=2**12, method="pathwise", seed=7)
    for name in ("resp", "corr", "M", "Q2", "train_loss"):
        gap = np.abs(stein[name] - path[name])
        assert np.all(gap < 6 * np.hypot(stein.error[name], path.error[name]) + 1e-5), name
    # What the option is for.
    assert 3 * np.mean(path.error["resp"]) < np.mean(stein.error["resp"])


def test_kernels_of_the_path_satisfy_the_definition_in_weights():
    """alpha E[dg^t/dr^s] for s = t is the mean curvature: read off weights in R^d."""
    model = dmft.Model(dmft.Committee(ERF, 1), dmft.Committee(ERF, 1))
    run = dmft.solve(
        dmft.derive(model, dmft.GradientDescent(0.5, 2)), ONE_START, 1, method="pathwise"
    )
    rng = np.random.default_rng(0)
    h, star = rng.standard_normal((2, 400_000))
    gauss = np.sqrt(2 / np.pi) * np.exp(-(h**2) / 2)
    from scipy.special import erf

    bend = gauss**2 - gauss * h * (erf(h / np.sqrt(2)) - erf(star / np.sqrt(2)))
    error = 2 * bend.std() / np.sqrt(h.size)
    assert abs(run.resp[0, 0, 0, 0] - 2 * bend.mean()) < 4.5 * error + 1e-6


def test_errors_of_scrambles_cover():
    """Runs of other seeds differ by what each claims, which is widened for eight scrambles."""
    wider = stats.t.ppf(stats.norm.cdf(2), 7) / 2
    equations = dmft.derive(FOUR, dmft.GradientDescent(0.6, 1.5, ridge=0.05))
    runs = [dmft.solve(equations, PAIR_START, 2, samples=2**9, seed=n) for n in range(24)]
    for name in ("M", "Q", "train_loss", "corr", "risk"):
        spread = np.var([r[name] for r in runs], axis=0, ddof=1)
        claimed = np.mean([(r.error[name] / wider) ** 2 for r in runs], axis=0)
        moves = spread > 1e-20
        assert 0.6 < claimed[moves].mean() / spread[moves].mean() < 1.6, name


@pytest.mark.slow
@pytest.mark.parametrize(("name", "largest"), [("relu pair", 5e-4), ("erf", 2e-5)])
def test_error_of_the_overlaps_at_65536_samples(name, largest):
    """theory/batch_reuse C: rms over seeds of M at seven steps, against 64 times the samples."""
    if name == "erf":
        one = dmft.Committee(ERF, 1)
        model, descent = dmft.Model(one, one), dmft.GradientDescent(0.8, 2, ridge=0.1)
        start = dmft.Overlaps([[1.0]], [[0.2]])
    else:
        v = sp.Symbol("v", real=True)
        joint = dmft.MultiIndex(sp.tanh(u + v**3 - 3 * v), [u, v])
        pair = dmft.Committee(sp.Max(z, 0), 2, readout=(sp.sqrt(2), -sp.sqrt(2)))
        model, descent = dmft.Model(pair, joint), dmft.GradientDescent(0.2, 3)
        start = dmft.Overlaps(np.eye(2), np.zeros((2, 2)))
    equations = dmft.derive(model, descent)
    best = dmft.solve(equations, start, 7, samples=2**19, scrambles=8, seed=999, memory=2**32)
    runs = [
        dmft.solve(equations, start, 7, samples=2**16, scrambles=1, seed=n).M for n in range(32)
    ]
    rms = np.sqrt(np.mean((np.array(runs) - best.M) ** 2, axis=(0, 2, 3)))
    print(f"{name}: rms error of M {rms}, best {best.error['M'].max():.1e}")
    assert rms.max() < largest


@pytest.mark.cases(1)
@pytest.mark.parametrize("method", ["stein", "pathwise"])
def test_threads_change_nothing(method):
    equations = dmft.derive(FOUR, dmft.GradientDescent(0.6, 1.5))
    options = {"samples": 2**12, "method": method}
    one = dmft.solve(equations, PAIR_START, 3, threads=1, scrambles=1, **options)
    three = dmft.solve(equations, PAIR_START, 3, threads=3, scrambles=1, **options)
    assert one.arrays == three.arrays
    # Several scrambles at once, and one after the other where the memory takes no more.
    many = dmft.solve(equations, PAIR_START, 3, threads=2, scrambles=4, **options)
    few = dmft.solve(equations, PAIR_START, 3, threads=2, scrambles=4, memory=2**21, **options)
    assert many.arrays == few.arrays


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", ["full", "bernoulli", "reshuffle", "pathwise", "cubature"])
def test_memory_that_is_asked_for_is_what_is_taken(name):
    """Peak of the arrays of one scramble: at most what is claimed, and at least 0.7 of it."""
    options = {"samples": 2**12, "scrambles": 1, "threads": 1}
    model, start, steps, batch = FOUR, PAIR_START, 8, {}
    if name == "cubature":
        model, start, steps = dmft.Model(LINE, LINE), ONE_START, 100
    elif name == "pathwise":
        options["method"] = name
    elif name != "full":
        batch = {"batch": name, "batch_fraction": 0.5}
    equations = dmft.derive(model, dmft.GradientDescent(0.05, 1.5, **batch))
    dmft.solve(equations, start, 1, **options)
    tracemalloc.start()
    dmft.solve(equations, start, steps, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with pytest.raises(BadParameter, match="memory=") as refused:
        dmft.solve(equations, start, steps, memory=1000, **options)
    claimed = int(str(refused.value).rpartition("memory=")[2])
    assert 0.7 * claimed < peak < claimed
    dmft.solve(equations, start, steps, memory=claimed, **options)


SCRIPT = """
import sympy as sp, dmft
z = sp.Symbol("z", real=True)
line = dmft.Committee(z, 1)
model = dmft.Model(dmft.Committee(sp.{activation}, 1), line, label_noise=0.1)
descent = dmft.GradientDescent(0.3, 3, batch="bernoulli", batch_fraction=0.5)
run = dmft.solve(
    dmft.derive(model, descent), dmft.Overlaps([[1.0]], [[0.0]]), {steps}, samples=2**14,
    scrambles=2, threads=1, checkpoint={folder!r}, method={method!r},
)
"""


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("method", "activation"), [("stein", "Max(z, 0)"), ("pathwise", "tanh(z)")]
)
def test_a_killed_run_continues_to_the_same_bits(tmp_path, method, activation):
    steps = 20

    def script(folder):
        return SCRIPT.format(folder=str(folder), steps=steps, method=method, activation=activation)

    broken, whole = tmp_path / "broken", tmp_path / "whole"
    process = multiprocessing.get_context("fork").Process(target=exec, args=(script(broken), {}))
    process.start()
    kernels, end = broken / "kernels_0.npz", time.monotonic() + 120
    while time.monotonic() < end:
        if kernels.exists():
            with np.load(kernels) as file:
                if int(file["done"]) >= 3:
                    break
        time.sleep(0.01)
    process.kill()
    process.join()
    with np.load(kernels) as file:
        done = int(file["done"])
    assert 3 <= done < steps, "the run was over before it was killed"
    runs = []
    for folder in (broken, whole):
        names = {}
        exec(script(folder), names)
        runs.append(names["run"])
    assert runs[0].arrays == runs[1].arrays
    assert runs[0].error == runs[1].error


def test_scrambles_that_are_done_give_their_samples_back():
    """Eight scrambles, one after the other, take as much memory as one."""
    equations, peaks = dmft.derive(FOUR, dmft.GradientDescent(0.3, 3)), []
    for scrambles in (1, 1, 8):
        tracemalloc.start()
        dmft.solve(equations, PAIR_START, 6, samples=2**13, scrambles=scrambles, threads=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss counts KiB")
@pytest.mark.parametrize(("memory", "threads"), [(2**31, 2), (2**30, 4)])
def test_memory_of_a_long_descent_is_bounded(memory, threads):
    """T = 40, p = k = 2, 2^18 samples: below 2 GiB in all, and below what `memory` allows."""
    code = f"""
    import resource, numpy as np, sympy as sp, dmft
    z, u, v = sp.symbols("z u v", real=True)
    joint = dmft.MultiIndex(sp.tanh(u + v**3 - 3 * v), [u, v])
    model = dmft.Model(dmft.Committee(sp.Max(z, 0), 2, readout=(sp.sqrt(2), -sp.sqrt(2))), joint)
    equations = dmft.derive(model, dmft.GradientDescent(0.2, 3))
    start = dmft.Overlaps(np.eye(2), np.zeros((2, 2)))
    dmft.solve(equations, start, 2, samples=2**8, scrambles=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    options = dict(samples=2**18, scrambles=4, threads={threads}, memory={memory})
    run = dmft.solve(equations, start, 40, **options)
    assert run.status == "ok", run.message
    print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        check=True, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    before, peak = (1024 * int(y) for y in done.stdout.split())
    print(
        f"memory={memory / 2**30:.2f} GiB: peak {peak / 2**30:.2f} GiB, {before / 2**30:.2f} before"
    )
    assert peak < 2**31
    assert peak - before < memory


def test_batches_and_noise_are_checked():
    """Shares of batches may be given at run time; what no limit or short time holds is refused."""
    descent = dmft.GradientDescent(0.3, 3, batch="reshuffle", batch_fraction=0.5, temperature=0.1)
    equations, start = dmft.derive(FOUR, descent), PAIR_START
    for given, words in (
        ({"batch_fraction": 0.4}, "equal parts"),
        ({"batch_fraction": 2.0}, r"\(0, 1\]"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"ridge": -1.0}, "ridge must be at least 0"),
    ):
        with pytest.raises(BadParameter, match=words):
            dmft.solve(equations, start, 2, samples=2**9, **given)
    alpha = sp.Symbol("alpha", positive=True)
    loaded = dmft.derive(FOUR, dmft.GradientDescent(0.3, alpha))
    with pytest.raises(BadParameter, match="samples_per_dim must be at least 0"):
        dmft.solve(loaded, start, 2, samples=2**9, alpha=-1.0)
    with pytest.raises(BadParameter, match=r"Langevin noise use dmft\.solve"):
        dmft.short_times(equations)
    with pytest.raises(BadParameter, match="noise is added in finite steps"):
        dmft.derive(FOUR, dmft.GradientDescent(1, 3, temperature=0.1), scaling="gradient-flow")
    with pytest.raises(BadParameter, match="temperature must be non-negative"):
        dmft.GradientDescent(0.3, 3, temperature=-1)
    with pytest.raises(BadParameter, match='or "replacement"'):
        dmft.GradientDescent(0.3, 3, batch_fraction=0.5)
