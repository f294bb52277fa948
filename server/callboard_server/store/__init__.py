"""Where sessions are kept: one interface, several stores behind it."""
