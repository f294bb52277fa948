"""The kit as an MCP server, with the official SDK: pip install 'callboard[mcp]'."""

from __future__ import annotations

import socket
from importlib.metadata import version
from typing import Any

import uvicorn
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)

from callboard._async.supervisors import AsyncSupervisorTools
from callboard.kit.definition import ToolDefinition, Verb

PATH = "/mcp"
"""Where the server is, over HTTP."""

_ANNOTATIONS = {
    Verb.LAUNCH: ToolAnnotations(destructive_hint=False),
    Verb.CHECK: ToolAnnotations(read_only_hint=True),
    Verb.UPDATE: ToolAnnotations(destructive_hint=False),
    Verb.CANCEL: ToolAnnotations(destructive_hint=True, idempotent_hint=True),
    Verb.LIST: ToolAnnotations(read_only_hint=True),
}


def make_server(tools: AsyncSupervisorTools) -> Server[Any]:
    """Makes an MCP server that offers the tools, with their prompt as its instructions."""

    async def list_tools(
        ctx: ServerRequestContext[Any], params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return ListToolsResult(tools=[_to_tool(each) for each in tools.definitions])

    async def call_tool(
        ctx: ServerRequestContext[Any], params: CallToolRequestParams
    ) -> CallToolResult:
        answer = await tools.call(params.name, params.arguments)
        return CallToolResult(content=[TextContent(text=str(answer))], is_error=answer.is_error)

    return Server(
        "callboard",
        version=version("callboard"),
        instructions=tools.prompt,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


async def serve_pipes(tools: AsyncSupervisorTools) -> None:
    """Serves over standard input and output until the input ends."""
    server = make_server(tools)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


async def serve_http(tools: AsyncSupervisorTools, listener: socket.socket) -> None:
    """Serves streamable HTTP until the process is told to stop."""
    # The name of the address matters: on loopback, pages of other sites are kept out.
    app = make_server(tools).streamable_http_app(
        streamable_http_path=PATH, host=listener.getsockname()[0]
    )
    await uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener])


def _to_tool(definition: ToolDefinition) -> Tool:
    return Tool(
        name=definition.name,
        description=definition.description,
        input_schema=definition.schema,
        annotations=_ANNOTATIONS[definition.verb],
    )
