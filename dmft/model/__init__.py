"""Floor 1: frozen declarations of networks, targets, algorithms and starts."""

from dmft.covariance import check_covariance, check_shape
from dmft.model.algorithm import CONSTRAINTS, DIM_NAME, SGD, GradientFlow, as_count
from dmft.model.descent import GradientDescent
from dmft.model.encoding import Encoding, as_encoding
from dmft.model.mixture import GaussianMixture
from dmft.model.model import MixtureModel, Model, SequenceModel, check_identity
from dmft.model.multi_index import MultiIndex, teacher_field
from dmft.model.network import FIELD, Committee
from dmft.model.overlaps import random_overlaps
from dmft.model.repetition import Displaced, Lookahead, Repeat, Repetition, SharpnessAware
from dmft.model.scaling import Scaling
from dmft.model.sequence import Attention, SequenceNetwork, SequenceTarget, token_fields
from dmft.model.update import UpdateField
from dmft.starts import Alignment, Overlaps

__all__ = [
    "CONSTRAINTS",
    "DIM_NAME",
    "FIELD",
    "SGD",
    "Alignment",
    "Attention",
    "Committee",
    "Displaced",
    "Encoding",
    "GaussianMixture",
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
    "SequenceModel",
    "SequenceNetwork",
    "SequenceTarget",
    "SharpnessAware",
    "UpdateField",
    "as_count",
    "as_encoding",
    "check_covariance",
    "check_identity",
    "check_shape",
    "random_overlaps",
    "teacher_field",
    "token_fields",
]
