"""Measures Callboard beside a bare gRPC server and `langgraph dev`: `python -m benchmarks`."""
