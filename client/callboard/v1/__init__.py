"""The callboard.v1 contract: stubs generated from protos/ by `make protos`."""
