"""A loaded checkpoint comes in: a trained network and its description.

A QDQ graph goes out: fused, traced, folded and stored as it will lie in the model file.
"""
