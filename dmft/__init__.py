"""Mean-field theory of learning: declare, derive, build, solve, measure, show.

Public names load at first use, so that `import dmft` is light.
"""

from __future__ import annotations

import importlib
from typing import Any

from dmft.names import PAGES, VERSION

__version__ = VERSION

# Where each public name lives.
PUBLIC = {
    "AccuracyWarning": "dmft.gaussian.nodes.quadrature",
    "Alignment": "dmft.model",
    "Attention": "dmft.model",
    "SGD": "dmft.model",
    "Censored": "dmft.analysis.escape",
    "Certificate": "dmft.workflow.certify",
    "Committee": "dmft.model",
    "Equations": "dmft.equations.equations",
    "EscapeFormula": "dmft.equations.escape.formula",
    "EscapeTime": "dmft.analysis.escape",
    "EscapeTimes": "dmft.analysis.escape_paths",
    "EscapeWarning": "dmft.analysis.escape",
    "Event": "dmft.solvers.events",
    "Exponent": "dmft.gaussian.exponents.record",
    "FixedPoint": "dmft.workflow.fixed_points",
    "FirstPassage": "dmft.simulation.passage",
    "Gaussian": "dmft.gaussian.expectation",
    "GaussianMixture": "dmft.model",
    "GradientDescent": "dmft.model",
    "GradientFlow": "dmft.model",
    "HermiteSeries": "dmft.gaussian.exponents.hermite_series",
    "LargestCosine": "dmft.solvers.events",
    "Learnability": "dmft.gaussian.exponents.learnability",
    "Lookahead": "dmft.model",
    "MixtureModel": "dmft.model",
    "Model": "dmft.model",
    "MultiIndex": "dmft.model",
    "Overlaps": "dmft.model",
    "BatchExponents": "dmft.equations.escape.batch_exponents",
    "batch_exponents": "dmft.equations.escape.batch_exponents",
    "Boundary": "dmft.analysis.boundaries.boundary",
    "boundary": "dmft.workflow.diagrams.boundary",
    "build": "dmft.codegen.build",
    "DescentEnsemble": "dmft.simulation.descent",
    "DescentRun": "dmft.solvers.descent.run",
    "Ensemble": "dmft.simulation.ensemble",
    "PathEnsemble": "dmft.solvers.stochastic.ensemble",
    "PhaseDiagram": "dmft.analysis.diagrams.phase_diagram",
    "Phases": "dmft.analysis.phases",
    "Problem": "dmft.solvers.problem",
    "ClosureWarning": "dmft.equations.restrict.wide_equations",
    "Quadrature": "dmft.gaussian.nodes.quadrature",
    "Regimes": "dmft.equations.restrict.regimes",
    "Repeat": "dmft.model",
    "Scaling": "dmft.model",
    "SequenceModel": "dmft.model",
    "SequenceNetwork": "dmft.model",
    "SequenceTarget": "dmft.model",
    "SharpnessAware": "dmft.model",
    "UpdateField": "dmft.model",
    "Stage": "dmft.workflow.solving.stages",
    "Status": "dmft.names",
    "Sweep": "dmft.analysis.sweeps.sweep",
    "Trajectory": "dmft.solvers.trajectory",
    "TwoTime": "dmft.model.two_time",
    "TwoTimeRun": "dmft.solvers.two_time.run",
    "certify": "dmft.workflow.certify",
    "certify_hermite": "dmft.workflow.certify",
    "derive": "dmft.equations.derive",
    "escape_formula": "dmft.equations.escape.escape_formula",
    "escape_time": "dmft.workflow.escape",
    "fixed_point_branch": "dmft.workflow.branches",
    "fixed_points": "dmft.workflow.fixed_points",
    "generative_exponent": "dmft.gaussian.exponents.kinds",
    "hermite": "dmft.gaussian.closed.hermite",
    "hermite_expansion": "dmft.gaussian.exponents.hermite_series",
    "information_exponent": "dmft.gaussian.exponents.kinds",
    "leap_exponent": "dmft.gaussian.exponents.kinds",
    "landscape": "dmft.workflow.diagrams.landscape",
    "landscape_boundary": "dmft.workflow.diagrams.landscape",
    "landscape_diagram": "dmft.workflow.diagrams.landscape",
    "learnability": "dmft.gaussian.exponents.learnability",
    "learned_directions": "dmft.workflow.learned_directions",
    "linear_noise": "dmft.workflow.linear_noise",
    "load": "dmft.workflow.load",
    "maximal_learning_rate": "dmft.equations.escape.recovery",
    "phase_diagram": "dmft.workflow.diagrams.phase_diagram",
    "phases": "dmft.analysis.phases",
    "plot": "dmft.display.plots",
    "population_risk": "dmft.equations.risk",
    "random_overlaps": "dmft.model",
    "regimes": "dmft.equations.restrict.regimes",
    "short_times": "dmft.equations.two_time.short_times",
    "initial_learning_rate": "dmft.equations.sequence.limits",
    "sequence_information_exponent": "dmft.gaussian.exponents.sequence",
    "sequence_length_gain": "dmft.equations.sequence.limits",
    "simulate": "dmft.simulation.simulate",
    "solve": "dmft.workflow.solve",
    "solve_stages": "dmft.workflow.solving.stages",
    "stability": "dmft.workflow.fixed_points",
    "WeakRecovery": "dmft.equations.escape.weak_recovery",
    "weak_recovery": "dmft.equations.escape.weak_recovery",
    "sweep": "dmft.workflow.diagrams.sweep",
    "warm": "dmft.workflow.warm",
}

# Public folders, by attribute.
FOLDERS = ("literature",)

__all__ = sorted([*PUBLIC, *FOLDERS, "__version__"])


def _page(record: object) -> str | None:
    """What a notebook shows of a record; loaded when one is shown."""
    page: str | None = importlib.import_module("dmft.display.pages.page").page(record)
    return page


PAGES[:] = [_page]


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
