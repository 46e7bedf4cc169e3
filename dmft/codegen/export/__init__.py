"""Equations of motion as files that stand alone: Python, C, JavaScript, JAX, notebooks.

The lowered nodes are walked once (`program`) into loops of plain numeric Python, the language that
`dmft.special` is written in too; one printer for each language reads that (`python`, `c`,
`javascript`, `jax`), and the special functions that the loops call are taken from their source
(`library`).
"""
