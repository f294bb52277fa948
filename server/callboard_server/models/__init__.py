"""Models: what answers in a chat agent."""
