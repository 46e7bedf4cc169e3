"""The 24 systems whose documents are compiled."""

import sympy as sp

import dmft
from dmft import literature

z, a, b, c = sp.symbols("z a b c", real=True)
f, y = sp.symbols("f y", real=True)
ERF, RELU, TANH = sp.erf(z / sp.sqrt(2)), sp.Max(0, z), sp.tanh(z)
HE2, HE3, HE4 = (dmft.hermite(n, z) for n in (2, 3, 4))
SGD, OMEGA, D = dmft.SGD, sp.Symbol("omega", positive=True), sp.Symbol("d")


def committees(student, p, teacher, k, **more):
    return dmft.Model(dmft.Committee(student, p), dmft.Committee(teacher, k), **more)


def sequences(student, expr, fields):
    return dmft.Model(student, dmft.SequenceTarget(expr, fields))


MIXTURE = dmft.GaussianMixture([[1.0], [-0.7]], labels=[1, -1])
MODELS = {
    "saad_solla": (literature.saad_solla(4, 2, 0.1), SGD(0.5), {}),
    "erf_one": (committees(ERF, 1, ERF, 1), SGD(0.5), {}),
    "erf_readout": (
        dmft.Model(dmft.Committee(ERF, 3), dmft.Committee(ERF, 2, (1, -2)), label_noise=0.1),
        SGD(0.5, readout_rate=1),
        {},
    ),
    "phase_retrieval": (literature.phase_retrieval(2), SGD(0.1), {}),
    "phase_sphere": (literature.phase_retrieval(2), SGD(0.1, constraint="sphere"), {}),
    "hermite3": (literature.hermite_committee(3, 2), SGD(0.1), {}),
    "he4_on_he2": (committees(HE4, 2, HE2, 1), SGD(0.1), {}),
    "relu": (committees(RELU, 2, RELU, 2), SGD(0.1), {}),
    "sign_erf": (committees(ERF, 2, sp.sign(z), 1), SGD(0.1), {}),
    "tanh": (committees(TANH, 2, TANH, 1), SGD(0.1), {}),
    "flow": (committees(ERF, 2, ERF, 2), dmft.GradientFlow(), {}),
    "correlation": (
        committees(HE3, 1, HE3, 1),
        SGD(0.1, loss="correlation", constraint="sphere"),
        {},
    ),
    "map": (committees(ERF, 2, ERF, 1), SGD(0.5, batch_size=2 * D), {"dim": 1000}),
    "sde": (literature.phase_retrieval(1), SGD(0.1), {"dim": 1000, "fluctuations": True}),
    "multi_index": (
        dmft.Model(dmft.Committee(z**2, 2), dmft.MultiIndex(a * b + a, [a, b])),
        SGD(0.1),
        {},
    ),
    "multi_open": (
        dmft.Model(dmft.Committee(TANH, 2), dmft.MultiIndex(sp.tanh(a + b**3), [a, b])),
        SGD(0.1),
        {},
    ),
    "repeat": (committees(HE3, 1, HE3, 1), SGD(0.1, repeat=dmft.Lookahead(0.5)), {}),
    "mixture": (dmft.Model(dmft.Committee(ERF, 2), MIXTURE), SGD(0.1), {}),
    "relu_tokens": (
        sequences(dmft.SequenceNetwork(RELU, 2), (a + b) / sp.sqrt(2), [a, b]),
        SGD(0.5),
        {},
    ),
    "attention": (literature.positional_semantic(sp.Rational(1, 2), OMEGA), SGD(0.5), {}),
    "three_tokens": (
        sequences(dmft.Attention(3, "trace"), a * b * c, [a, b, c]),
        SGD(0.5),
        {},
    ),
    "descent": (committees(ERF, 2, ERF, 1), dmft.GradientDescent(0.1, samples_per_dim=3), {}),
    "logistic": (committees(ERF, 2, ERF, 1), SGD(0.5, loss=sp.log(1 + sp.exp(-f * y))), {}),
    "sharpness": (
        committees(RELU, 3, HE2, 2),
        SGD(0.1, repeat=dmft.SharpnessAware(0.1)),
        {},
    ),
}


def equations(name):
    model, algorithm, options = MODELS[name]
    return dmft.derive(model, algorithm, **options)


def explicit(name):
    """Scalar equations at the declared widths, one unit each where these are too large."""
    found = equations(name)
    return found.explicit(1, 1) if name == "saad_solla" else found.explicit()


# Systems whose averages have no closed form, or that are in two times, are not written out.
NOT_EXPLICIT = {"tanh", "multi_open", "repeat", "descent", "logistic", "sharpness"}
