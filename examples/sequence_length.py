"""Tied and untied weights: a tied network learns up to L times faster from L tokens.

Run as `python examples/sequence_length.py [figure.png]`; prints how many times fewer steps a tied
network needs for the target sqrt(L) z_1 of eight tokens: sqrt(8) at small overlaps and rates.
"""

import sys

import numpy as np
import sympy as sp

import dmft
from dmft.model import token_fields

z = sp.Symbol("z", real=True)
SGD, DIM, START, LEVEL, LENGTHS = dmft.SGD(0.05), 1000, 0.02, 0.06, (2, 4, 8)
RELU, HE2, STYLES = sp.Max(0, z), (z**2 - 1) / sp.sqrt(2), ("o-", "s--", "^-", "k:")
# Activation, target of L tokens, and the direction of the m_l that an untied network learns.
CASES = {
    "tokens": (RELU, lambda y: sum(y) / sp.sqrt(len(y)), np.ones),
    "squares": (HE2, lambda y: sum(HE2.subs(z, x) for x in y) / sp.sqrt(len(y)), np.ones),
    "first token": (RELU, lambda y: sp.sqrt(len(y)) * y[0], lambda n: n**0.5 * np.eye(n)[0]),
}


def setting(name, length, tied):
    """Network of L tokens with its target, and a start of overlap START."""
    (activation, target, direction), tokens = CASES[name], token_fields(length)
    network = dmft.SequenceNetwork(activation, length, tied)
    model = dmft.Model(network, dmft.SequenceTarget(target(tokens), tokens))
    return model, dmft.Alignment(m=START if tied else START * direction(length))


def steps(name, length, tied):
    """Steps of SGD until the overlap |m| (untied |m| / sqrt(L)) has reached LEVEL."""
    model, start = setting(name, length, tied)
    return dmft.escape_time(dmft.derive(model, SGD), start, 100.0, overlap=LEVEL).steps(DIM)


gains = {n: [steps(n, L, False) / steps(n, L, True) for L in LENGTHS] for n in CASES}
if len(sys.argv) > 1:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11.0, 4.2), layout="constrained")
    # A tied network needs the same steps at every length: wide lines lie below narrow ones.
    for (i, length), tied in ((n, tied) for n in enumerate(LENGTHS) for tied in (True, False)):
        model, start = setting("tokens", length, tied)
        run = dmft.solve(dmft.derive(model, SGD), start, 8.0, save_at=200)
        chain = dmft.simulate(model, SGD, DIM, 8.0, 16, start, "overlaps", save_at=9)
        m, mean = (np.reshape(r.m, (len(r.m), -1)).mean(axis=1) for r in (run, chain.mean))
        kind = {"ls": "-" if tied else "--", "lw": 6 - 2 * i if tied else 1.5, "color": f"C{i}"}
        left.plot(run.steps(DIM), m, label=f"L = {length}, {'' if tied else 'un'}tied", **kind)
        left.plot(chain.steps(), mean, "o" if tied else "s", ms=4, mfc="w", color=f"C{i}")
    left.set(xscale="log", xlabel=f"steps at d = {DIM}", ylabel="m", title="sum of tokens")
    for (name, found), style in zip({**gains, "L": LENGTHS}.items(), STYLES, strict=True):
        right.plot(LENGTHS, found, style, mfc="w", label=name)
    right.set(xlabel="L", ylabel="steps untied / steps tied")
    _ = [panel.legend(fontsize="small") for panel in (left, right)]
    figure.savefig(sys.argv[1], dpi=120)
print(f"gain of the first of eight tokens {gains['first token'][-1]:.6f}")
