"""Floor 2: Gaussian calculus. Closed forms, Hermite expansions and exponents of functions."""

from dmft.gaussian.bivariate import BivariateNormalCDF, TwoSigns
from dmft.gaussian.expectation import Gaussian
from dmft.gaussian.exponent import Exponent
from dmft.gaussian.exponents import generative_exponent, information_exponent, leap_exponent
from dmft.gaussian.factor import Term, parse_factor
from dmft.gaussian.hermite import hermite
from dmft.gaussian.hermite_series import HermiteSeries, hermite_expansion
from dmft.gaussian.learnability import Learnability, learnability
from dmft.gaussian.pair import CorrelationAngle, CorrelationRoot, elementary
from dmft.gaussian.product import product_expectation
from dmft.gaussian.sequence_exponent import SequenceExponent, sequence_information_exponent
from dmft.gaussian.series import GaussianSeries
from dmft.gaussian.switch import derivative

__all__ = [
    "BivariateNormalCDF",
    "CorrelationAngle",
    "CorrelationRoot",
    "Exponent",
    "Gaussian",
    "GaussianSeries",
    "HermiteSeries",
    "Learnability",
    "SequenceExponent",
    "Term",
    "TwoSigns",
    "derivative",
    "elementary",
    "generative_exponent",
    "hermite",
    "hermite_expansion",
    "information_exponent",
    "leap_exponent",
    "learnability",
    "parse_factor",
    "product_expectation",
    "sequence_information_exponent",
]
