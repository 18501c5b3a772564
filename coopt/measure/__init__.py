"""Builds transformer blocks from `Model` and `Layout`, compiles them for a target, and times them.

The room never sees what its figures are compared with. Its door is `coopt.measure.job:run_job`: a JSON job in, a
JSON measurement out, also as `python -m coopt.measure`.
"""
