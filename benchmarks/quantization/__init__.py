"""Checkpoints and model files come in: parameters, bytes, rounding errors and ranks go out.

Counts are of real tensors and files, the paper's arithmetic beside them.
"""
