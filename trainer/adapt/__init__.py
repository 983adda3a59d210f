"""How a network is adapted and quantized.

A network comes in and leaves, changed in place, with adapters or fake quantizers inside.
"""
