"""Hostile input: bad command lines, configurations, data and damaged files, and what the command makes of them.

    python -m tests.hostile                      everything, by kind
    python -m tests.hostile --only=NAME          the inputs whose name contains NAME, with what was printed

Inputs come from generators, one file per kind. Each is tried in a directory of its own, in processes that try many.
"""
