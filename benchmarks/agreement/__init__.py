"""A model file and X-rays come in; shares of equal pixels go out.

The same network runs on other execution providers, in PyTorch and on emulated CPUs.
"""
