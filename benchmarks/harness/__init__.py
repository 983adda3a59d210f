"""Typed options come in, files of a result go out.

A benchmark is a function from its options to a `Result`; checks, printing, records and pictures are
the runner's.
"""
