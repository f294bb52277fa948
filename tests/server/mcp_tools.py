"""A server of tools for tests, made with the official SDK: mcp_tools.py pipes|PORT modern|legacy.

Over HTTP it prints its port, on the path /mcp.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from mcp import MCPError
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.types import (
    METHOD_NOT_FOUND,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ResourceLink,
    TextContent,
    TextResourceContents,
    ToolAnnotations,
)


async def before_2026(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Knows no way to begin but the handshake of the older protocols."""
    if ctx.method == "server/discover":
        raise MCPError(METHOD_NOT_FOUND, "Method not found")
    return await call_next(ctx)


is_legacy = "legacy" in sys.argv
server = MCPServer("tools", middleware=[before_2026] if is_legacy else [], log_level="CRITICAL")
READ_ONLY = ToolAnnotations(read_only_hint=True)


@server.tool(annotations=READ_ONLY)
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool(annotations=READ_ONLY)
def process_id() -> str:
    """Tell which process this is."""
    return str(os.getpid())


@server.tool(annotations=READ_ONLY)
def surroundings(names: list[str]) -> dict[str, str | None]:
    """Tell where this runs, and the values of environment variables."""
    return {"folder": str(Path.cwd()), **{name: os.environ.get(name) for name in names}}


@server.tool(annotations=READ_ONLY)
def headers(names: list[str], ctx: Context) -> dict[str, str | None]:
    """Tell headers of this request."""
    given = ctx.headers or {}
    return {name: given.get(name) for name in names}


@server.tool()
def fail() -> str:
    """Fail."""
    raise ValueError("the shelf is empty")


@server.tool(name="shop.sell")
def sell() -> str:
    """Have a name that providers do not take."""
    return "sold"


@server.tool()
async def wait(folder: str) -> str:
    """Wait for ever."""
    (Path(folder) / "begun").touch()
    try:
        await asyncio.Event().wait()
    finally:
        (Path(folder) / "cancelled").touch()
    return "never"


def _strike(marks: str) -> str:
    """Kill this process in the first call."""
    with Path(marks).open("a", encoding="utf-8") as file:
        file.write("struck\n")
    if len(Path(marks).read_text("utf-8").splitlines()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "still here"


server.add_tool(_strike, name="strike")
server.add_tool(_strike, name="strike_again", annotations=ToolAnnotations(idempotent_hint=True))


@server.tool(structured_output=False)
def show() -> Any:
    """Return a bit of everything."""
    link = ResourceLink(uri="file:///a.txt", name="a.txt", description="the first")
    page = TextResourceContents(uri="file:///b.txt", text="bee")
    disk = BlobResourceContents(uri="file:///c.bin", blob="AAAA")
    return CallToolResult(
        content=[
            TextContent(text="words"),
            Image(data=b"12345", format="png").to_image_content(),
            link,
            EmbeddedResource(resource=page),
            EmbeddedResource(resource=disk),
        ]
    )


@server.tool()
def structure() -> CallToolResult:
    """Return structured content and no other."""
    return CallToolResult(content=[], structured_content={"seats": [1, 2]})


@server.tool()
def long() -> str:
    """Return a long text."""
    return "x" * 300_000


@server.tool()
async def learn(name: str, ctx: Context) -> str:
    """Learn a new tool."""
    server.add_tool(lambda: name, name=name, structured_output=False)
    if is_legacy:
        await ctx.session.send_tool_list_changed()
    else:
        await ctx.notify_tools_changed()
    return "learned"


async def serve_pipes() -> None:
    if not is_legacy:
        return await server.run_stdio_async()
    async with stdio_server() as (read, write):
        await serve_loop(server._lowlevel_server, read, write, lifespan_state={})


async def serve_http(port: int) -> None:
    import uvicorn

    listener = socket.create_server(("127.0.0.1", port))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(server.streamable_http_app(), log_level="critical")
    await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    asyncio.run(serve_pipes() if sys.argv[1] == "pipes" else serve_http(int(sys.argv[1])))
