"""benchmarks/quality."""
