"""What runs: agents, the tools that they call, and the context that they see."""
