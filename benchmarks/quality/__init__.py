"""A model and images of known kind come in; how often its quality flags are raised goes out.

Also fits the reference that the flags need, and writes it into a model file.
"""
