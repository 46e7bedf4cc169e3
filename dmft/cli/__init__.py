"""Floor 7: the command `dmft`, the TOML reader and the whitelist parser of formulas."""
