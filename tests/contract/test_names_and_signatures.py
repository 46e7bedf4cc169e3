"""Names and signatures that do not change: users' scripts depend on them."""

import inspect
import subprocess
import sys

import pytest

import dmft
from dmft.names import QUANTITIES, Status

REQUIRED = inspect.Parameter.empty

# name -> the parameters that must work as written, in this order, with their defaults
# (... where the default is free; the first argument of the verbs has no fixed name).
SIGNATURES = {
    "Gaussian": {"fields": REQUIRED, "cov": REQUIRED, "mean": None},
    "hermite": {"n": REQUIRED, "x": REQUIRED},
    "hermite_expansion": {"f": REQUIRED, "x": REQUIRED, "order": REQUIRED},
    "information_exponent": {"f": REQUIRED, "fields": REQUIRED},
    "leap_exponent": {"g": REQUIRED, "fields": REQUIRED},
    "generative_exponent": {"g": REQUIRED, "fields": REQUIRED},
    "sequence_information_exponent": {"target": REQUIRED, "student": REQUIRED, "encoding": None},
    "initial_learning_rate": {"model": REQUIRED, "algorithm": REQUIRED, "overlap": REQUIRED},
    "sequence_length_gain": {"target": REQUIRED, "student": REQUIRED},
    "learnability": {"target": REQUIRED, "fields": None},
    "learned_directions": {"model": REQUIRED, "algorithm": REQUIRED, "steps": 2},
    "short_times": {"equations": REQUIRED},
    "Committee": {"activation": REQUIRED, "width": REQUIRED, "readout": None},
    "Model": {"student": REQUIRED, "teacher": REQUIRED, "label_noise": 0},
    "GaussianMixture": {"means": REQUIRED, "labels": None, "weights": None},
    "MixtureModel": {"student": REQUIRED, "mixture": REQUIRED, "label_noise": 0},
    "SequenceTarget": {"expr": REQUIRED, "fields": REQUIRED},
    "SequenceNetwork": {"activation": REQUIRED, "length": REQUIRED, "tied": True},
    "Attention": {"length": REQUIRED, "reduction": None},
    "Alignment": {"e": ..., "m": ...},
    "SGD": {"learning_rate": REQUIRED, "batch_size": 1, "loss": "squared", "constraint": None},
    "GradientFlow": {"constraint": None},
    "Lookahead": {"rho": REQUIRED},
    "SharpnessAware": {"rho": REQUIRED, "normalised": False},
    "Repeat": {"times": REQUIRED},
    "batch_exponents": {"exponent": REQUIRED, "loss": "squared"},
    "Overlaps": {"Q": REQUIRED, "M": REQUIRED, "P": ..., "readout": None},
    "random_overlaps": {"model": REQUIRED, "dim": REQUIRED, "seed": REQUIRED, "normalised": False},
    "population_risk": {"model": REQUIRED},
    "derive": {"model": REQUIRED, "algorithm": None},
    "build": {"equations": REQUIRED},
    "warm": {"model": None, "algorithm": None},
    "solve": {},
    "TwoTime": {"rates": REQUIRED, "values": None, "start": None, "causal": ...},
    "Stage": {"equations": REQUIRED, "parameters": ..., "until": None},
    "solve_stages": {"stages": REQUIRED, "start": REQUIRED, "t_max": REQUIRED},
    "simulate": {
        "model": REQUIRED, "algorithm": None, "dim": ..., "t_max": ..., "seeds": ...,
        "start": None, "method": "weights",
    },
    "plot": {},
    "load": {"path": REQUIRED},
    "escape_time": {},
    "phases": {"run": REQUIRED},
    "linear_noise": {"equations": REQUIRED, "point": REQUIRED},
    "landscape": {"model": REQUIRED, "gram": None, "points": ...},
    "landscape_boundary": {
        "model": REQUIRED, "parameter": REQUIRED, "measure": REQUIRED, "low": REQUIRED,
        "high": REQUIRED,
    },
    "landscape_diagram": {"model": REQUIRED, "axes": REQUIRED},
    "phase_diagram": {},
    "weak_recovery": {"model": REQUIRED, "algorithm": REQUIRED},
}  # fmt: skip
KEYWORDS = {
    "SGD": {"constraint", "repeat", "readout_rate"},
    "solve": {"method", "rtol", "atol", "save_at", "events", "progress"},
    "solve_stages": {"save_at", "events", "progress"},
    "escape_time": {"fraction", "reference", "overlap"},
    "phases": {"fraction", "reference", "level"},
    "plot": {"ax", "path"},
    "phase_diagram": {"progress"},
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_name_is_public_and_takes_what_the_contract_says(name):
    assert name in dmft.__all__
    parameters = inspect.signature(getattr(dmft, name)).parameters
    wanted = SIGNATURES[name]
    assert list(parameters)[: len(wanted)] == list(wanted)
    for parameter, default in wanted.items():
        found = parameters[parameter].default
        assert default is ... or found is default or found == default
    assert KEYWORDS.get(name, set()) <= set(parameters)


def test_free_parameters_are_keywords_of_solve():
    parameters = inspect.signature(dmft.solve).parameters
    assert list(parameters)[1:3] == ["start", "t_max"]
    assert any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def test_fractions_are_called_fraction_and_start_is_the_default_reference():
    parameters = inspect.signature(dmft.escape_time).parameters
    assert parameters["reference"].default == "start"
    assert parameters["overlap"].default is None


def test_literature_is_reached_from_the_face():
    names = (
        "saad_solla", "phase_retrieval", "hermite_committee", "positional_semantic",
        "positional_semantic_regions",
    )  # fmt: skip
    code = f"import dmft; print(*(callable(getattr(dmft.literature, n)) for n in {names}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * len(names)


def test_regions_are_an_int_array_of_omega_and_a():
    regions = dmft.literature.positional_semantic_regions
    assert list(inspect.signature(regions).parameters) == ["a", "omega"]
    codes = regions([0.7, 0.8, 0.9], [0.5, 1.0])
    assert (codes.shape, codes.dtype.kind) == ((2, 3), "i")
    assert list(inspect.signature(dmft.literature.positional_semantic).parameters) == ["a", "omega"]


def test_one_status_vocabulary():
    assert [str(s) for s in Status] == [
        "ok", "event", "diverged", "nonfinite", "left_domain", "tolerance_not_met", "max_steps",
        "timeout", "interrupted", "not_converged",
    ]  # fmt: skip
    assert Status.OK == "ok"


def test_quantities_have_the_shapes_of_the_design():
    shapes = {"Q": "(p, p)", "M": "(p, k)", "P": "(k, k)", "readout": "(p,)", "risk": "()"}
    assert {name: QUANTITIES[name].shape for name in shapes} == shapes
    assert {n for n, q in QUANTITIES.items() if q.symmetric} == {
        "Q",
        "P",
        "Omega",
        "block_Q",
        "block_P",
        "average",
        "velocity",
    }


def test_errors_are_one_family():
    from dmft import errors

    family = [v for v in vars(errors).values() if isinstance(v, type)]
    assert all(issubclass(e, errors.DmftError) for e in family)
    assert issubclass(errors.BadParameter, ValueError)
    assert issubclass(errors.MissingExtra, ImportError)
