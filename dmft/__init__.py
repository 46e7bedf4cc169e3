"""Mean-field theory of learning: declare, derive, build, solve, measure, show.

Neural networks learn from Gaussian inputs in high dimension; their order parameters follow closed
equations. This library derives them from a declaration, prints, compiles and solves them.

    >>> import sympy as sp, dmft
    >>> erf = sp.erf(sp.Symbol("z", real=True) / sp.sqrt(2))
    >>> model = dmft.Model(dmft.Committee(erf, width=2), dmft.Committee(erf, width=2))
    >>> equations = dmft.derive(model, dmft.SGD(learning_rate=0.5))
    >>> start = dmft.random_overlaps(model, dim=1000, seed=0)
    >>> run = dmft.solve(equations, start, t_max=10)
    >>> run.status, run.Q.shape[1:]
    (<Status.OK: 'ok'>, (2, 2))

Declare
    Networks and targets: Committee, MultiIndex, Attention, SequenceNetwork, SequenceTarget.
    Models: Model, MixtureModel, SequenceModel; inputs with a covariance: Spectrum; inputs from
    clusters: GaussianMixture.
    Algorithms: SGD with Momentum, SignSGD, Adam, RMSProp, AdaGrad, AdaGradNorm, GradientFlow,
    GradientDescent, UpdateField (a custom rule), UpdateRule (a custom record); repeated
    use of a sample: Repeat, Lookahead, SharpnessAware; powers of d: Scaling.
    Models from papers: literature.

Derive
    population_risk, derive -> Equations, TwoTime, regimes -> Regimes, short_times.
    explain -> Explanation: the steps from a definition to a result.
    Averages: Gaussian, hermite, hermite_expansion -> HermiteSeries, Quadrature, certify and
    certify_hermite -> Certificate.
    Exponents: information_exponent, leap_exponent, generative_exponent,
    sequence_information_exponent -> Exponent; learnability -> Learnability, batch_exponents ->
    BatchExponents, learned_directions, sequence_length_gain.

Start and solve
    Overlaps, random_overlaps, Alignment; build -> Problem, warm (compile in advance).
    solve -> Trajectory, PathEnsemble, DescentRun, TwoTimeRun; solve_stages with Stage; Event and
    LargestCosine end or mark a run; Status states how a run ended.
    simulate -> Ensemble, DescentEnsemble, with FirstPassage: runs in finite dimension.

Measure
    escape_time -> EscapeTime, Censored, EscapeTimes; escape_formula -> EscapeFormula,
    weak_recovery -> WeakRecovery, phases -> Phases.
    fixed_points -> FixedPoint, fixed_point_branch, stability, linear_noise,
    maximal_learning_rate, initial_learning_rate, noise_floor, escape_rate.
    greedy_schedule, optimal_schedule -> Schedule; scaling_law -> ScalingLaw.
    As functions of parameters: phase_diagram -> PhaseDiagram, boundary -> Boundary, sweep -> Sweep,
    landscape, landscape_boundary, landscape_diagram.

Static limits
    output_channel -> OutputChannel, bayes_optimal -> BayesOptimal, state_evolution ->
    StateEvolution, thresholds -> Thresholds, recovery_phase; GaussBernoulli, a sparse prior.
    erm -> ERM, optimal_ridge -> OptimalRidge, separability -> Separability, spectral -> Spectral,
    approximate_message_passing -> MessagePassing, sample_complexity -> SampleComplexity.

Rules written with vectors
    UpdateField({row: step}, ...) of the vectors of dmft.rules (Rows, fixed, View, views, copies,
    Random, gram, mean); derive(rule), solve, simulate, fixed_points.

Random networks
    RandomNetwork(rate, state, field, ...), GaussianInput, the time t and the laws of dmft.laws;
    derive, solve -> NetworkRun, simulate -> NetworkEnsemble, fixed_points -> NetworkFixedPoint,
    stationary -> Stationary, lyapunov_exponent -> LyapunovExponent.

Show and save
    explore(model, algorithm): a page with sliders, in a notebook.
    plot(run), run.save(path), load(path), run.to_pandas(), run.to_xarray(), equations.latex();
    latex(path, ...) writes a document, export(equations, path) standalone code; cite(...) returns
    the papers as BibTeX.

Warnings: AccuracyWarning, ClosureWarning, EscapeWarning.

Each name has a page with an example: help(dmft.solve). Names that are common elsewhere, such as
dmft.generalization_error, raise an error that contains the name used here. Names are loaded at
first use, so `import dmft` is fast.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from dmft.names import PAGES, VERSION

__version__ = VERSION

# Where each public name lives.
PUBLIC = {
    "AccuracyWarning": "dmft.gaussian.nodes.quadrature",
    **dict.fromkeys(("AdaGrad", "AdaGradNorm", "Adam", "RMSProp", "SignSGD"), "dmft.model"),
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
    "Explanation": "dmft.explanation.steps",
    "Exponent": "dmft.gaussian.exponents.record",
    "FixedPoint": "dmft.workflow.fixed_points",
    "FirstPassage": "dmft.simulation.ensemble",
    "Gaussian": "dmft.gaussian.expectation",
    "GaussianInput": "dmft.model.random_network",
    "GaussianMixture": "dmft.model",
    "GradientDescent": "dmft.model",
    "GradientFlow": "dmft.model",
    "HermiteSeries": "dmft.gaussian.exponents.hermite_series",
    "LargestCosine": "dmft.solvers.events",
    "Learnability": "dmft.gaussian.exponents.learnability",
    "Lookahead": "dmft.model",
    "MixtureModel": "dmft.model",
    "Model": "dmft.model",
    "Momentum": "dmft.model",
    "MultiIndex": "dmft.model",
    "Overlaps": "dmft.model",
    "BayesOptimal": "dmft.workflow.static.bayes",
    "GaussBernoulli": "dmft.gaussian.channels.priors",
    "OutputChannel": "dmft.equations.output_channel",
    "StateEvolution": "dmft.workflow.static.bayes",
    "Thresholds": "dmft.workflow.static.thresholds",
    "bayes_optimal": "dmft.workflow.static.bayes",
    "output_channel": "dmft.equations.output_channel",
    "recovery_phase": "dmft.workflow.static.thresholds",
    "state_evolution": "dmft.workflow.static.bayes",
    "thresholds": "dmft.workflow.static.thresholds",
    "BatchExponents": "dmft.workflow.escape",
    "batch_exponents": "dmft.workflow.escape",
    "Boundary": "dmft.analysis.boundary",
    "boundary": "dmft.workflow.diagrams.boundary",
    "build": "dmft.codegen.build",
    "cite": "dmft.display.latex",
    "DescentEnsemble": "dmft.simulation.descent_runs",
    "DescentRun": "dmft.solvers.two_time.run",
    "Ensemble": "dmft.simulation.ensemble",
    "PathEnsemble": "dmft.solvers.stochastic.ensemble",
    "PhaseDiagram": "dmft.analysis.phase_diagram",
    "Phases": "dmft.analysis.phases",
    "NetworkEnsemble": "dmft.simulation.ensemble",
    "NetworkRun": "dmft.solvers.two_time.run",
    "Problem": "dmft.solvers.problem",
    "ClosureWarning": "dmft.equations.restrict.wide",
    "Quadrature": "dmft.gaussian.nodes.quadrature",
    "RandomNetwork": "dmft.model.random_network",
    "Regimes": "dmft.equations.restrict.regimes",
    "Repeat": "dmft.model",
    "Scaling": "dmft.model",
    "SequenceModel": "dmft.model",
    "SequenceNetwork": "dmft.model",
    "SequenceTarget": "dmft.model",
    "SharpnessAware": "dmft.model",
    "UpdateField": "dmft.model",
    "Spectrum": "dmft.model",
    "Schedule": "dmft.model.schedule",
    "UpdateRule": "dmft.model",
    "Stage": "dmft.workflow.solving.stages",
    "Status": "dmft.names",
    "Sweep": "dmft.analysis.sweeps.sweep",
    "Trajectory": "dmft.solvers.trajectory",
    "TwoTime": "dmft.equations.two_time.problem",
    "TwoTimeRun": "dmft.solvers.two_time.run",
    "certify": "dmft.workflow.certify",
    "certify_hermite": "dmft.workflow.certify",
    "derive": "dmft.equations.derive",
    "escape_rate": "dmft.equations.escape.recovery",
    "escape_formula": "dmft.equations.escape.formula",
    "escape_time": "dmft.workflow.escape",
    "export": "dmft.codegen.export.system",
    "explain": "dmft.workflow.explain",
    "explore": "dmft.explorer.widget",
    "fixed_point_branch": "dmft.workflow.around_fixed_points",
    "fixed_points": "dmft.workflow.fixed_points",
    "generative_exponent": "dmft.gaussian.exponents.kinds",
    "greedy_schedule": "dmft.workflow.optimal_control",
    "hermite": "dmft.gaussian.closed.wick",
    "hermite_expansion": "dmft.gaussian.exponents.hermite_series",
    "information_exponent": "dmft.gaussian.exponents.kinds",
    "leap_exponent": "dmft.gaussian.exponents.kinds",
    "landscape": "dmft.workflow.diagrams.landscape",
    "landscape_boundary": "dmft.workflow.diagrams.landscape",
    "landscape_diagram": "dmft.workflow.diagrams.landscape",
    "learnability": "dmft.gaussian.exponents.learnability",
    "learned_directions": "dmft.workflow.learned_directions",
    "linear_noise": "dmft.workflow.around_fixed_points",
    "LyapunovExponent": "dmft.workflow.networks.verbs",
    "lyapunov_exponent": "dmft.workflow.networks.verbs",
    "NetworkFixedPoint": "dmft.workflow.networks.rest",
    "load": "dmft.workflow.load",
    "maximal_learning_rate": "dmft.equations.escape.recovery",
    "noise_floor": "dmft.equations.escape.recovery",
    "optimal_schedule": "dmft.workflow.optimal_control",
    "phase_diagram": "dmft.workflow.diagrams.sweep",
    "phases": "dmft.analysis.phases",
    "latex": "dmft.display.latex",
    "plot": "dmft.display.plots",
    "population_risk": "dmft.equations.risk",
    "random_overlaps": "dmft.model",
    "regimes": "dmft.equations.restrict.regimes",
    "short_times": "dmft.equations.two_time.short_times",
    "initial_learning_rate": "dmft.equations.sequence.equations",
    "ScalingLaw": "dmft.workflow.scaling_law",
    "scaling_law": "dmft.workflow.scaling_law",
    "sequence_information_exponent": "dmft.gaussian.exponents.sequence",
    "sequence_length_gain": "dmft.equations.sequence.equations",
    "simulate": "dmft.simulation.simulate",
    "solve": "dmft.workflow.solve",
    "solve_stages": "dmft.workflow.solving.stages",
    "stability": "dmft.workflow.fixed_points",
    "Stationary": "dmft.workflow.networks.stationary",
    "stationary": "dmft.workflow.networks.verbs",
    "WeakRecovery": "dmft.equations.escape.weak_recovery",
    "weak_recovery": "dmft.equations.escape.weak_recovery",
    **dict.fromkeys(("ERM", "erm", "optimal_ridge"), "dmft.workflow.static.erm"),
    "OptimalRidge": "dmft.workflow.static.ridge",
    **dict.fromkeys(("Separability", "separability"), "dmft.workflow.static.erm"),
    **dict.fromkeys(("Spectral", "spectral"), "dmft.workflow.static.spectral"),
    "MessagePassing": "dmft.workflow.static.message_passing",
    "approximate_message_passing": "dmft.workflow.static.message_passing",
    "SampleComplexity": "dmft.workflow.static.thresholds",
    "sample_complexity": "dmft.workflow.static.thresholds",
    "sweep": "dmft.workflow.diagrams.sweep",
    "t": "dmft.model.random_network",
    "warm": "dmft.workflow.warm",
}

# Public folders, by attribute.
FOLDERS = ("laws", "literature", "rules")

NAMES = sorted([*PUBLIC, *FOLDERS, "__version__"])


def _page(record: object) -> str | None:
    """What a notebook shows of a record; loaded when one is shown."""
    page: str | None = importlib.import_module("dmft.display.pages").page(record)
    return page


PAGES[:] = [_page]


def __getattr__(name: str) -> Any:
    if name in FOLDERS:
        return importlib.import_module(f"dmft.{name}")
    if name == "__all__":
        # With it, help(dmft) prints the pages of all names one after another: nine thousand lines.
        if sys._getframe(1).f_globals.get("__name__") == "pydoc":
            raise AttributeError(name)
        return NAMES
    if name not in PUBLIC:
        words = "" if name.startswith("_") else _elsewhere(name)
        raise AttributeError(f"module 'dmft' has no attribute {name!r}{words}")
    value = getattr(importlib.import_module(PUBLIC[name]), name)
    globals()[name] = value
    return value


def _elsewhere(name: str) -> str:
    return importlib.import_module("dmft.aliases").called_here(name, NAMES)


def __dir__() -> list[str]:
    return NAMES
