"""X-rays and masks in, ``model.ckpt`` out: SAM, AdaLoRA, quantization-aware training."""
