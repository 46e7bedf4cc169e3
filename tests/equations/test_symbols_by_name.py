"""Frictions with SymPy: values by name, symbols found, what is too large says what to do."""

import pickle
import time

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter, InvalidCovariance

Z, A = sp.symbols("z a", real=True)
ERF = dmft.Committee(sp.erf(Z / sp.sqrt(2)), 2)
MODEL = dmft.Model(ERF, ERF)
RISK = dmft.population_risk(MODEL)
EQS = dmft.derive(MODEL, dmft.SGD(0.5))
ONE = dmft.population_risk(
    dmft.Model(dmft.Committee(ERF.activation, 1), dmft.Committee(ERF.activation, 1))
)


def test_the_explicit_risk_has_the_widths_of_the_model_and_the_symbols_of_the_equations():
    risk, written = RISK.explicit(), EQS.explicit()
    assert set(risk.symbols.values()) == risk.free_symbols == written.risk.free_symbols
    assert all(written.symbols[name] == s for name, s in risk.symbols.items())
    assert sp.simplify(risk.expr - written.risk) == 0
    assert set(RISK.explicit(1, 1).symbols) == {"Q_11", "M_11", "P_11"}
    fixed = RISK.explicit(P=[[1, 0], [0, 1]])
    assert not any(name.startswith("P") for name in fixed.symbols)
    weighted = RISK.explicit(1, 1, readout=None)
    assert "readout_1" in weighted.symbols


@pytest.mark.parametrize("key", ["M_11", sp.Symbol("M_11"), sp.Symbol("M_11", real=True)])
def test_values_by_name_or_by_any_symbol_of_that_name(key):
    risk = RISK.explicit(1, 1, P=[[1]])
    at = risk.subs({key: 0.3, "Q_11": 0.8})
    assert float(at) == pytest.approx(ONE(Q=[[0.8]], M=[[0.3]]), rel=1e-12)
    at = risk.subs(key, 0.3).subs(risk.symbols["Q_11"], 0.8)
    assert float(at) == pytest.approx(ONE(Q=[[0.8]], M=[[0.3]]), rel=1e-12)
    with pytest.raises(BadParameter, match="N is not in this risk; its symbols are M_11, Q_11"):
        risk.subs({"N": 1})


def test_names_go_on_to_work_after_values():
    """Of what `subs` returned a name was no symbol, and nothing happened."""
    risk = RISK.explicit(1, 1, P=[[1]])
    for at in (
        risk.subs("M_11", 0.3).subs("Q_11", 0.8),
        risk.subs({"M_11": 0.3}).subs({"Q_11": 0.8}),
        risk.subs("Q_11", 0.8).subs({sp.Symbol("M_11"): 0.3}),
    ):
        assert float(at) == pytest.approx(ONE(Q=[[0.8]], M=[[0.3]]), rel=1e-12)
        assert isinstance(at, sp.Expr)
    half = risk.subs("M_11", 0.3)
    assert half.free_symbols == {risk.symbols["Q_11"]}
    with pytest.raises(BadParameter, match="N is not in this risk; its symbols are Q_11"):
        half.subs("N", 1)


def test_sympy_takes_the_explicit_risk_for_an_expression():
    risk = RISK.explicit(1, 1)
    m = risk.symbols["M_11"]
    assert sp.diff(risk, m) == risk.diff(m) == risk.expr.diff(m)
    assert 2 * risk - risk == risk.expr
    at = [0.5 if name == "M_11" else 1.0 for name in risk.symbols]
    assert sp.lambdify([*risk.symbols.values()], risk.expr)(*at) > 0
    assert pickle.loads(pickle.dumps(risk)) == risk
    assert risk == risk.expr
    assert "M_{11}" in risk.latex()


def test_parameters_of_a_risk_and_of_equations_by_name():
    risk = dmft.population_risk(dmft.Model(dmft.Committee(A * Z, 1), dmft.Committee(Z, 1)))
    assert risk.subs({"a": 2})([[1.0]], [[0.5]]) == pytest.approx(
        risk([[1.0]], [[0.5]], a=2), rel=1e-14
    )
    assert risk.subs({A: sp.Symbol("b")})([[1.0]], [[0.5]], b=2) == risk([[1.0]], [[0.5]], a=2)
    with pytest.raises(BadParameter, match=r"M_11 is not a parameter .* explicit\(\)\.subs"):
        risk.subs({"M_11": 0.5})
    half = EQS.subs({"learning_rate": 0.25})
    start = dmft.Overlaps(np.eye(2), np.full((2, 2), 0.1))
    np.testing.assert_allclose(
        half.evaluate(start)["Q"], EQS.evaluate(start, learning_rate=0.25)["Q"], rtol=1e-13
    )
    for key in ("M_11", sp.Symbol("M_11"), "Q[0, 1]", "M"):
        with pytest.raises(BadParameter, match=r"arrays of any width; use explicit\(\)\.subs"):
            EQS.subs({key: 0.5})
    with pytest.raises(BadParameter, match="not a parameter that can be replaced"):
        EQS.subs({"speed": 0.5})


def test_the_limit_of_explicit_says_what_to_do():
    with pytest.raises(BadParameter, match=r"for example explicit\(3, 2\)"):
        EQS.explicit(4, 2)
    with pytest.raises(BadParameter, match="evaluate"):
        RISK.explicit(4, 2)
    wide = dmft.Model(dmft.Committee(Z, sp.Symbol("K")), dmft.Committee(Z, 1))
    with pytest.raises(BadParameter, match=r"symbolic width K; pass width=\.\.\., or print latex"):
        dmft.population_risk(wide).explicit()
    assert dmft.population_risk(wide).explicit(2).symbols


def test_writing_out_again_is_at_once():
    first = EQS.explicit(2, 2)
    before = time.thread_time()
    assert EQS.explicit(2, 2) is first
    assert time.thread_time() - before < 0.02
    assert EQS.explicit(2, 2, P=[[1, 0], [0, 1]]) is not first
    assert pickle.loads(pickle.dumps(EQS)) == EQS
    assert len(pickle.dumps(EQS)) < 2 * len(pickle.dumps(EQS.without("sgd_noise")))


def test_values_as_sympy_takes_them():
    """A mapping, pairs, or a name and its value: of equations as of the risk."""
    written = EQS.explicit(1, 1, P=sp.eye(1))
    forms = [({"M_11": 0.3},), ([("M_11", 0.3)],), ("M_11", 0.3)]
    assert len({str(written.subs(*form).risk) for form in forms}) == 1
    assert (
        len({str(written.risk.free_symbols), str(RISK.explicit(1, 1, P=[[1]]).free_symbols)}) == 1
    )
    with pytest.raises(BadParameter, match="a list of pairs, or a name and its value"):
        written.subs("M_11", 0.3, 0.4)


def test_teacher_overlaps_of_the_explicit_risk_are_those_of_vectors():
    assert RISK.explicit(P=sp.eye(2)) == RISK.explicit(P=[[1, 0], [0, 1]])
    with pytest.raises(InvalidCovariance, match="P is not positive semi-definite"):
        RISK.explicit(P=[[1, 2], [2, 1]])


def test_the_risk_of_a_sequence_takes_values_by_name():
    u, v = sp.symbols("u v", real=True)
    target = dmft.SequenceTarget(u * v, [u, v])
    risk = dmft.population_risk(dmft.Model(dmft.SequenceNetwork(Z**2, 2), target, encoding=1.0))
    written = risk.explicit()
    assert set(written.symbols) == {"m"}
    at = written.subs({sp.Symbol("m"): 0.3})
    assert float(at) == pytest.approx(risk(e=0.1, m=0.3), rel=1e-12)


def test_readouts_that_are_not_trained_have_no_rate_at_run_time():
    """A run with this value did not train them, and did not say so."""
    with pytest.raises(BadParameter, match=r"'readout_rate'.*keyword of dmft.SGD"):
        EQS.evaluate(dmft.random_overlaps(MODEL, 100, 0), readout_rate=0.5)
    trained = dmft.derive(MODEL, dmft.SGD(0.5, readout_rate=0.1))
    start = dmft.random_overlaps(MODEL, 100, 0)
    slow, fast = (trained.evaluate(start, readout_rate=rate)["readout"] for rate in (0.1, 0.5))
    np.testing.assert_allclose(fast, 5 * slow, rtol=1e-12)
