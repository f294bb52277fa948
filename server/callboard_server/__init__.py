"""The Callboard server, and what agents are written with.

from callboard_server import Context

async def greeter(ctx: Context) -> str:
return f"Hello, {await ctx.input()}!"
"""

from callboard_server.agents.chat import ChatAgent
from callboard_server.agents.context import Context
from callboard_server.agents.errors import AgentError, NoAnswer, ToolError
from callboard_server.agents.sync_context import SyncContext
from callboard_server.agents.tools import Tool, client_tool, tool
from callboard_server.agents.workspace import workspace_tools

__all__ = [
    "AgentError",
    "ChatAgent",
    "Context",
    "NoAnswer",
    "SyncContext",
    "Tool",
    "ToolError",
    "client_tool",
    "tool",
    "workspace_tools",
]
