# Generated from callboard/_async/__init__.py by `make protos`: do not edit.
"""The synchronous client. The synchronous one, callboard/_sync, is generated from it."""
