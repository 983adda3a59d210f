"""``model.ckpt`` in, one verified ONNX file out; and, to train on from such a file, the way back.

Arrows between rooms: ``graph`` uses nothing of export, ``verify`` uses ``graph``, ``pipeline`` and
``recover`` use both, ``cli`` uses these. Export uses the trainer's ``networks``, ``adapt`` and
``fit.checkpoint``, and the runtime's ``core``, ``readers`` and ``inference``.
"""

# Before any module here imports ONNX Runtime: it is kept from reporting its use.
import cxrseg.runtime  # noqa: F401
