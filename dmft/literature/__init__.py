"""Named models of the literature, ready to use; BibTeX is in `dmft.display.bibliography`.

Examples
--------
>>> import dmft
>>> dmft.literature.saad_solla(width=3).student.width
3
"""

from dmft.literature.attention_phases import (
    positional_semantic,
    positional_semantic_boundaries,
    positional_semantic_diagram,
    positional_semantic_regions,
    positional_semantic_risk,
)
from dmft.literature.models import (
    CONVENTIONS,
    Convention,
    convention,
    hermite_committee,
    phase_retrieval,
    reusing_batches,
    saad_solla,
)
from dmft.literature.rules import (
    adversarial_network,
    continual_learning,
    contrastive,
    contrastive_divergence,
    curriculum,
    denoising_autoencoder,
    dropout,
    equilibrium_propagation,
    feedback_alignment,
    independent_component,
    masked_inputs,
    mixture_network,
    node_perturbation,
    nonlinear_autoencoder,
    perceptron_rule,
    principal_components,
    reinforce,
    reinforcement_perceptron,
    temporal_difference,
    vector_quantisation,
)
from dmft.literature.two_time import (
    SignalPropagation,
    driven_network,
    lotka_volterra,
    low_rank_network,
    random_network,
    replicator,
    ridge_flow,
    signal_propagation,
    spherical_p_spin,
)
from dmft.literature.two_token_curves import positional_semantic_points

__all__ = [
    "CONVENTIONS",
    "Convention",
    "SignalPropagation",
    "adversarial_network",
    "continual_learning",
    "contrastive",
    "contrastive_divergence",
    "convention",
    "curriculum",
    "denoising_autoencoder",
    "driven_network",
    "dropout",
    "equilibrium_propagation",
    "feedback_alignment",
    "hermite_committee",
    "independent_component",
    "lotka_volterra",
    "low_rank_network",
    "masked_inputs",
    "mixture_network",
    "node_perturbation",
    "nonlinear_autoencoder",
    "perceptron_rule",
    "phase_retrieval",
    "positional_semantic",
    "positional_semantic_boundaries",
    "positional_semantic_diagram",
    "positional_semantic_points",
    "positional_semantic_regions",
    "positional_semantic_risk",
    "principal_components",
    "random_network",
    "reinforce",
    "reinforcement_perceptron",
    "replicator",
    "reusing_batches",
    "ridge_flow",
    "saad_solla",
    "signal_propagation",
    "spherical_p_spin",
    "temporal_difference",
    "vector_quantisation",
]
