"""Noise of 0.0 is no noise: SymPy tells the two numbers apart."""

import pytest
import sympy as sp

import dmft

z = sp.Symbol("z", real=True)
LINE = dmft.Committee(z, 1)


@pytest.mark.parametrize("zero", [0.0, sp.Float(0), -0.0])
def test_zero_is_zero(zero):
    model = dmft.Model(LINE, LINE, label_noise=zero, label_flip=zero)
    assert (model.label_noise, model.label_flip) == (0, 0)
    assert dmft.SGD(0.1, weight_decay=zero, momentum=zero) == dmft.SGD(0.1)


def test_channels_of_zero_noise_are_those_of_none():
    label = dmft.MultiIndex(z**2 + z, (z,))
    found = [dmft.output_channel(dmft.Model(LINE, label, label_noise=y)).Z for y in (0, 0.0)]
    assert found[0] == found[1]
