"""Floor 1: frozen declarations of networks, targets, algorithms and starts."""

from dmft.model.algorithm import CONSTRAINTS, DIM_NAME, SGD, GradientFlow, as_count
from dmft.model.covariance import check_covariance, check_shape
from dmft.model.descent import GradientDescent
from dmft.model.mixture import GaussianMixture, MixtureModel
from dmft.model.model import Model
from dmft.model.multi_index import MultiIndex, teacher_field
from dmft.model.network import FIELD, Committee
from dmft.model.overlaps import Overlaps, random_overlaps
from dmft.model.repetition import Displaced, Lookahead, Repeat, Repetition, SharpnessAware
from dmft.model.scaling import Scaling

__all__ = [
    "CONSTRAINTS",
    "DIM_NAME",
    "FIELD",
    "SGD",
    "Committee",
    "GaussianMixture",
    "Displaced",
    "GradientDescent",
    "GradientFlow",
    "Lookahead",
    "MixtureModel",
    "Model",
    "MultiIndex",
    "Overlaps",
    "Repeat",
    "Repetition",
    "Scaling",
    "SharpnessAware",
    "as_count",
    "check_covariance",
    "check_shape",
    "random_overlaps",
    "teacher_field",
]
