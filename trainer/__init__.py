"""X-rays and masks in, ``model.ckpt`` out: SAM, AdaLoRA, quantization-aware training.

Imports point one way: networks < adapt < recipe < data < fit < cli.
"""
