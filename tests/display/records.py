"""One small record of every public class, made by the verb that gives it."""

import functools

import numpy as np
import sympy as sp

import dmft

Z = sp.Symbol("z", real=True)
FIELDS = sp.symbols("z1:3", real=True)
ERF = sp.erf(Z / sp.sqrt(2))
SQUARE = dmft.Committee(Z**2, width=1)
LINE = dmft.Committee(Z, width=1)
MODEL = dmft.Model(SQUARE, SQUARE)
START = dmft.Overlaps([[1.0]], [[0.3]])
SPHERE = dmft.SGD(0.05, constraint="sphere")
MIXTURE = dmft.GaussianMixture([[1.0], [-1.0]], labels=[1, -1])


def flow():
    return dmft.derive(MODEL, SPHERE)


def own_rule():
    h, h_star, y = sp.symbols("h h_star y", real=True)
    return dmft.UpdateField(y, fields=(h, h_star, y), learning_rate=1)


@functools.cache
def sequence_model():
    return dmft.Model(
        dmft.SequenceNetwork(Z**2, 2), dmft.SequenceTarget(FIELDS[0] * FIELDS[1], FIELDS)
    )


@functools.cache
def run():
    return dmft.solve(flow(), START, 3.0)


@functools.cache
def paths():
    eqs = dmft.derive(dmft.Model(LINE, LINE), dmft.SGD(0.05), dim=1000, fluctuations=True)
    return dmft.solve(eqs, START, 1.0, paths=4, dt=0.1, keep_paths=True)


@functools.cache
def ensemble():
    return dmft.simulate(MODEL, SPHERE, 50, 1.0, 4, START, "overlaps", save_at=3)


def descent(*, simulated=False):
    model, algorithm = dmft.Model(LINE, LINE), dmft.GradientDescent(0.2, samples_per_dim=2)
    if simulated:
        return dmft.simulate(model, algorithm, 50, 2, 4, START)
    return dmft.solve(dmft.derive(model, algorithm), START, 3)


def diagram():
    def measure(a, b):
        return a - b

    return dmft.phase_diagram(measure, ("a", [0.0, 1.0, 2.0]), ("b", [0.0, 1.0]))


def curve():
    return dmft.boundary(lambda a, b: a - b, ("a", 0.0, 1.0), ("b", 0.0, 1.0), grid=(3, 3))


def swept(folder):
    return dmft.sweep({"a": [0.0, 1.0], "b": [0.0, 1.0]}, lambda a, b: a + b, store=folder)


def labels():
    return dmft.Model(LINE, dmft.MultiIndex(sp.sign(Z), Z))


@functools.cache
def network():
    x, h = sp.symbols("x h", real=True)
    return dmft.RandomNetwork(-x + h, x, h, output=sp.erf(x), std=0.5)


# name of the class -> function of a folder for what it writes
RECORDS = {
    "AdaGrad": lambda _: dmft.AdaGrad(0.5, initial=1),
    "AdaGradNorm": lambda _: dmft.AdaGradNorm(0.5, initial=1),
    "Adam": lambda _: dmft.Adam(0.5, second_moment_rate=2, eps=0.1, initial=1),
    "RMSProp": lambda _: dmft.RMSProp(0.5),
    "ScalingLaw": lambda _: dmft.ScalingLaw(-0.4, 0.9, "source", "derived", 0.0, "", (1.0, 10.0)),
    "Schedule": lambda _: dmft.Schedule([0.0, 1.0], [1.0, 0.5]),
    "SignSGD": lambda _: dmft.SignSGD(0.5),
    "Alignment": lambda _: dmft.Alignment(0.1, 0.2),
    "Attention": lambda _: dmft.Attention(2),
    "SGD": lambda _: dmft.SGD(sp.Symbol("gamma"), momentum=0.5),
    "Censored": lambda _: dmft.escape_time(dmft.solve(flow(), START, 0.1), overlap=0.9),
    "Certificate": lambda _: dmft.certify(ERF**2, dmft.Gaussian([Z], [[1]])),
    "Committee": lambda _: dmft.Committee(ERF, width=4),
    "Equations": lambda _: flow(),
    "EscapeFormula": lambda _: dmft.escape_formula(MODEL, SPHERE),
    "EscapeTime": lambda _: dmft.escape_time(run(), overlap=0.9),
    "EscapeTimes": lambda _: dmft.escape_time(paths(), overlap=0.4),
    "Event": lambda _: dmft.Event("M[0,0]", 0.5),
    "Explanation": lambda _: dmft.explain(dmft.Gaussian([Z], [[1]]), of=Z**2),
    "Exponent": lambda _: dmft.information_exponent(Z**3 - 3 * Z, Z),
    "FixedPoint": lambda _: dmft.fixed_points(flow(), START)[0],
    "FirstPassage": lambda _: dmft.FirstPassage("risk", 0.1),
    "Gaussian": lambda _: dmft.Gaussian(FIELDS, [[1, 0.5], [0.5, 1]]),
    "GaussianMixture": lambda _: MIXTURE,
    "GradientDescent": lambda _: dmft.GradientDescent(0.2, samples_per_dim=2),
    "GradientFlow": lambda _: dmft.GradientFlow(),
    "HermiteSeries": lambda _: dmft.hermite_expansion(ERF, Z, 5),
    "LargestCosine": lambda _: dmft.LargestCosine(),
    "Learnability": lambda _: dmft.learnability(FIELDS[0] * FIELDS[1], FIELDS),
    "Lookahead": lambda _: dmft.Lookahead(0.1),
    "MixtureModel": lambda _: dmft.MixtureModel(LINE, MIXTURE),
    "Model": lambda _: dmft.Model(dmft.Committee(ERF, 4), dmft.Committee(ERF, 2), 1e-3),
    "Momentum": lambda _: dmft.Momentum(1.0, 0.5),
    "MultiIndex": lambda _: dmft.MultiIndex(FIELDS[0] * FIELDS[1], FIELDS),
    "Overlaps": lambda _: dmft.Overlaps(np.eye(2), np.zeros((2, 2))),
    "BatchExponents": lambda _: dmft.batch_exponents(3),
    "Boundary": lambda _: curve(),
    "DescentEnsemble": lambda _: descent(simulated=True),
    "DescentRun": lambda _: descent(),
    "Ensemble": lambda _: ensemble(),
    "PathEnsemble": lambda _: paths(),
    "PhaseDiagram": lambda _: diagram(),
    "Phases": lambda _: dmft.phases(run()),
    "Problem": lambda _: dmft.build(flow()),
    "Quadrature": lambda _: dmft.Gaussian(FIELDS, [[1, 0.5], [0.5, 1]]).quad(sp.tanh(FIELDS[0])),
    "Regimes": lambda _: dmft.regimes(MODEL),
    "Repeat": lambda _: dmft.Repeat(2),
    "Scaling": lambda _: dmft.Scaling(0.5, 1, 1),
    "SequenceModel": lambda _: sequence_model(),
    "SequenceNetwork": lambda _: sequence_model().student,
    "SequenceTarget": lambda _: sequence_model().teacher,
    "SharpnessAware": lambda _: dmft.SharpnessAware(0.1),
    "UpdateField": lambda _: own_rule(),
    "Spectrum": lambda _: dmft.Spectrum.power_law(1.5, 0.4, 1000),
    "UpdateRule": lambda _: dmft.UpdateRule(),
    "Stage": lambda _: dmft.Stage(flow(), until=dmft.Event("risk", 0.1)),
    "Sweep": swept,
    "Trajectory": lambda _: run(),
    "TwoTime": lambda _: dmft.literature.spherical_p_spin(3),
    "TwoTimeRun": lambda _: dmft.solve(dmft.literature.spherical_p_spin(3), None, 1.0),
    "WeakRecovery": lambda _: dmft.weak_recovery(MODEL, SPHERE),
    "BayesOptimal": lambda _: dmft.bayes_optimal(labels(), 2.0),
    "OutputChannel": lambda _: dmft.output_channel(labels()),
    "StateEvolution": lambda _: dmft.state_evolution(labels(), 2.0),
    "Thresholds": lambda _: dmft.thresholds(labels()),
    "ERM": lambda _: dmft.erm(labels(), "squared", 2.0, 0.5),
    "OptimalRidge": lambda _: dmft.optimal_ridge(labels()),
    "Separability": lambda _: dmft.separability(labels()),
    "Spectral": lambda _: dmft.spectral(dmft.Model(LINE, dmft.MultiIndex(Z**2, Z)), 2.0),
    "MessagePassing": lambda _: dmft.approximate_message_passing(labels(), 2.0, dim=50, seeds=2),
    "SampleComplexity": lambda _: dmft.sample_complexity(labels()),
    "GaussianInput": lambda _: dmft.GaussianInput(sp.Float(0.5)),
    "RandomNetwork": lambda _: network(),
    "NetworkRun": lambda _: dmft.solve(dmft.derive(network()), dmft.laws.Normal(), 1.0),
    "NetworkEnsemble": lambda _: dmft.simulate(
        network(), dim=20, t_max=1.0, seeds=2, start=dmft.laws.Normal()
    ),
    "NetworkFixedPoint": lambda _: dmft.fixed_points(dmft.literature.lotka_volterra(1, 0.5))[0],
    "Stationary": lambda _: dmft.stationary(network()),
    "LyapunovExponent": lambda _: dmft.lyapunov_exponent(network()),
}
# What verbs give that has no public class of its own.
OTHERS = {
    "risk": lambda _: dmft.population_risk(MODEL),
    "sequence risk": lambda _: dmft.population_risk(sequence_model()),
    "explicit": lambda _: flow().explicit(),
    "sequence equations": lambda _: dmft.derive(sequence_model(), dmft.SGD(0.1)),
    "descent equations": lambda _: dmft.derive(
        dmft.Model(LINE, LINE), dmft.GradientDescent(0.2, samples_per_dim=2)
    ),
    "stability": lambda _: dmft.stability(flow(), dmft.Overlaps([[1.0]], [[1.0]])),
    "values": lambda _: ensemble().mean,
    "series": lambda _: dmft.Gaussian(FIELDS, [[1, 0.5], [0.5, 1]]).series(
        sp.tanh(FIELDS[0]) * sp.tanh(FIELDS[1]), 3
    ),
    "landscape": lambda _: dmft.landscape(dmft.literature.positional_semantic(1.0, 0.5)),
    "learned directions": lambda _: dmft.learned_directions(
        dmft.Model(dmft.Committee(ERF, 2), dmft.MultiIndex(FIELDS[0] * FIELDS[1], FIELDS)),
        dmft.GradientDescent(0.2, samples_per_dim=2),
    ),
    "difference": lambda _: flow().diff(flow().without("sgd_noise")),
}
