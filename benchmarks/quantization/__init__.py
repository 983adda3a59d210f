"""benchmarks/quantization."""
