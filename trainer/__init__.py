"""X-rays and masks in, ``model.ckpt`` out: SAM, adaptive low-rank adapters, quantization-aware training."""
