"""Names of the devices that a model can run on."""

from __future__ import annotations

PROVIDERS: dict[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
"""Device name -> ONNX Runtime's execution provider."""

AUTO = "auto"
"""The device name that takes the first of `AUTO_ORDER` that works."""

# TensorRT builds engines for minutes and OpenVINO gains little: they are taken only when named.
AUTO_ORDER = ("cuda", "directml", "coreml", "cpu")
"""Devices that ``auto`` tries, in order."""

DEVICES: tuple[str, ...] = (AUTO, *PROVIDERS)
"""Everything that ``--device`` accepts."""
