"""Floor 1: frozen declarations of networks, targets, algorithms and starts."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dmft.initial_conditions import Alignment, Overlaps
from dmft.model.algorithm import CONSTRAINTS, DIM_NAME, SGD, GradientDescent, GradientFlow, Momentum
from dmft.model.model import (
    MixtureModel,
    Model,
    check_identity,
    check_isotropic,
    check_labels,
    check_outputs,
    check_readout,
    check_unflipped,
)
from dmft.model.network import FIELD, Committee, MultiIndex, teacher_field
from dmft.model.rule import UpdateRule
from dmft.validation import as_count, check_covariance, check_shape

if TYPE_CHECKING:
    from dmft.model.adaptive import AdaGrad, AdaGradNorm, Adam, RMSProp, SignSGD
    from dmft.model.inputs.encoding import Encoding, as_encoding
    from dmft.model.inputs.mixture import GaussianMixture
    from dmft.model.inputs.spectrum import Spectrum
    from dmft.model.overlaps import random_overlaps
    from dmft.model.repetition import Lookahead, Repeat, SharpnessAware
    from dmft.model.scaling import Scaling
    from dmft.model.sequence import (
        Attention,
        SequenceModel,
        SequenceNetwork,
        SequenceTarget,
        token_fields,
    )
    from dmft.model.update import UpdateField

# What committees in one pass do without is loaded when first used.
LATER = {
    **dict.fromkeys(("AdaGrad", "AdaGradNorm", "Adam", "RMSProp", "SignSGD"), "adaptive"),
    **dict.fromkeys(("Lookahead", "Repeat", "SharpnessAware"), "repetition"),
    "Encoding": "inputs.encoding",
    "GaussianMixture": "inputs.mixture",
    "as_encoding": "inputs.encoding",
    "random_overlaps": "overlaps",
    "Scaling": "scaling",
    "Spectrum": "inputs.spectrum",
    "Attention": "sequence",
    "SequenceModel": "sequence",
    "SequenceNetwork": "sequence",
    "SequenceTarget": "sequence",
    "token_fields": "sequence",
    "UpdateField": "update",
}

__all__ = [
    "CONSTRAINTS",
    "DIM_NAME",
    "FIELD",
    "SGD",
    "AdaGrad",
    "AdaGradNorm",
    "Adam",
    "Alignment",
    "Attention",
    "Committee",
    "Encoding",
    "GaussianMixture",
    "GradientDescent",
    "GradientFlow",
    "Lookahead",
    "MixtureModel",
    "Model",
    "Momentum",
    "MultiIndex",
    "Overlaps",
    "RMSProp",
    "Repeat",
    "Scaling",
    "SequenceModel",
    "SequenceNetwork",
    "SequenceTarget",
    "SharpnessAware",
    "SignSGD",
    "Spectrum",
    "UpdateField",
    "UpdateRule",
    "as_count",
    "as_encoding",
    "check_covariance",
    "check_identity",
    "check_isotropic",
    "check_labels",
    "check_outputs",
    "check_readout",
    "check_shape",
    "check_unflipped",
    "random_overlaps",
    "teacher_field",
    "token_fields",
]


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module 'dmft.model' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"dmft.model.{LATER[name]}"), name)
    return value
