"""Rows of the tables that benchmarks print."""


def line(what, value, baseline="", ratio=""):
    print(f"{what:58s} {value:>14s} {baseline:>16s} {ratio:>9s}", flush=True)
