"""A written model file comes in, with the network that it was compiled from.

A proof goes out: what ONNX Runtime runs in integers, and on how many pixels the masks agree.
"""
