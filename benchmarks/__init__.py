"""Measures Callboard side by side with a bare gRPC server: `python -m benchmarks`."""
