"""``model.ckpt`` in, one verified ONNX file out; and, to train on from such a file, the way back.

Arrows point one way: ``graph`` uses nothing of export but itself, ``verify`` uses ``graph``,
``integer`` puts a network into INT8, ``pipeline`` composes these and ``reference``, ``recover``
goes back, and ``cli`` calls both.
"""

# Before any module here imports ONNX Runtime: it is kept from reporting its use.
import cxrseg.runtime  # noqa: F401
