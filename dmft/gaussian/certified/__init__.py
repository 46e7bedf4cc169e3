"""Enclosures of Gaussian expectations in ball arithmetic (extra `certify`: python-flint).

Nothing here uses the table of closed forms: it is the judge of that table.
"""
