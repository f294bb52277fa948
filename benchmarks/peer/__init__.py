"""`langgraph dev` as a side: at its best, in an environment of its own.

What is imported by side.py, graphs.py and turns.py is in that environment only, never in the
project's.
"""
