"""Everything that a reader may copy: README, docstrings, examples and derivations all run."""

import contextlib
import doctest
import importlib
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
# Those that have examples; that the others can be imported is shown in test_architecture.py.
SHOWN = [path for path in sorted((ROOT / "dmft").rglob("*.py")) if ">>>" in path.read_text("utf-8")]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in SHOWN
]
SCRIPTS = sorted([*ROOT.glob("examples/*.py"), *ROOT.glob("derivations/*.py")])
# Last number that a script prints -> what a theorem, a paper or a long run says, and how closely.
PRINTED: dict[str, tuple[float, float]] = {
    # The ode with rk8 and Radau at rtol 1e-10 (the plateau itself is found to 2e-3 in t).
    "saad_solla.py": (129.936, 0.01),
    # Fluctuations of single runs are of order d^(-1/2).
    "theory_and_simulation.py": (-0.5, 0.1),
    # The same power, from two dimensions of four models with sixteen runs each.
    "any_activation.py": (-0.5, 0.15),
    # Chains and equations differ by terms of order 1/d and by the spread of few chains.
    "batch_sizes.py": (0.0, 0.02),
    # theory/one_pass F.4: 1.334 +- 0.012 by other chains; the mean of 200 has an error of 0.04.
    "exit_times.py": (1.334, 0.13),
    # Medians of 24 chains of a few hundred noisy steps, and whole numbers of few steps.
    "correlation_loss.py": (0.0, 0.1),
    # theory/one_pass F: 1.78 by the equations, 1.73 by one chain.
    "escape_formulas.py": (1.779, 0.005),
    # Standard errors between theory and simulation: one, up to the correlation of few entries.
    "batch_reuse.py": (1.0, 0.5),
    # The ode of this run, theory/batch_reuse D.3: 23.73; 24 chains spread by 1.2 each.
    "repetition.py": (23.73, 1.2),
    # The same equations, solved by SciPy to a relative error of 1e-9 a step.
    "exported.py": (0.0, 1e-6),
    # Runge-Kutta of the rates in closed form, theory/update_rules 5.
    "rewards.py": (73.430, 0.01),
    # theory/update_rules 5: ((omega - g/2) / (omega (1 + g/2)))^(1/2).
    "components.py": (0.620174, 1e-5),
    # Runge-Kutta of rates that were written by hand.
    "alignment_and_forgetting.py": (0.062955, 1e-5),
    # theory/structured_inputs (12): -2 r; what is left at t = 3e4 is below 1 %.
    "power_law.py": (-0.8, 0.01),
    # The loss of the images at the end; means of sixteen noisy runs have an error of 1 % each.
    "real_data.py": (1.0, 0.05),
    # The overlaps of eight runs in d = 300: standard errors of .01, terms of order 1/d.
    "pytorch_committee.py": (0.0, 0.06),
    # The same equations with rk8 at rtol 1e-11.
    "attention_trajectories.py": (0.54274, 2e-5),
    # Times of the equations by linear interpolation; rk8 at rtol 1e-11 gives the same.
    "sparse_parity.py": (32.3, 0.1),
    # theory/structured_inputs (19) says which points are stable.
    "momentum_stability.py": (0.0, 0.5),
    # The slope of (12) at the last point of the diagram.
    "scaling_regimes.py": (-1.5, 1e-9),
    # theory/one_pass F.1; traced to one millionth of the ranges.
    "escape_contours.py": (0.0, 5e-6),
    # theory/sequence D.6; likewise.
    "regions_traced.py": (0.0, 5e-6),
    # The closed form of derivations/maximal_rates.py; units of length 128 and less, extrapolated.
    "maximal_rates.py": (0.0, 1e-5),
    # Means of sixteen descents in d = 500: standard errors of 0.016 each, terms of order 1/d.
    "dmft_learnability.py": (0.0, 0.06),
    # The mean over six chains has an error of about 0.04.
    "staircase.py": (0.0, 0.2),
    # The same equations with rk8 at rtol 1e-11.
    "wide_network.py": (0.0009042, 2e-6),
    # Cugliandolo and Kurchan: -2/sqrt(3); the fit at t = 10^3 is 5e-5 off.
    "p_spin.py": (-1.154701, 5e-4),
    # theory/sequence D.7; the derivatives at the corner are checked by direct averages.
    "positional_semantic.py": (0.9867973, 1e-6),
    # By integrals of derivatives of the trace over three fields; the table of the risk, whose bound
    # is 2e-8, has 1e-5 in its second derivatives there.
    "three_tokens.py": (0.6509867, 1e-5),
    # Standard errors of means of twelve chains: one, up to the correlation of times.
    "exclusive_or.py": (1.0, 0.5),
    # Issue H: 0.0700 for the AdaTron at 20 samples a dimension.
    "learning_rules.py": (0.0700, 6e-5),
    # (4 sqrt(2) - 5)/2, from the stationary point of the linear equations; rtol 1e-9.
    "weight_decay.py": (0.3284271, 2e-6),
    # Integrals of 1/(dm/dt) of the closed equations, theory/sequence C.4.
    "sequence_length.py": (2.8118659, 2e-6),
    # By other quadratures; the same for the noise.
    "network_chaos.py": (0.1124581, 1e-6),
    "noise_suppresses_chaos.py": (0.618760, 2e-6),
    # sqrt(2)/(1 + symmetry).
    "species_survival.py": (1.4142136, 1e-6),
    # E m n phi'(0) = 1; linear in the square of kappa up to the square of the distance.
    "low_rank_bifurcation.py": (1.0, 2e-3),
}


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name, tmp_path, monkeypatch):
    if "certif" in name:
        pytest.importorskip("flint", reason="python-flint is not installed (extra certify)")
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=OPTIONS)
    assert result.failed == 0
    assert result.attempted, f"the examples of {name} stand where doctest does not look"


def readme_blocks(language):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_readme_tour(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    blocks = readme_blocks("pycon")
    assert blocks, "README has no tour; the guide's pages run when the site is built"
    session = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "README.md", None, 0)
    assert len(session.examples) >= 10
    assert doctest.DocTestRunner(optionflags=OPTIONS).run(session).failed == 0


@pytest.mark.parametrize("name", ["schedules.md", "spectra.md"])
def test_pages_of_examples(name, tmp_path, monkeypatch):
    """The blocks of a page are one session."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    blocks = re.findall(r"```pycon\n(.*?)```", text, re.DOTALL)
    session = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, name, None, 0)
    assert len(session.examples) >= 10
    assert doctest.DocTestRunner(optionflags=OPTIONS).run(session).failed == 0


def test_readme_says_what_it_is_not():
    first = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[0]
    assert "mean-field theory of learning" in first
    assert "correlated electrons" in first


def test_readme_links_point_to_files():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


# What takes more than half a second, or half a minute from an empty cache; what they show has fast
# tests of its own: the plateau in tests/analysis, escapes in test_escape_formula.py, the power law
# in docs/spectra.md, regimes in test_scalings.py, stores in tests/analysis, rates, fluctuations and
# repeated samples in tests/equations, averages in tests/gaussian.
LONG = {
    "saad_solla.py",
    "examples/escape_formulas.py",
    "power_law.py",
    "regimes.py",
    "large_sweeps.py",
    "committee_sgd.py",
    "erf_integrals.py",
    "fluctuations.py",
    "repeated_samples.py",
    "certificates.py",
    "real_data.py",
    "attention_trajectories.py",
    "pytorch_committee.py",
    "sparse_parity.py",
    "scaling_regimes.py",
    "learning_rules.py",
    "exit_times.py",
    "p_spin.py",
    "sequence_length.py",
    "exponents.py",
    "three_tokens.py",
    "any_activation.py",
    "batch_sizes.py",
    "large_batches.py",
    "correlation_loss.py",
    "public_script.py",
    "repetition.py",
    "staircase.py",
    "theory_and_simulation.py",
    "wide_network.py",
    "escape_contours.py",
    "regions_traced.py",
    "maximal_rates.py",
    "dmft_learnability.py",
    "exclusive_or.py",
    "derivations/escape_formulas.py",
    "derivations/infinite_width.py",
    "derivations/phase_retrieval.py",
    "derivations/static_limits.py",
    "momentum_stability.py",
    "exported.py",
    "batch_reuse.py",
}


def is_long(path):
    return not LONG.isdisjoint((path.name, f"{path.parent.name}/{path.name}"))


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] if is_long(p) else []) for p in SCRIPTS],
    ids=[f"{p.parent.name}/{p.name}" for p in SCRIPTS],
)
def test_scripts_run_and_print_their_number(path, tmp_path, monkeypatch, capfd):
    """The long ones as a reader starts them; the others here, where everything is imported."""
    if path.name == "real_data.py":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra data)")
    if path.name == "pytorch_committee.py":
        pytest.importorskip("torch", reason="PyTorch is not installed (extra torch)")
    if is_long(path):
        out = printed_by_process(path, tmp_path)
    else:
        out = printed_here(path, tmp_path, monkeypatch, capfd)
    numbers = re.findall(r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?", out)
    assert numbers, f"{path.name} prints no number"
    if path.parent.name == "examples":
        value, tolerance = PRINTED[path.name]
        assert float(numbers[-1]) == pytest.approx(value, abs=tolerance)


def printed_by_process(path, folder):
    done = subprocess.run(
        [sys.executable, str(path)], cwd=folder, env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done.stdout


def printed_here(path, folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.setattr(sys, "argv", [str(path)])
    monkeypatch.setenv("MPLBACKEND", "Agg")
    with contextlib.suppress(ImportError):
        import matplotlib

        matplotlib.use("Agg")
    code = None
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        code = end.code
    finally:
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close("all")
    found = capfd.readouterr()
    assert not code, code
    assert "Traceback" not in found.err
    return found.out


# Trains on images by an SGD of its own, which `simulate` does not.
LONGEST = {"real_data.py": 140}


def test_examples_are_short():
    for path in ROOT.glob("examples/*.py"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= LONGEST.get(path.name, 60), path.name


def test_every_printed_number_belongs_to_an_example():
    assert set(PRINTED) == {p.name for p in ROOT.glob("examples/*.py")}


def test_example_declarations_are_the_documented_ones():
    from dmft.cli.schema import EXAMPLE
    from dmft.cli.toml import read_declaration

    assert (ROOT / "examples" / "saad_solla.toml").read_text() == EXAMPLE
    for path in ROOT.glob("examples/*.toml"):
        read_declaration(path)
