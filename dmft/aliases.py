"""What others call the same: names and keywords of the field, and what they are called here.

Floor 0: text alone, read when a name was not found.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Lower case and without underscores -> what there is.
NAMES: dict[str, str] = {
    name.replace("_", ""): words
    for names, words in (
        ("generalization_error generalisation_error test_error test_loss population_loss "
         "excess_risk gen_error eps_g risk loss mse", "dmft.population_risk(model)"),
        ("order_parameters order_parameter macroscopic_state summary_statistics initial_condition "
         "init overlap q r t m p", "dmft.Overlaps(Q, M, P); random ones: dmft.random_overlaps"),
        ("learning_curve learning_curves dynamics integrate odeint solve_ivp evolve train fit "
         "trajectory_of", "dmft.solve(equations, start, t_max)"),
        ("teacher_student teacher student problem_setup", "dmft.Model(student, teacher)"),
        ("soft_committee_machine committee_machine scm two_layer two_layer_network mlp network "
         "perceptron neuron", "dmft.Committee(activation, width)"),
        ("single_index single_index_model generalized_linear_model glm target polynomial_target",
         "dmft.MultiIndex(expr, fields); one unit: dmft.Committee(activation, width=1)"),
        ("equations_of_motion ode odes flow_equations saad_solla_equations dynamical_equations",
         "dmft.derive(model, algorithm)"),
        ("online_sgd onlinesgd one_pass_sgd stochastic_gradient_descent online_learning optimizer "
         "optimiser", "dmft.SGD(learning_rate)"),
        ("gd full_batch batch_gradient_descent multi_pass_sgd langevin erm_dynamics "
         "dynamical_mean_field_theory dmft_equations",
         "dmft.GradientDescent(learning_rate, samples_per_dim)"),
        ("gf", "dmft.GradientFlow()"),
        ("leap complexity leap_complexity leap_index", "dmft.leap_exponent(g, fields)"),
        ("ie hermite_rank information_index", "dmft.information_exponent(f, fields)"),
        ("hardness", "dmft.learnability(target, fields)"),
        ("hermite_coefficients hermite_coefficient", "dmft.hermite_expansion(f, x, order)"),
        ("hermite_polynomial he hermite_poly", "dmft.hermite(n, x)"),
        ("gaussian_expectation gaussian_average expectation expect average gaussian_integral",
         "dmft.Gaussian(fields, cov).expect(expr)"),
        ("wick isserlis stein price stein_lemma price_theorem gaussian_law multivariate_normal",
         "dmft.Gaussian(fields, cov).expect(expr)"),
        ("mean_field mean_field_limit infinite_width wide_network flow_limit scalings",
         "dmft.regimes(model); dmft.derive(..., scaling=...)"),
        ("flow gradient_flow_equations", "dmft.GradientFlow()"),
        ("dmft field_theory cavity effective_process two_time_equations",
         "dmft.GradientDescent(learning_rate, samples_per_dim) of repeated data; dmft.TwoTime"),
        ("relu erf tanh gelu sigmoid softplus activation sign heaviside",
         "a SymPy expression of one symbol, as sympy.erf(z / sympy.sqrt(2)), sympy.Max(0, z)"),
        ("softmax", "dmft.Attention(length)"),
        ("nesterov", "dmft.Momentum(rate, direct), a value of SGD"),
        ("power_law neural_scaling marchenko_pastur",
         "dmft.Spectrum.power_law, .marchenko_pastur; dmft.scaling_law(equations)"),
        ("citation references bibliography bibtex", "dmft.cite(equations)"),
        ("basin basins basin_of_attraction", "dmft.phase_diagram, dmft.phases"),
        ("notation style mplstyle",
         'notation= of .latex(); for figures, the matplotlib style that dmft.plot names'),
        ("early_stopping", "dmft.Event(quantity, threshold)"),
        ("cosine_annealing exponential_decay",
         'dmft.solve(..., learning_rate="0.5/(1 + t)"): an expression of t and risk'),
        ("to_csv", "run.to_pandas().to_csv(path)"),
        ("resume checkpoint", "run.final is a start; dmft.sweep(..., store=...) resumes"),
        ("example examples tutorial help",
         "help(dmft), help(dmft.solve); files: the command `dmft example`"),
        ("gaussian_mixture_model gmm clusters", "dmft.GaussianMixture(means, labels, weights)"),
        ("experiment run_sgd monte_carlo numerics finite_size", "dmft.simulate(...)"),
        ("plateau plateau_length plateau_time exit_time first_passage_time", "dmft.escape_time"),
        ("phase_boundary critical_line transition_line", "dmft.boundary"),
        ("grid scan parameter_scan", "dmft.sweep, dmft.phase_diagram"),
        ("initialization random_initialization random_start random_init", "dmft.random_overlaps"),
        ("critical_points stationary_points equilibria", "dmft.fixed_points"),
        ("jacobian hessian linear_stability eigenvalues lyapunov", "dmft.stability"),
        ("critical_learning_rate optimal_learning_rate max_learning_rate eta_max",
         "dmft.maximal_learning_rate; dmft.escape_formula(...).optimal_learning_rate()"),
        ("transformer self_attention attention_model", "dmft.Attention(length)"),
        ("positional_semantic saad_solla phase_retrieval hermite_committee ridge_flow "
         "spherical_p_spin reusing_batches", "dmft.literature has the models of the papers"),
        ("learning_rate_schedule scheduler annealing",
         'dmft.solve(..., learning_rate="0.5/(1 + t)"): an expression of t and risk'),
        ("callback stopping_criterion threshold", "dmft.Event(quantity, threshold)"),
        ("save dump to_pandas to_xarray dataframe", "run.save(path), run.to_pandas()"),
        ("read open", "dmft.load(path)"),
        ("draw figure show", "dmft.plot(run)"),
        ("compile precompile", "dmft.warm(model, algorithm)"),
        ("sam", "dmft.SharpnessAware(rho), as SGD(repeat=...)"),
        ("extragradient", "dmft.Lookahead(rho), as SGD(repeat=...)"),
        ("batch_reuse multi_pass reuse", "dmft.Repeat(times), as SGD(repeat=...)"),
    )
    for name in names.split()
}  # fmt: skip
# Keyword -> who has it.
KEYWORDS: dict[str, str] = {
    name: words
    for names, words in (
        ("ridge l2 lambda_ lam lambd regularization regularisation",
         "dmft.GradientDescent(ridge=...) for repeated data; dmft.SGD(weight_decay=...)"),
        ("samples_per_dim alpha sample_complexity n_samples",
         "dmft.GradientDescent(samples_per_dim=...), n / d of repeated data"),
        ("temperature beta langevin", "dmft.GradientDescent(temperature=...)"),
        ("batch_fraction", "dmft.GradientDescent(batch=..., batch_fraction=...)"),
        ("logistic cross_entropy hinge",
         'loss=: a formula in f and y, as sympy.log(1 + sympy.exp(-y*f)); by name "squared", '
         '"correlation"'),
        ("loss", "dmft.SGD and dmft.GradientDescent have loss=: a name, or a formula in f and y"),
        ("covariance cov input_covariance sigma_x",
         "dmft.Model(..., inputs=dmft.Spectrum(...)); clusters: inputs=dmft.GaussianMixture(...)"),
        ("noise delta sigma noise_variance noise_std label_noise",
         "dmft.Model(..., label_noise=variance)"),
        ("label_flip flip_probability", "dmft.Model(..., label_flip=probability)"),
        ("lr eta gamma step_size stepsize learningrate learning_rate",
         "learning_rate= of dmft.SGD and dmft.GradientDescent, and of dmft.solve at run time"),
        ("n_b minibatch mini_batch", "batch_size= of the algorithm"),
        ("spherical normalized normalised on_sphere",
         'constraint="sphere" of the algorithm; normalised=True of dmft.random_overlaps'),
        ("hidden n_hidden hidden_units k p m units neurons", "width= of dmft.Committee"),
        ("d n dimension input_dim n_features", "dim= of derive, simulate and random_overlaps"),
        ("dt h step", "steps are chosen by rtol= and atol=; dt= is for equations of kind 'sde'"),
        ("t_end tmax tf t_final n_steps epochs steps", "t_max"),
        ("t_eval saveat times", "save_at="),
        ("n_seeds seeds replicas n_runs runs", "simulate(seeds=...); solve of an sde: paths="),
        ("nonlinearity act sigma_star sigma", "activation= of dmft.Committee"),
        ("readouts second_layer a v", "readout= of dmft.Committee"),
        ("train_readout learn_readout second_layer_rate", "readout_rate= of the algorithm"),
        ("q0 m0 start initial", "start: dmft.Overlaps(Q, M, P), the second argument of dmft.solve"),
        ("event stop callback", "events=dmft.Event(quantity, threshold)"),
        ("n_jobs workers num_threads", "threads="),
        ("verbose tqdm bar", "progress="),
    )
    for name in names.split()
}  # fmt: skip
# How alike a misspelt name is.
ALIKE = 0.75


def called_here(name: str, known: Iterable[str]) -> str:
    """What a public name that is none may mean, as the end of a message."""
    words = NAMES.get(name.lower().replace("_", ""))
    names = {one.lower(): one for one in known}
    if name.lower() in names:
        return f"; did you mean {names[name.lower()]!r}?"
    if words:
        return f": here it is {words}"
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=ALIKE)
    if close:
        return f"; did you mean {names[close[0]]!r}?"
    return f": {KEYWORDS[name.lower()]}" if name.lower() in KEYWORDS else ""


def whose(keyword: str, known: Iterable[str]) -> str:
    """Who has a keyword that is unknown where it was given, as the end of a message."""
    close = difflib.get_close_matches(keyword, list(known), n=1, cutoff=ALIKE)
    if close:
        return f"; did you mean {close[0]}="
    words = KEYWORDS.get(keyword) or KEYWORDS.get(keyword.lower())
    return f"; see {words}" if words else ""
