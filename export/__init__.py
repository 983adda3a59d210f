"""``model.ckpt`` in, one verified ONNX file out."""

# Before any module here imports ONNX Runtime: it is kept from reporting its use.
import cxrseg.runtime  # noqa: F401
