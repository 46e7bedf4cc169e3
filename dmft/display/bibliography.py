"""BibTeX of the papers that docstrings cite as [key]."""

from __future__ import annotations

from dmft.errors import BadParameter

ENTRIES: dict[str, str] = {
    "saad_solla_1995": """\
@article{saad_solla_1995,
  author  = {Saad, David and Solla, Sara A.},
  title   = {On-line learning in soft committee machines},
  journal = {Physical Review E},
  volume  = {52},
  number  = {4},
  pages   = {4225--4243},
  year    = {1995},
  doi     = {10.1103/PhysRevE.52.4225},
}""",
    "goldt_2019": """\
@inproceedings{goldt_2019,
  author    = {Goldt, Sebastian and Advani, Madhu and Saxe, Andrew M. and Krzakala, Florent
               and Zdeborov{\\'a}, Lenka},
  title     = {Dynamics of stochastic gradient descent for two-layer neural networks in the
               teacher-student setup},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {32},
  year      = {2019},
  eprint    = {1906.08632},
  archiveprefix = {arXiv},
}""",
    "ben_arous_2021": """\
@article{ben_arous_2021,
  author  = {Ben Arous, Gerard and Gheissari, Reza and Jagannath, Aukosh},
  title   = {Online stochastic gradient descent on non-convex losses from high-dimensional
             inference},
  journal = {Journal of Machine Learning Research},
  volume  = {22},
  number  = {106},
  pages   = {1--51},
  year    = {2021},
  eprint  = {2003.10409},
  archiveprefix = {arXiv},
}""",
    "veiga_2022": """\
@inproceedings{veiga_2022,
  author    = {Veiga, Rodrigo and Stephan, Ludovic and Loureiro, Bruno and Krzakala, Florent
               and Zdeborov{\\'a}, Lenka},
  title     = {Phase diagram of stochastic gradient descent in high-dimensional two-layer
               neural networks},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {35},
  year      = {2022},
  eprint    = {2202.00293},
  archiveprefix = {arXiv},
}""",
    "arnaboldi_2023_odes": """\
@inproceedings{arnaboldi_2023_odes,
  author    = {Arnaboldi, Luca and Stephan, Ludovic and Krzakala, Florent and Loureiro, Bruno},
  title     = {From high-dimensional \\& mean-field dynamics to dimensionless {ODE}s: A unifying
               approach to {SGD} in two-layers networks},
  booktitle = {Conference on Learning Theory},
  year      = {2023},
  eprint    = {2302.05882},
  archiveprefix = {arXiv},
}""",
    "arnaboldi_2023_mediocrity": """\
@misc{arnaboldi_2023_mediocrity,
  author = {Arnaboldi, Luca and Krzakala, Florent and Loureiro, Bruno and Stephan, Ludovic},
  title  = {Escaping mediocrity: how two-layer networks learn hard generalized linear models
            with {SGD}},
  year   = {2023},
  eprint = {2305.18502},
  archiveprefix = {arXiv},
}""",
    "arnaboldi_2024": """\
@inproceedings{arnaboldi_2024,
  author    = {Arnaboldi, Luca and Dandi, Yatin and Krzakala, Florent and Loureiro, Bruno
               and Pesce, Luca and Stephan, Ludovic},
  title     = {Online learning and information exponents: the importance of batch size and
               time/complexity tradeoffs},
  booktitle = {International Conference on Machine Learning},
  year      = {2024},
  eprint    = {2406.02157},
  archiveprefix = {arXiv},
}""",
    "arnaboldi_2024_repetita": """\
@misc{arnaboldi_2024_repetita,
  author = {Arnaboldi, Luca and Dandi, Yatin and Krzakala, Florent and Pesce, Luca
            and Stephan, Ludovic},
  title  = {Repetita iuvant: data repetition allows {SGD} to learn high-dimensional multi-index
            functions},
  year   = {2024},
  eprint = {2405.15459},
  archiveprefix = {arXiv},
}""",
    "dandi_2024_reusing": """\
@inproceedings{dandi_2024_reusing,
  author    = {Dandi, Yatin and Troiani, Emanuele and Arnaboldi, Luca and Pesce, Luca
               and Zdeborov{\\'a}, Lenka and Krzakala, Florent},
  title     = {The benefits of reusing batches for gradient descent in two-layer networks:
               Breaking the curse of information and leap exponents},
  booktitle = {International Conference on Machine Learning},
  year      = {2024},
  eprint    = {2402.03220},
  archiveprefix = {arXiv},
}""",
    "arnaboldi_2025": """\
@inproceedings{arnaboldi_2025,
  author    = {Arnaboldi, Luca and Loureiro, Bruno and Stephan, Ludovic and Krzakala, Florent
               and Zdeborov{\\'a}, Lenka},
  title     = {Asymptotics of {SGD} in sequence-single index models and single-layer attention
               networks},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2025},
  eprint    = {2506.02651},
  archiveprefix = {arXiv},
}""",
    "cugliandolo_kurchan_1993": """\
@article{cugliandolo_kurchan_1993,
  author  = {Cugliandolo, Leticia F. and Kurchan, Jorge},
  title   = {Analytical solution of the off-equilibrium dynamics of a long-range spin-glass model},
  journal = {Physical Review Letters},
  volume  = {71},
  number  = {1},
  pages   = {173--176},
  year    = {1993},
  doi     = {10.1103/PhysRevLett.71.173},
}""",
    "kim_latz_2001": """\
@article{kim_latz_2001,
  author  = {Kim, Bongsoo and Latz, Arnulf},
  title   = {The dynamics of the spherical p-spin model: from microscopic to asymptotic},
  journal = {Europhysics Letters},
  volume  = {53},
  number  = {5},
  pages   = {660--666},
  year    = {2001},
  doi     = {10.1209/epl/i2001-00202-4},
}""",
    "sompolinsky_1988": """\
@article{sompolinsky_1988,
  author  = {Sompolinsky, Haim and Crisanti, Andrea and Sommers, Hans-J{\\"u}rgen},
  title   = {Chaos in random neural networks},
  journal = {Physical Review Letters},
  volume  = {61},
  number  = {3},
  pages   = {259--262},
  year    = {1988},
  doi     = {10.1103/PhysRevLett.61.259},
}""",
    "eissfeller_opper_1992": """\
@article{eissfeller_opper_1992,
  author  = {Eissfeller, H. and Opper, M.},
  title   = {New method for studying the dynamics of disordered spin systems without
             finite-size effects},
  journal = {Physical Review Letters},
  volume  = {68},
  pages   = {2094--2097},
  year    = {1992},
  doi     = {10.1103/PhysRevLett.68.2094},
}""",
    "roy_2019": """\
@article{roy_2019,
  author  = {Roy, F. and Biroli, G. and Bunin, G. and Cammarota, C.},
  title   = {Numerical implementation of dynamical mean field theory for disordered
             systems: application to the {Lotka--Volterra} model of ecosystems},
  journal = {Journal of Physics A: Mathematical and Theoretical},
  volume  = {52},
  pages   = {484001},
  year    = {2019},
  doi     = {10.1088/1751-8121/ab1f32},
}""",
    "bunin_2017": """\
@article{bunin_2017,
  author  = {Bunin, Guy},
  title   = {Ecological communities with {Lotka-Volterra} dynamics},
  journal = {Physical Review E},
  volume  = {95},
  pages   = {042414},
  year    = {2017},
  doi     = {10.1103/PhysRevE.95.042414},
}""",
    "opper_diederich_1992": """\
@article{opper_diederich_1992,
  author  = {Opper, Manfred and Diederich, Sigurd},
  title   = {Phase transition and 1/f noise in a game dynamical model},
  journal = {Physical Review Letters},
  volume  = {69},
  pages   = {1616--1619},
  year    = {1992},
  doi     = {10.1103/PhysRevLett.69.1616},
}""",
    "mastrogiuseppe_ostojic_2018": """\
@article{mastrogiuseppe_ostojic_2018,
  author  = {Mastrogiuseppe, Francesca and Ostojic, Srdjan},
  title   = {Linking connectivity, dynamics, and computations in low-rank recurrent neural
             networks},
  journal = {Neuron},
  volume  = {99},
  pages   = {609--623},
  year    = {2018},
  doi     = {10.1016/j.neuron.2018.07.003},
}""",
    "rajan_2010": """\
@article{rajan_2010,
  author  = {Rajan, Kanaka and Abbott, L. F. and Sompolinsky, Haim},
  title   = {Stimulus-dependent suppression of chaos in recurrent neural networks},
  journal = {Physical Review E},
  volume  = {82},
  pages   = {011903},
  year    = {2010},
  doi     = {10.1103/PhysRevE.82.011903},
}""",
    "schuecker_2018": """\
@article{schuecker_2018,
  author  = {Schuecker, Jannis and Goedeke, Sven and Helias, Moritz},
  title   = {Optimal sequence memory in driven random networks},
  journal = {Physical Review X},
  volume  = {8},
  pages   = {041029},
  year    = {2018},
  doi     = {10.1103/PhysRevX.8.041029},
}""",
    "molgedey_1992": """\
@article{molgedey_1992,
  author  = {Molgedey, L. and Schuchhardt, J. and Schuster, H. G.},
  title   = {Suppressing chaos in neural networks by noise},
  journal = {Physical Review Letters},
  volume  = {69},
  pages   = {3717--3719},
  year    = {1992},
  doi     = {10.1103/PhysRevLett.69.3717},
}""",
    "poole_2016": """\
@inproceedings{poole_2016,
  author    = {Poole, Ben and Lahiri, Subhaneel and Raghu, Maithra and Sohl-Dickstein,
               Jascha and Ganguli, Surya},
  title     = {Exponential expressivity in deep neural networks through transient chaos},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {29},
  year      = {2016},
  eprint    = {1606.05340},
  archiveprefix = {arXiv},
}""",
    "schoenholz_2017": """\
@inproceedings{schoenholz_2017,
  author    = {Schoenholz, Samuel S. and Gilmer, Justin and Ganguli, Surya and Sohl-
               Dickstein, Jascha},
  title     = {Deep information propagation},
  booktitle = {International Conference on Learning Representations},
  year      = {2017},
  eprint    = {1611.01232},
  archiveprefix = {arXiv},
}""",
}


def bibtex(*keys: str) -> str:
    """Return the BibTeX entries of these keys; of all when none is given."""
    unknown = [key for key in keys if key not in ENTRIES]
    if unknown:
        raise BadParameter(f"no entry {unknown[0]!r}; there are {', '.join(ENTRIES)}")
    return "\n\n".join(ENTRIES[key] for key in keys or ENTRIES)
