"""What a user changes in derived equations: terms, parameters, comparison."""
