"""The log: events, and what they come to. Pure: no I/O, no clock."""
