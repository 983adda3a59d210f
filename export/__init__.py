"""``model.ckpt`` in, one verified ONNX file out; and, to train on from such a file, the way back.

Arrows point one way: ``graph``, ``verify``, ``reference``, then ``integer``, which puts a network
into INT8, ``pipeline``, which composes them, ``recover``, which goes back, and ``cli``. Each uses
those before it alone.
"""

# Before any module here imports ONNX Runtime: it is kept from reporting its use.
import cxrseg.runtime  # noqa: F401
