"""A good call of every public function and declaration, and values that are wrong for most."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import sympy as sp

import dmft

RISK = 40.0
z = sp.Symbol("z", real=True)
u = sp.Symbol("u", real=True)
h_star = sp.Symbol("h_star", real=True)

WRONG: dict[str, Any] = {
    "None": None,
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
    "-1": -1,
    "0": 0,
    "-0.5": -0.5,
    "1e-320": 1e-320,
    "1e308": 1e308,
    "10**400": 10**400,
    "-10**400": -(10**400),
    "10**9": 10**9,
    "2**63": 2**63,
    "True": True,
    "complex": 1 + 2j,
    "text": "x",
    "empty text": "",
    "long text": "n" * 5000,
    "bytes": b"x",
    "list": [],
    "tuple": (),
    "dict": {},
    "set": {1, 2},
    "object": object(),
    "class": int,
    "function": lambda *a, **k: None,
    "failing function": lambda *a, **k: [][0],
    "nested": [[[]]],
    "mixed list": [1, "a", None],
    "nan list": [float("nan")],
    "texts": ["a", "b"],
    "array": np.arange(3.0),
    "matrix": np.ones((3, 2)),
    "empty array": np.empty((0, 0)),
    "complex array": np.ones((1, 1)) * 1j,
    "masked": np.ma.masked_array([1.0, 2.0], [True, False]),
    "masked matrix": np.ma.masked_array([[1.0]], [[True]]),
    "objects": np.array([object(), None], dtype=object),
    "text array": np.array(["a", "b"]),
    "times": np.array(["2020-01-01"], dtype="datetime64[D]"),
    "structured": np.zeros(2, dtype=[("a", "f8")]),
    "np.nan": np.float64("nan"),
    "np.bool": np.bool_(True),
    "zoo": sp.zoo,
    "sp.nan": sp.nan,
    "sp.oo": sp.oo,
    "imaginary": sp.I,
    "symbol": sp.Symbol("w"),
    "function of": sp.Function("f")(z),
    "relation": z > 0,
    "sympy true": sp.true,
    "sympy matrix": sp.Matrix([[1, z], [0, 1]]),
    "huge power": z ** sp.Integer(10) ** 30,
    "pole": 1 / z,
    "log": sp.log(z),
    "float expression": z * sp.Float("1e400"),
    "third": sp.Rational(1, 3),
    "sp.pi": sp.pi,
    "sp.Float": sp.Float(0.5, 30),
    "sp.Float 1e400": sp.Float("1e400"),
    "10**300": 10**300,
    "sp 10**400": sp.Integer(10) ** 400,
    "fraction": Fraction(1, 3),
    "decimal": Decimal("0.1"),
    "float32": np.float32(0.5),
    "int8": np.int8(3),
    "array of rank 0": np.array(0.5),
    "symbols list": [sp.Rational(1, 3), sp.pi],
    "ragged": [[1.0], [1.0, 2.0]],
    "range": range(3),
    "generator": (n for n in ()),
    "other record": None,  # replaced below
}


class Broken:
    """Raises wherever it is looked at."""

    def __float__(self):
        raise KeyError("broken")

    def __array__(self, *_, **__):
        raise KeyError("broken")

    def __iter__(self):
        raise KeyError("broken")


WRONG["broken"] = Broken()


@cache
def parts():
    """Small records of each kind, to build good calls of."""
    square = dmft.Committee(z**2, width=1)
    model = dmft.Model(square, square, 0.1)
    sgd = dmft.SGD(0.05, constraint="sphere")
    start = dmft.Overlaps([[1.0]], [[0.1]], [[1.0]])
    equations = dmft.derive(model, sgd)
    still = dmft.Overlaps([[1.0]], [[0.0]], [[1.0]])
    linear = dmft.Committee(z, width=1)
    descent = dmft.GradientDescent(0.1, 2.0)
    two = dmft.SequenceNetwork(z**2 / 2, length=2)
    sequence = dmft.SequenceModel(two, two, encoding=1)
    noisy = dmft.derive(model, sgd, dim=100, fluctuations=True)
    c, b = sp.symbols("c b", positive=True)
    target = dmft.SequenceTarget((z**2 + u**2) / 2 + c / 2 * b, [z, u])
    family = dmft.Model(dmft.SequenceTarget(z**2 + u**2, [z, u]), target, encoding=1)
    (fixed,) = dmft.fixed_points(equations, still)
    return {
        "square": square, "model": model, "sgd": sgd, "start": start, "equations": equations,
        "still": still, "linear": dmft.Model(linear, linear), "descent": descent,
        "fixed": fixed, "two": two, "noisy": noisy, "family": family, "sequence": sequence,
        "run": dmft.solve(equations, start, 5.0, save_at=20),
        "free": dmft.SGD(0.05),
        "descent equations": dmft.derive(dmft.Model(linear, linear), descent),
    }  # fmt: skip


POWER = dmft.Model(
    dmft.Committee(z, width=1), dmft.Committee(z, width=1),
    inputs=dmft.Spectrum.power_law(capacity=1.5, source=0.2, dim=10**6),
)  # fmt: skip


@cache
def good_calls() -> dict[str, dict[str, Any]]:
    """A good call of each public function and declaration, by name of its arguments."""
    p = parts()
    quiet = dmft.fixed_points(p["equations"], dmft.Overlaps([[1.0]], [[0.9]], [[1.0]]))[0]
    grid = {"x": ("learning_rate", [0.05, 0.1]), "y": ("label_noise", [0.0, 1.0])}
    built_in = {"equations": p["equations"], "start": p["start"], "t_max": 2.0}
    scaled = {"learning_rate": 0.1, "batch_size": 1, "loss": "squared", "weight_decay": 0,
              "decoupled": True}  # fmt: skip
    controlled = {
        "equations": dmft.derive(p["linear"], p["free"]), "start": p["start"], "t_max": 1.0,
        "minimise": "risk", "control": "learning_rate", "bounds": (0.01, 2.0),
    }  # fmt: skip
    return {
        "AdaGrad": {**scaled, "initial": 1.0},
        "AdaGradNorm": {**scaled, "initial": 1.0},
        "Adam": {
            **scaled, "second_moment_rate": 2.0, "eps": 0.1, "momentum": 0, "initial": 1.0,
        },
        "RMSProp": {
            **scaled, "second_moment_rate": 2.0, "eps": 0.1, "initial": 1.0, "beta2": None,
        },
        "SignSGD": scaled,
        "Schedule": {
            "t": [0.0, 1.0], "value": [1.0, 0.5], "control": "learning_rate", "hamiltonian": None,
            "run": None, "status": "ok", "message": "", "interpolation": "linear",
            "minimises": "risk",
        },
        "greedy_schedule": {**controlled, "points": 11, "rtol": 1e-6, "atol": 1e-8},
        "optimal_schedule": {
            **controlled, "pieces": 4, "interpolation": "linear", "method": "L-BFGS",
            "max_iterations": 3, "tol": 1e-4, "free_times": False,
        },
        "scaling_law": {
            "equations": dmft.derive(POWER, dmft.SGD(0.3e6)), "start": None, "window": None,
        },
        "noise_floor": {"model": p["linear"], "algorithm": p["free"]},
        "Alignment": {"e": 0.1, "m": 0.2, "radius": 1.0, "clock": None},
        "Attention": {"length": 2, "reduction": None},
        "Committee": {"activation": z**2, "width": 1, "readout": None, "field": z},
        "Event": {
            "quantity": "risk", "threshold": 0.1, "direction": 0, "terminal": True, "name": "",
        },
        "FirstPassage": {
            "observable": "risk", "level": 0.1, "relative": False, "stop": True, "every": 1,
        },
        "Gaussian": {"fields": [z, u], "cov": [[1, 0.5], [0.5, 1]], "mean": None},
        "GaussianMixture": {
            "means": [[1.0], [-1.0]], "labels": [1, -1], "weights": None, "fields": (),
            "scales": None, "fractions": None,
        },
        "GradientDescent": {
            "learning_rate": 0.1, "samples_per_dim": 2.0, "ridge": 0, "batch": None,
            "batch_fraction": 1.0, "momentum": 0, "readout_rate": 0, "loss": "squared",
            "temperature": 0, "constraint": None,
        },
        "GradientFlow": {"constraint": None, "weight_decay": 0.1},
        "LargestCosine": {"cross": "M", "own": "Q", "other": "P"},
        "Lookahead": {"rho": 0.1},
        "MixtureModel": {
            "student": p["square"], "mixture": dmft.GaussianMixture([[1.0], [-1.0]], [1, -1]),
            "label_noise": 0, "label_flip": 0, "label_channel": None,
        },
        "Model": {
            "student": p["square"], "teacher": p["square"], "label_noise": 0.1, "inputs": None,
            "label_flip": 0, "label_channel": None,
        },
        "Momentum": {"rate": 1.0, "direct": 0.5},
        "MultiIndex": {"expr": z * u, "fields": (z, u)},
        "Overlaps": {
            "Q": [[1.0]], "M": [[0.1]], "P": [[1.0]], "readout": [1.0], "memory": None,
            "clock": {"t": 1.0}, "scalars": {"b": 0.5},
        },
        "Repeat": {"times": 2},
        "SGD": {
            "learning_rate": 0.1, "batch_size": 1, "loss": "squared", "constraint": None,
            "repeat": None, "readout_rate": 0, "weight_decay": 0.1, "momentum": 0,
            "gradient_noise": 0, "average": 0, "clip": None, "normalised": False,
            "decoupled": False,
        },
        "Scaling": {"learning_rate": 0, "width": 0, "batch_size": 0},
        "SequenceModel": {
            "student": p["two"], "teacher": p["two"], "label_noise": 0, "encoding": None,
        },
        "SequenceNetwork": {"activation": z**2, "length": 2, "tied": True, "field": z},
        "SequenceTarget": {"expr": z * u, "fields": (z, u)},
        "SharpnessAware": {"rho": 0.1, "normalised": False},
        "Spectrum": {
            "eigenvalues": [2.0, 0.5], "fractions": [0.3, 0.7], "noise": None, "teacher": None,
            "dim": None, "scaled": False,
        },
        "Stage": {"equations": p["equations"], "parameters": {"label_noise": 0.1}, "until": None},
        "Status": {"value": "ok"},
        "TwoTime": _two_time(),
        "UpdateField": {
            "psi": u * z, "fields": (z, h_star, u), "learning_rate": 0.1, "definitions": (),
            "batch_size": 1, "constraint": None, "weight_decay": 0.1, "momentum": 0,
            "measures": {"size": z**2}, "decoupled": True,
        },
        "batch_exponents": {"exponent": 3, "loss": "squared"},
        "boundary": {
            "measure": "growth_rate", "x": ("learning_rate", 0.05, 0.2),
            "y": ("label_noise", 0.0, 4.0), "tol": 1e-4, "grid": (3, 3), "step": 0.2, "log": (),
            "level": 0.0, "equations": p["equations"], "start": p["still"], "t_max": None,
            "fraction": 0.5, "reference": "start", "overlap": None, "store": None,
            "identity": None, "threads": 1, "progress": None,
        },
        "build": {"equations": p["equations"]},
        "certify": {
            "what": p["model"], "law": None, "values": None, "digits": 10, "Q": [[1]],
            "M": [[0.1]], "P": [[1]], "readout": None,
        },
        "certify_hermite": {"f": sp.tanh(z), "x": z, "n": 1, "digits": 8},
        "warm": {
            "model": p["model"], "algorithm": p["sgd"], "dim": None, "scaling": None,
            "fluctuations": False, "progress": None,
        },
        "derive": {
            "model": p["model"], "algorithm": p["sgd"], "dim": None, "scaling": None,
            "fluctuations": False,
        },
        "escape_rate": {"model": p["model"]},
        "escape_formula": {"model": p["model"], "algorithm": p["sgd"], "length": 1},
        "escape_time": {
            "run_or_equations": p["equations"], "start": p["start"], "t_max": 10.0,
            "fraction": 0.5, "reference": "start", "overlap": None, "label_noise": 0.1,
            "rtol": 1e-6, "max_steps": 1000, "observable": "risk", "threshold": None,
        },
        "explain": {"obj": dmft.Gaussian([z], [[1]]), "depth": 0, "of": z**2},
        "export": {"equations": p["equations"], "path": "out.py"},
        "fixed_point_branch": {
            "equations": p["equations"], "point": p["fixed"], "parameter": "learning_rate",
            "values": (0.05, 0.06), "step": 0.2, "tolerance": 1e-10, "max_points": 20,
        },
        "fixed_points": {
            "equations": p["equations"], "starts": p["still"], "tolerance": 1e-12,
            "max_steps": 20, "label_noise": 0.1,
        },
        "generative_exponent": {"g": z**2, "fields": z, "leap": False, "label_noise": 0},
        "hermite": {"n": 3, "x": z},
        "hermite_expansion": {"f": z**3, "x": z, "order": 3},
        "information_exponent": {"f": z**3, "fields": z},
        "initial_learning_rate": {
            "model": p["sequence"], "algorithm": dmft.SGD(0.1), "overlap": 0.1, "e": 0.0,
        },
        "landscape": {"model": p["sequence"], "gram": None, "points": 64},
        "landscape_boundary": {
            "model": p["family"], "parameter": "c", "b": 2.0,
            "measure": lambda found: found.best.risk > RISK, "low": 3.0, "high": 13.0,
            "xtol": 1e-3,
        },
        "landscape_diagram": {
            "model": p["family"], "axes": {"c": [3.0, 9.0], "b": [1.0, 2.0]},
            "points": 64, "progress": None,
        },
        "leap_exponent": {"g": z**2, "fields": z},
        "learnability": {"target": z**2, "fields": z, "algorithms": ("one-pass SGD",)},
        "learned_directions": {
            "model": p["linear"], "algorithm": p["descent"], "steps": 1, "rtol": 1e-5,
        },
        "linear_noise": {"equations": p["noisy"], "point": quiet, "label_noise": 0.1},
        "load": {"path": "none.nc"},
        "maximal_learning_rate": {"model": p["model"], "algorithm": p["free"]},
        "phase_diagram": {
            "measure": "final_risk", **grid, **built_in, "max_steps": 500, "fraction": 0.5,
            "reference": "start", "overlap": None, "adaptive": False, "level": 0.0,
            "coarse": None, "quantity": None, "store": None, "identity": None, "threads": 1,
            "progress": None,
        },
        "phases": {"run": p["run"], "fraction": 0.5, "reference": "start", "level": 0.9},
        "plot": {
            "records": p["run"], "ax": None, "path": None, "title": None, "dpi": 20,
            "width": None, "cmap": None, "norm": None, "levels": None, "lines": None,
        },
        "population_risk": {"model": p["model"]},
        "random_overlaps": {"model": p["model"], "dim": 20, "seed": 1, "normalised": False},
        "regimes": {"model": p["model"], "algorithm": p["sgd"], "batch_size": 0},
        "sequence_information_exponent": {
            "target": p["two"], "student": p["two"], "encoding": None, "max_order": 3,
        },
        "sequence_length_gain": {"target": p["two"], "student": p["two"]},
        "short_times": {"equations": p["descent equations"]},
        "simulate": {
            "model": p["model"], "algorithm": p["sgd"], "dim": 10, "t_max": 1.0, "seeds": 2,
            "start": p["start"], "method": "overlaps", "save_at": 3, "first_passage": None,
            "events": (), "keep_runs": True, "threads": 1, "progress": None,
            "label_noise": 0.1, "t_start": 0.0,
        },
        "solve": {
            "system": p["equations"], "start": p["start"], "t_max": 1.0, "method": None,
            "rtol": 1e-6, "atol": 1e-8, "save_at": 3, "events": (), "progress": None,
            "max_steps": 100, "timeout": None, "quadrature_tol": 1e-5, "t_start": 0.0,
            "label_noise": 0.1,
        },
        "solve_stages": {
            "stages": [dmft.Stage(p["equations"])], "start": p["start"], "t_max": 1.0,
            "save_at": 3, "events": (), "progress": None, "t_start": None, "rtol": 1e-6,
            "max_steps": 500,
        },
        "stability": {"equations": p["equations"], "point": p["fixed"], "label_noise": 0.1},
        "sweep": {
            "points": {"learning_rate": [0.05, 0.1]}, "measure": "final_risk", **built_in,
            "max_steps": 500, "fraction": 0.5, "reference": "start", "overlap": None,
            "quantities": None, "store": None, "identity": None, "executor": "threads",
            "workers": 1, "part": (0, 1), "progress": None,
        },
        "weak_recovery": {"model": p["model"], "algorithm": p["sgd"], "order": 2},
    } | _static_limits()  # fmt: skip


def _static_limits():
    line = dmft.Committee(z, width=1)
    signs = dmft.Model(line, dmft.MultiIndex(sp.sign(z), [z]))
    size = dmft.Model(line, dmft.MultiIndex(sp.Abs(z), [z]))
    samples = {"model": signs, "samples_per_dim": 1.5}
    return {
        "GaussBernoulli": {"density": 0.3, "variance": 1.0},
        "approximate_message_passing": {
            **samples, "dim": 20, "seeds": 1, "prior": "gaussian", "start": None, "steps": 3,
        },
        "bayes_optimal": {**samples, "prior": "gaussian", "start": "uninformed"},
        "erm": {**samples, "loss": "squared", "ridge": 0.5},
        "optimal_ridge": {
            **samples, "loss": "squared", "samples_per_dim": None, "minimise": "test_loss",
        },
        "output_channel": {"model": signs},
        "recovery_phase": {**samples, "prior": "gaussian"},
        "sample_complexity": {"model": signs, "prior": "gaussian"},
        "separability": {"model": signs},
        "spectral": {"model": size, "samples_per_dim": 2.0, "preprocessing": "optimal"},
        "state_evolution": {**samples, "start": "uninformed", "prior": "gaussian", "steps": 5},
        "thresholds": {"model": signs, "prior": "gaussian"},
    }  # fmt: skip


def _two_time():
    t, s = sp.symbols("t s")
    C = sp.Function("C")
    return {
        "rates": {C(t, s): -C(t, s), C(t, t): -2 * C(t, t)}, "values": None,
        "start": {C(0, 0): 1}, "causal": (), "name": "", "source": "",
    }  # fmt: skip


@cache
def network_calls():
    """Those of random networks; verbs that take other systems too have a second name here."""
    x, h, a = sp.symbols("x h a", real=True)
    times = sp.symbols("t s", real=True)
    declared = {
        "rate": -x + h, "state": x, "field": h, "output": sp.tanh(x), "mean": 0.1, "std": 1.2,
        "symmetry": 0.3, "noise": 0.1, "input": 0.1, "parameters": {a: dmft.laws.Normal()},
        "fractions": None, "low_rank": [(a, a)], "multiplier": None, "positive": False,
        "kind": "ode", "redrawn": False, "covariance": None, "memory": None,
    }  # fmt: skip
    plain = dmft.RandomNetwork(-x + h, x, h, output=sp.tanh(x), std=1.5)
    memory = dmft.RandomNetwork(-x + h, x, h, output=sp.tanh(x), std=0.8, symmetry=0.5)
    grid = {"x": ("std", [0.5, 0.9]), "y": ("symmetry", [0.0, 0.2])}
    few = {"dt": 0.25, "paths": 40, "sweeps": 2, "seed": 1, "threads": 1}
    return {
        "GaussianInput": {"covariance": sp.cos(times[0] - times[1])},
        "RandomNetwork": declared,
        "lyapunov_exponent": {"system": memory, "start": 1.0, "t_max": 2.0, **few},
        "stationary": {"system": plain, "std": 1.2, "noise": 0.1},
        "derive (network)": {"model": plain},
        "solve (network)": {
            "system": dmft.derive(memory), "start": 1.0, "t_max": 1.0, **few, "method": None,
            "extrapolate": 1, "keep_paths": 2, "timeout": None, "progress": None,
        },
        "simulate (network)": {
            "model": memory, "dim": 10, "t_max": 1.0, "seeds": 2, "start": 1.0, "dt": 0.25,
            "save_at": 3, "lyapunov": True, "jacobian": True, "threads": 1,
        },
        "fixed_points (network)": {"equations": memory, "starts": 1.0, "std": 0.5},
        "boundary (network)": {
            "measure": "stability", "x": ("std", 0.5, 1.5), "y": ("symmetry", 0.0, 1.0),
            "grid": (3, 3), "equations": memory,
        },
        "phase_diagram (network)": {"measure": "stability", **grid, "equations": memory},
        "sweep (network)": {
            "points": {"std": [0.5, 0.9]}, "measure": "stability", "equations": memory,
        },
    }  # fmt: skip


def rule_calls():
    """Those of rules that are written with vectors."""
    from dmft.rules import Rows, View, fixed

    w, B, x, b = Rows("w"), fixed("B"), View("x"), sp.Symbol("b", real=True)
    h, k = w @ x, B @ x
    rule = dmft.UpdateField(
        {w: (k - b * h) * x}, scalars={b: (k - b * h) * h}, learning_rate=0.1,
        measures={"risk": (k - b * h) ** 2 / 2},
    )  # fmt: skip
    start = dmft.Overlaps([[1.0]], [[0.1]], scalars={"b": 0.5})
    return {
        "UpdateField (vectors)": {
            "psi": {w: (k - b * h) * x}, "learning_rate": 0.1, "batch_size": 1,
            "constraint": None, "measures": {"size": h**2}, "scalars": {b: k * h},
        },
        "simulate (rule)": {
            "model": rule, "dim": 20, "t_max": 0.2, "seeds": 2, "start": start,
            "method": "weights", "save_at": 3,
        },
    }  # fmt: skip
