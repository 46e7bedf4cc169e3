"""Pages of records in notebooks: a table of facts, formulas, a small picture."""
