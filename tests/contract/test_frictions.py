"""What once stood in a theorist's way (issue 16, section 3), and the tests that keep it away.

A table to read; the test below sees that each of these tests is still there.
"""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
RECORDS = "display/test_records_on_the_desk.py"
NOTEBOOK = "display/test_the_desk_notebook.py"
PAPER = "display/test_figures_on_paper.py"
EVENTS = "workflow/test_events_on_expressions.py"
SOLUTIONS = "workflow/test_solutions.py"
SYMBOLS = "equations/test_symbols_by_name.py"
NAMES = "contract/test_names_are_found.py"
FILES = "cli/test_everything_in_files.py"
INPUTS = "cli/test_inputs_of_files.py"
PROGRESS = "test_progress_reports.py"

FRICTIONS = {
    # Notebooks and terminals
    "reprs of many lines; records shown as plain text": [
        (RECORDS, "test_records_show_themselves"),
        (RECORDS, "test_every_public_class_has_a_record_here"),
        (RECORDS, "test_a_line_holds_whatever_the_record_does"),
    ],
    "models and algorithms are shown as objects": [
        (RECORDS, "test_a_model_is_shown_as_its_declaration"),
    ],
    "bars: nothing in notebooks, noise in logs": [
        (PROGRESS, "test_a_bar_after_two_seconds"),
        (PROGRESS, "test_switched_off_or_not_a_terminal_shows_nothing"),
        (PROGRESS, "test_notebooks_have_bars_and_logs_in_which_kernels_are_loaded_have_none"),
        (NOTEBOOK, "test_bars_are_shown"),
        (NOTEBOOK, "test_opened_in_a_browser"),
    ],
    "outputs of hundreds of lines": [(NOTEBOOK, "test_fifteen_cells_without_an_error")],
    # Runs
    "what was reached is no start": [
        (SOLUTIONS, "test_what_was_reached_is_a_start"),
        (EVENTS, "test_what_was_reached_starts_again_at_zero"),
    ],
    "events on the risk alone": [
        (EVENTS, "test_the_same_quantity_in_eight_spellings"),
        (EVENTS, "test_symbols_of_explicit_are_those_of_events"),
        (EVENTS, "test_an_event_at_a_time"),
        (EVENTS, "test_every_integrator"),
    ],
    "a parser for events makes solvers know SymPy": [("test_architecture.py", "test_bans")],
    "schedules and events differ between solve, stages and simulate": [
        (EVENTS, "test_maps_paths_and_stages_take_the_same_event"),
        (EVENTS, "test_simulations_take_the_event_of_flows"),
        (EVENTS, "test_functions_of_numpy_are_followed_in_simulations"),
        (EVENTS, "test_schedules_are_expressions_texts_or_functions_everywhere"),
    ],
    "no tables for pandas": [
        (SOLUTIONS, "test_tables_have_the_time_as_index_and_a_column_for_each_entry"),
    ],
    "save wrote HDF5 into .csv": [(SOLUTIONS, "test_suffixes_of_other_formats_are_refused")],
    # SymPy
    "subs by name did nothing": [
        (SYMBOLS, "test_values_by_name_or_by_any_symbol_of_that_name"),
        (SYMBOLS, "test_parameters_of_a_risk_and_of_equations_by_name"),
        (SYMBOLS, "test_names_go_on_to_work_after_values"),
        (SYMBOLS, "test_values_as_sympy_takes_them"),
    ],
    "risk.explicit() wants widths, has no symbols and no P": [
        (
            SYMBOLS,
            "test_the_explicit_risk_has_the_widths_of_the_model_and_the_symbols_of_the_equations",
        ),
        (SYMBOLS, "test_the_risk_of_a_sequence_takes_values_by_name"),
        (SYMBOLS, "test_teacher_overlaps_of_the_explicit_risk_are_those_of_vectors"),
        (SYMBOLS, "test_sympy_takes_the_explicit_risk_for_an_expression"),
    ],
    "the size limit of explicit says nothing of a way out": [
        (SYMBOLS, "test_the_limit_of_explicit_says_what_to_do"),
    ],
    "explicit(2, 2) takes as long the second time": [
        (SYMBOLS, "test_writing_out_again_is_at_once"),
    ],
    # Figures
    "lines of a figure mean several things": [
        (PAPER, "test_colours_are_teachers_and_line_styles_are_runs")
    ],
    "runs of a figure look alike": [(PAPER, "test_runs_are_told_apart")],
    "legends on curves, labels cut at column width": [(PAPER, "test_nothing_is_cut_or_covered")],
    "labels cut in axes of the user": [(PAPER, "test_axes_of_the_user_have_room")],
    "cmap, norm and levels were taken from nobody": [
        (PAPER, "test_colours_of_the_caller_reach_the_picture"),
    ],
    "two diagrams beside each other shared bar and legend": [
        (PAPER, "test_two_diagrams_beside_each_other"),
        (PAPER, "test_bars_stand_beside_their_own_axes"),
        (PAPER, "test_labels_that_were_broken_become_whole_again"),
    ],
    "coarse shading contradicts the curves over it": [
        (PAPER, "test_a_boundary_shades_no_cell"),
        (PAPER, "test_regions_end_at_their_curves"),
    ],
    "regimes are not readable": [
        (PAPER, "test_nothing_is_cut_or_covered"),
        (PAPER, "test_limits_are_written_where_the_plane_has_room"),
    ],
    "figures taller than a page": [(PAPER, "test_nothing_is_cut_or_covered")],
    "no style for print": [(PAPER, "test_the_style_is_found_by_its_name")],
    # Discoverability
    "dir and help of thousands of lines": [
        (NAMES, "test_dir_is_what_is_public"),
        (NAMES, "test_help_is_a_page"),
        (NAMES, "test_the_page_of_the_package_has_every_name_once"),
    ],
    "names of the field are not found": [
        (NAMES, "test_names_of_the_field_are_refused_with_ours"),
        (NAMES, "test_unknown_keywords_point_to_who_has_them"),
    ],
    "methods without an example, objects without Parameters and Returns": [
        ("contract/test_docstrings.py", "test_a_public_object_is_documented"),
        ("test_examples.py", "test_docstrings"),
    ],
    # Files
    "files declare less than the API": [
        (FILES, "test_sequences_attention_and_positions"),
        (FILES, "test_clusters_write_the_labels"),
        (FILES, "test_repeats"),
        (FILES, "test_losses_are_names_or_formulas"),
        (FILES, "test_each_algorithm_and_each_of_its_numbers_has_a_key"),
        (FILES, "test_optimisers_and_losses_by_name"),
        (FILES, "test_a_memory_that_lasts_is_a_table"),
        (FILES, "test_flipped_labels_and_schedules_of_controls"),
        (INPUTS, "test_spectra_are_those_of_the_file"),
        (INPUTS, "test_a_rate_may_be_a_table"),
        (FILES, "test_events_and_schedules_are_those_of_the_api"),
    ],
    "messages of files in words of the code": [
        (FILES, "test_messages_are_in_the_words_of_the_file"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("friction", FRICTIONS)
def test_a_friction_has_its_tests(friction):
    for path, name in FRICTIONS[friction]:
        tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
        there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in there, f"{path} has no {name}, which kept away: {friction}"


def test_every_figure_test_stands_in_the_table():
    """A friction that gets a test there gets a line here."""
    tree = ast.parse((TESTS / PAPER).read_text(encoding="utf-8"))
    there = {n.name for n in tree.body if isinstance(n, ast.FunctionDef) and "test" in n.name}
    held = {name for tests in FRICTIONS.values() for path, name in tests if path == PAPER}
    helpers = {
        "test_widths_that_are_none", "test_a_width_is_of_a_new_figure",
        "test_mathematics_is_not_broken", "test_figures_with_legends_are_pickled",
        "test_widths_of_figures_are_no_widths_of_lines",
    }  # fmt: skip
    assert there - helpers == held
