"""X-rays and masks in, ``model.ckpt`` out: SAM, AdaLoRA, quantization-aware training.

Imports point one way: old_names, networks < adapt < recipe < data < fit < cli.
"""
