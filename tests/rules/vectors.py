"""The rules of the shared vectors, declared from their words."""

import json
from pathlib import Path

import numpy as np
import sympy as sp

import dmft
from dmft import laws
from dmft.literature import rules as lit
from dmft.rules import Rows, fixed, views

FILE = Path(__file__).parents[1] / "vectors" / "update_rules_vectors.json"


def vectors():
    """Vectors of the file."""
    return json.loads(FILE.read_text(encoding="utf-8"))["vectors"]


LAWS = {"rademacher": laws.Rademacher(), "laplace": laws.Laplace(0.5**0.5),
        "uniform": laws.Uniform(-(3**0.5), 3**0.5)}  # fmt: skip
z = sp.Symbol("z", real=True)


def rule_of(name, p, g):
    """The rule of a vector, from its name and parameters."""
    if name in ("hebb", "perceptron", "adatron"):
        return lit.perceptron_rule(name, g)
    if name.startswith("rl"):
        return lit.reinforcement_perceptron(p["T"], p["e1"], p["e2"], p["n"], g)
    if name == "reinforce":
        return lit.reinforce(p["kap"], g)
    if name in ("pca", "oja", "sanger", "tied_linear_ae"):
        kind = {"ae": "autoencoder"}.get(p["kind"], p["kind"])
        return lit.principal_components(p["om"], kind, g)
    if name.startswith("ica"):
        f = -sp.tanh(z) if p.get("tanh") else p["sign"] * z**3
        return lit.independent_component(LAWS[p["law"]], f, g)
    if name == "dae":
        return lit.denoising_autoencoder(p["s2"], g)
    if name == "dropout":
        return lit.dropout(p["a"], p["p"], p["D"], p["A"], g)
    if name == "feedback":
        return lit.feedback_alignment(p["F"], p["D"], p["A"], g)
    if name == "continual":
        return lit.continual_learning(p["replay"], 2, p.get("readout_rate", 1), g)
    if name == "gan":
        c = laws.Discrete({-(p["rho"] ** 0.5): 0.5, p["rho"] ** 0.5: 0.5})
        return lit.adversarial_network(c, p["eT"], p["eG"], p["kap"], p["lam"], g)
    if name == "contrastive":
        return lit.contrastive(p["tau"], p["lam2"], p["decay"], learning_rate=g)
    if name == "infonce":
        return lit.contrastive(0.5, 1.69, 0, "infonce", g)
    if name == "lvq":
        return lit.vector_quantisation(p["ell"], p["v"], p["prior"], g)
    if name == "nodepert":
        return lit.node_perturbation(2, p["s0"], g)
    if name == "cd1":
        return lit.contrastive_divergence(p["ell"], g)
    if name == "inmask":
        return lit.masked_inputs(p["q"], p["D"], g)
    if name == "td":
        return lit.temporal_difference(p["tau"], p["gam"], p["D"], g)
    if name == "eqprop":
        return lit.equilibrium_propagation(p["beta"], learning_rate=g)
    if name == "curriculum":
        return lit.curriculum(*p["v"], p["pe"], p.get("frac", 0.5), g)
    if name == "views_blocks":
        w, B = Rows("w"), fixed("B")
        x, y = views("x y", cov=p["C"], fractions=p["phi"])
        return dmft.UpdateField({w: (B @ x - w @ y) * y}, learning_rate=g)
    raise KeyError(name)


def start_of(rule, gram, theta=()):
    """A start from the Gram matrix of all rows, moving rows first."""
    gram = np.array(gram)
    n = len(rule.moving)
    names = [s.name for s in rule.learned]
    scalars = dict(zip(names, theta, strict=True)) if len(names) else None
    return dmft.Overlaps(gram[..., :n, :n], gram[..., :n, n:], gram[..., n:, n:], scalars=scalars)


def rates_of(rule, start, **given):
    """Rates of the moving rows, and of the scalars."""
    found = dmft.derive(rule).evaluate(start, **given)
    rows = np.concatenate([found["Q"], found["M"]], axis=-1)
    return rows, np.array([found[s.name] for s in rule.learned])
