"""What is trained: gray images in, logits per label out.

A network knows nothing of data, training, adapters, or quantization.
"""
