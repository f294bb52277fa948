"""The asynchronous client. The synchronous one, callboard/_sync, is generated from it."""
