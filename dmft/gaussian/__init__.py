"""Floor 2: Gaussian calculus. Closed forms of expectations of jointly Gaussian fields."""

from dmft.gaussian.bivariate import BivariateNormalCDF
from dmft.gaussian.expectation import Gaussian
from dmft.gaussian.factor import Term, parse_factor
from dmft.gaussian.hermite import hermite
from dmft.gaussian.product import product_expectation

__all__ = [
    "BivariateNormalCDF",
    "Gaussian",
    "Term",
    "hermite",
    "parse_factor",
    "product_expectation",
]
