"""The supervisor's kit: the one definition of the tools by which a model hands work to agents.

`Kit` says what the tools are called, what a model reads about them, what arguments they take and in
which words they answer. Who carries them out gives it a face: `callboard.AsyncSupervisorTools` and
`callboard.SupervisorTools` for programs, `callboard mcp` for MCP, and the server for its own chat
agents.
"""

from callboard.kit.answers import ToolAnswer
from callboard.kit.arguments import Refused
from callboard.kit.definition import Kit, ToolDefinition, Verb
from callboard.kit.dialects import NamesName

__all__ = ["Kit", "NamesName", "Refused", "ToolAnswer", "ToolDefinition", "Verb"]
