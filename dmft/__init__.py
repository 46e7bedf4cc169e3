"""Mean-field theory of learning: declare, derive, build, solve, measure, show.

Public names load at first use, so that `import dmft` is light.
"""

from __future__ import annotations

import importlib
from typing import Any

from dmft.names import VERSION

__version__ = VERSION

# Where each public name lives.
PUBLIC = {
    "AccuracyWarning": "dmft.gaussian.quadrature",
    "Alignment": "dmft.model",
    "Attention": "dmft.model",
    "SGD": "dmft.model",
    "Censored": "dmft.analysis.escape",
    "Certificate": "dmft.workflow",
    "Committee": "dmft.model",
    "Equations": "dmft.equations",
    "EscapeFormula": "dmft.equations.escape",
    "EscapeTime": "dmft.analysis.escape",
    "EscapeTimes": "dmft.analysis.escape_paths",
    "EscapeWarning": "dmft.analysis.escape",
    "Event": "dmft.solvers.events",
    "Exponent": "dmft.gaussian",
    "FixedPoint": "dmft.workflow.fixed_points",
    "FirstPassage": "dmft.simulation.passage",
    "Gaussian": "dmft.gaussian",
    "GaussianMixture": "dmft.model",
    "GradientDescent": "dmft.model",
    "GradientFlow": "dmft.model",
    "HermiteSeries": "dmft.gaussian",
    "Learnability": "dmft.gaussian",
    "Lookahead": "dmft.model",
    "MixtureModel": "dmft.model",
    "Model": "dmft.model",
    "MultiIndex": "dmft.model",
    "Overlaps": "dmft.model",
    "BatchExponents": "dmft.equations.batch_exponents",
    "batch_exponents": "dmft.equations.batch_exponents",
    "Boundary": "dmft.workflow",
    "boundary": "dmft.workflow",
    "build": "dmft.codegen",
    "DescentEnsemble": "dmft.simulation.descent",
    "DescentRun": "dmft.solvers.descent_run",
    "Ensemble": "dmft.simulation.ensemble",
    "PathEnsemble": "dmft.solvers.path_ensemble",
    "PhaseDiagram": "dmft.analysis.phase_diagram",
    "Phases": "dmft.analysis.phases",
    "Problem": "dmft.solvers.problem",
    "ClosureWarning": "dmft.equations.wide_equations",
    "Quadrature": "dmft.gaussian.quadrature",
    "Regimes": "dmft.equations",
    "Repeat": "dmft.model",
    "Scaling": "dmft.model",
    "SequenceModel": "dmft.model",
    "SequenceNetwork": "dmft.model",
    "SequenceTarget": "dmft.model",
    "SharpnessAware": "dmft.model",
    "Stage": "dmft.workflow",
    "Status": "dmft.names",
    "Sweep": "dmft.workflow",
    "Trajectory": "dmft.solvers.trajectory",
    "TwoTime": "dmft.model.two_time",
    "TwoTimeRun": "dmft.solvers.volterra_run",
    "certify": "dmft.workflow",
    "certify_hermite": "dmft.workflow",
    "derive": "dmft.equations",
    "escape_formula": "dmft.equations.escape_formula",
    "escape_time": "dmft.workflow",
    "fixed_point_branch": "dmft.workflow",
    "fixed_points": "dmft.workflow",
    "generative_exponent": "dmft.gaussian",
    "hermite": "dmft.gaussian",
    "hermite_expansion": "dmft.gaussian",
    "information_exponent": "dmft.gaussian",
    "leap_exponent": "dmft.gaussian",
    "landscape": "dmft.workflow",
    "landscape_boundary": "dmft.workflow",
    "landscape_diagram": "dmft.workflow",
    "learnability": "dmft.gaussian",
    "learned_directions": "dmft.workflow.learned_directions",
    "linear_noise": "dmft.workflow",
    "load": "dmft.workflow",
    "maximal_learning_rate": "dmft.equations.escape_limits",
    "phase_diagram": "dmft.workflow",
    "phases": "dmft.analysis.phases",
    "plot": "dmft.display",
    "population_risk": "dmft.equations",
    "random_overlaps": "dmft.model",
    "regimes": "dmft.equations",
    "short_times": "dmft.equations.short_times",
    "initial_learning_rate": "dmft.equations.sequence_limits",
    "sequence_information_exponent": "dmft.gaussian",
    "sequence_length_gain": "dmft.equations.sequence_limits",
    "simulate": "dmft.simulation.simulate",
    "solve": "dmft.workflow",
    "solve_stages": "dmft.workflow",
    "stability": "dmft.workflow",
    "WeakRecovery": "dmft.equations.weak_recovery",
    "weak_recovery": "dmft.equations.weak_recovery",
    "sweep": "dmft.workflow",
}

# Public folders, by attribute.
FOLDERS = ("literature",)

__all__ = sorted([*PUBLIC, *FOLDERS, "__version__"])


def __getattr__(name: str) -> Any:
    if name in FOLDERS:
        return importlib.import_module(f"dmft.{name}")
    if name not in PUBLIC:
        raise AttributeError(f"module 'dmft' has no attribute {name!r}")
    value = getattr(importlib.import_module(PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
