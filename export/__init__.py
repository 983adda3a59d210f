"""``model.ckpt`` in, one verified ONNX file out."""
