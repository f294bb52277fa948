"""Callboard: the server."""
