"""MCP servers as sources of tools.

A server has one session, shared by all agents that use it. It is opened with the Callboard server,
and opened anew by the next use after it was lost. What a server offers is known from its first
answer on: until then runs that want it fail, from then on they begin with the list as it stands.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import json
import re
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from mcp import MCPError, StdioServerParameters
from mcp.types import (
    CONNECTION_CLOSED,
    INVALID_PARAMS,
    INVALID_REQUEST,
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from mcp.types import Tool as OfferedTool
from pydantic import ValidationError
from pydantic_core import to_json

from callboard_server.agents.environment import passed_on, variable
from callboard_server.agents.errors import AgentError, ToolError
from callboard_server.agents.mcp_connection import (
    Connection,
    ConnectionFailed,
    describe_problem,
    over_http,
    over_pipes,
)
from callboard_server.agents.tools import TOOL_NAME, Tool, cut
from callboard_server.config import ConfigError, McpSettings
from callboard_server.validation import suggest

if TYPE_CHECKING:
    from callboard_server.agents.context import Context

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class McpServer:
    """An MCP server: a source of all its tools.

    Args:
        name: Stands before the names of its tools: `name__tool`.
        settings: How to reach it.
        base: The folder that its working directory is named from.

    Raises:
        ConfigError: There is no such program or variable.
    """

    def __init__(self, name: str, settings: McpSettings, base: Path | None = None) -> None:
        self.name = name
        self._settings = settings
        self._reach = _Reach(settings, base or Path.cwd())
        self._offered: dict[str, Tool] | None = None
        """The tools by the server's own names; None until it has told them."""
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection | None] | None = None
        self._problem = "is not open"
        """Why there is no connection."""
        self._not_before = 0.0
        """When it may be tried again."""
        self._is_open = False

    @property
    def tools(self) -> Sequence[Tool]:
        return list((self._offered or {}).values())

    @property
    def offered(self) -> Mapping[str, Tool] | None:
        """The tools by the server's own names, once they are known."""
        return self._offered

    def pick(self, names: Sequence[str], key: str) -> McpTools:
        """Returns some of its tools as a source of their own; see `McpTools`."""
        return McpTools(self, names, key)

    async def open(self) -> None:
        self._is_open = True
        await self._connect()

    async def load(self) -> Sequence[Tool]:
        await self._connect()
        if self._offered is None:
            raise AgentError(f"The MCP server {self.name} {self._problem}.", retryable=True)
        return self.tools

    async def close(self) -> None:
        self._is_open, self._problem, self._not_before = False, "is closed", 0.0
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait((self._connecting,))
        if self._connection is not None:
            await self._connection.close()
        self._connection = self._connecting = None

    # The session

    async def _connect(self) -> Connection | None:
        """Returns the session, opened anew if it was lost; None where that fails."""
        if self._connection is not None and not self._connection.ended:
            return self._connection
        if self._connecting is None or self._connecting.done():
            if not self._is_open or asyncio.get_running_loop().time() < self._not_before:
                return None
            # All that want it wait for the same attempt, and none takes it along when it goes.
            self._connecting = asyncio.create_task(
                self._open_connection(), context=contextvars.Context()
            )
        return await asyncio.shield(self._connecting)

    async def _open_connection(self) -> Connection | None:
        if self._connection is not None:
            await self._connection.close()
        began = asyncio.get_running_loop().time()
        connection = self._connection = self._reach.connect(self._list)
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                await connection.open()
                tools = self._adopt(await connection.list_tools())
        except ConnectionFailed as error:
            self._problem = error.problem
        except TimeoutError:
            self._problem = f"did not answer within {self._settings.connect_timeout:g} s"
        except Exception as error:
            self._problem = describe_problem(error)
        else:
            self._offered = tools
            _log.info("mcp server is connected", server=self.name, tools=len(tools))
            return connection
        _log.error("mcp server cannot be used", server=self.name, problem=self._problem)
        await connection.close()
        # Runs that want it do not wait for it time and again if that takes long.
        now = asyncio.get_running_loop().time()
        self._not_before = now + (now - began)
        return None

    async def _list(self) -> None:
        """Takes note of the tools after a change."""
        connection = self._connection
        if connection is None or connection.ended:
            return
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                tools = self._adopt(await connection.list_tools())
        except Exception as error:
            # They are asked for again with the next connection.
            problem = describe_problem(error)
            _log.warning("mcp server does not tell its tools", server=self.name, problem=problem)
        else:
            self._offered = tools
            _log.info("mcp server has changed its tools", server=self.name, tools=len(tools))

    # The tools

    def _adopt(self, offered: Iterable[OfferedTool]) -> dict[str, Tool]:
        return {tool.name: self._make_tool(tool) for tool in offered}

    def _make_tool(self, offered: OfferedTool) -> Tool:
        hints = offered.annotations
        may_repeat = hints is not None and bool(hints.read_only_hint or hints.idempotent_hint)
        return Tool(
            name=tool_name(self.name, offered.name),
            description=offered.description or offered.title or "",
            parameters=offered.input_schema,
            call=partial(self._call, offered.name, may_repeat),
            idempotent=may_repeat,
            timeout=self._settings.timeout,
            check=_check_arguments,
        )

    async def _call(self, name: str, may_repeat: bool, arguments_json: str, ctx: Context) -> str:
        """Calls a tool, once more where the first call did nothing or may be repeated."""
        arguments = _read_arguments(arguments_json)
        try:
            return await self._call_once(name, arguments)
        except MCPError as error:
            refused = error.code == INVALID_REQUEST
            if not refused and not (may_repeat and error.code == CONNECTION_CLOSED):
                raise ToolError(self._explain(error)) from None
        try:
            return await self._call_once(name, arguments)
        except MCPError as error:
            raise ToolError(self._explain(error)) from None

    async def _call_once(self, name: str, arguments: dict[str, Any]) -> str:
        connection = await self._connect()
        if connection is None:
            raise ToolError(f"The MCP server {self.name} {self._problem}. Nothing was done.")
        try:
            result = await connection.client.call_tool(name, arguments)
        except MCPError as error:
            # What a session gets that its server has forgotten.
            if error.code == INVALID_REQUEST and self._settings.url and connection.is_legacy:
                connection.retire()
            raise
        except (RuntimeError, ValidationError):
            raise ToolError(
                f"The MCP server {self.name} answered, but not as it had declared. "
                "The tool may have had its effect."
            ) from None
        text = show_result(result)
        if result.is_error:
            raise ToolError(text)
        return text

    def _explain(self, error: MCPError) -> str:
        match error.code:
            case code if code == CONNECTION_CLOSED:
                return (
                    f"The connection to the MCP server {self.name} was lost while the tool ran. "
                    "Whether it had its effect is not known: find out before you call it again."
                )
            case code if code == INVALID_PARAMS:
                # The server's own words about the call, which the model can mend.
                return f"The MCP server {self.name} refused the call: {cut(error.message)}"
            case code:
                return f"The MCP server {self.name} refused the call with error {code}."


class McpTools:
    """Some of the tools of a server, for one agent.

    Args:
        server: The server, which other agents may share.
        names: The tools, as the server calls them.
        key: Where they are asked for, to say so if there is none of a name.
    """

    def __init__(self, server: McpServer, names: Sequence[str], key: str) -> None:
        self._server = server
        self._names = names
        self._key = key

    @property
    def tools(self) -> Sequence[Tool]:
        offered = self._server.offered or {}
        return [offered[name] for name in self._names if name in offered]

    async def open(self) -> None:
        await self._server.open()
        offered = self._server.offered
        for name in self._names:
            if offered is not None and name not in offered:
                raise ConfigError(
                    f"{self._key}: the MCP server {self._server.name} has no tool {name}; "
                    f"{suggest(name, list(offered))}"
                )

    async def load(self) -> Sequence[Tool]:
        await self._server.load()
        return self.tools

    async def close(self) -> None:
        await self._server.close()


class _Reach:
    """How a server is reached: everything that the environment says about it is looked up once.

    Raises:
        ConfigError: There is no such program or variable.
    """

    def __init__(self, settings: McpSettings, base: Path) -> None:
        self._url = settings.url
        self._headers = {header: variable(name) for header, name in settings.headers_env.items()}
        if settings.token_env is not None:
            self._headers["Authorization"] = f"Bearer {variable(settings.token_env)}"
        self._log_file = None if settings.log_file is None else Path(settings.log_file).absolute()
        if settings.command is not None:
            folder = base / (settings.cwd or ".")
            self._server = StdioServerParameters(
                command=_find_program(settings.command, folder),
                args=settings.args,
                env=passed_on(settings.pass_env) | settings.env,
                cwd=folder,
            )

    def connect(self, on_change: Callable[[], Awaitable[None]]) -> Connection:
        if self._url is None:
            transport = over_pipes(self._server, self._log_file)
        else:
            transport = over_http(self._url, self._headers)
        return Connection(transport, on_change)


def _find_program(command: str, folder: Path) -> str:
    """Returns the path of a program: from a folder where it is written as a path."""
    if not folder.is_dir():
        raise ConfigError(f"cwd: there is no folder {folder}")
    found = shutil.which(str(folder / command) if "/" in command else command)
    if found is None:
        raise ConfigError(f"command: there is no program {command}")
    return found


def tool_name(server: str, tool: str) -> str:
    """Returns the name under which a model sees a tool: always the same, whatever else there is.

    A name that providers would not take is mended, and told from others by a digest.
    """
    name = f"{server}__{tool}"
    if TOOL_NAME.fullmatch(name):
        return name
    digest = hashlib.sha256(tool.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:55]}_{digest}"


def _read_arguments(arguments_json: str) -> dict[str, Any]:
    try:
        arguments = json.loads(arguments_json or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise ToolError("The arguments are no JSON object.")
    return arguments


def _check_arguments(arguments_json: str) -> None:
    """Checks what no server would take; whether they fit the schema is for it to say."""
    _read_arguments(arguments_json)


def show_result(result: CallToolResult) -> str:
    """Returns a result as a model reads it: its text, and what stands for all that is none."""
    text = "\n".join(_show(block) for block in result.content)
    if not result.content and result.structured_content is not None:
        text = to_json(result.structured_content).decode()
    return cut(text) or "ok"


def _show(block: ContentBlock) -> str:
    match block:
        case TextContent():
            return block.text
        case ImageContent() | AudioContent():
            return _show_bytes(block.mime_type, block.data)
        case ResourceLink():
            about = f": {block.description}" if block.description else ""
            return f"[{block.title or block.name} at {block.uri}{about}]"
        case EmbeddedResource():
            return _show_resource(block.resource)


def _show_resource(resource: TextResourceContents | BlobResourceContents) -> str:
    if isinstance(resource, TextResourceContents):
        return f"[{resource.uri}]\n{resource.text}"
    return _show_bytes(f"{resource.uri}, {resource.mime_type or 'file'}", resource.blob)


def _show_bytes(kind: str, data: str) -> str:
    size = len(data.rstrip("=")) * 3 // 4
    return f"[{kind}, {size:,} bytes, which cannot be shown]"
