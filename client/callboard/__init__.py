"""Callboard: the client SDK."""
