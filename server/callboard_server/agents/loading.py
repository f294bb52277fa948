"""Makes the agents that a configuration describes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from callboard_server.agents.chat import ChatAgent
from callboard_server.agents.chat_config import Unfit
from callboard_server.agents.entrypoints import load_object
from callboard_server.agents.registry import AgentSpec, Registry, checked, make_spec, place_of
from callboard_server.agents.sources import ToolSource
from callboard_server.agents.tools import Tool, client_tool, tool
from callboard_server.agents.workspace import workspace_tools
from callboard_server.config import (
    AgentSettings,
    ConfigError,
    McpSettings,
    ServerConfig,
    WorkspaceSettings,
)
from callboard_server.models.base import ModelSpecError
from callboard_server.models.opening import Models

if TYPE_CHECKING:
    from callboard_server.agents.mcp import McpServer


def load(config: ServerConfig, base: Path) -> Registry:
    """Makes the agents of a configuration.

    Args:
        config: The configuration.
        base: Its folder.

    Raises:
        ConfigError: An agent cannot be made; the message names the key and the reason.
    """
    base = base.resolve()
    servers = {name: _load_server(name, settings, base) for name, settings in config.mcp.items()}
    models = Models(config.providers, config.prices, base)
    agents = (
        _load_agent(name, settings, base, servers, models)
        for name, settings in config.agents.items()
    )
    return Registry(agents, models)


def _load_server(name: str, settings: McpSettings, base: Path) -> McpServer:
    try:
        # Its package is an extra, and takes a second to import.
        from callboard_server.agents.mcp import McpServer
    except ModuleNotFoundError as error:
        if error.name not in ("mcp", "mcp_types", "httpx2"):
            raise
        reason = 'needs the package mcp: pip install "callboard[mcp]"'
        raise ConfigError(f"[mcp.{name}] {reason}") from error
    try:
        return McpServer(name, settings, base)
    except ConfigError as error:
        raise ConfigError(f"[mcp.{name}] {error}") from error


def _load_agent(
    name: str,
    settings: AgentSettings,
    base: Path,
    servers: Mapping[str, McpServer],
    models: Models,
) -> AgentSpec:
    table = f"[agents.{name}]"
    if settings.entrypoint is None:
        chat = _make_chat_agent(name, settings, base, servers)
        return checked(_with_settings(make_spec(name, chat, models), settings), table)
    key = f"{table} entrypoint"
    agent = _load(settings.entrypoint, base, key)
    try:
        spec = _with_settings(make_spec(name, agent, models), settings)
    except TypeError as error:
        reason = f"{place_of(agent)}{error}"
        raise ConfigError(f'{key} "{settings.entrypoint}": {reason}') from error
    return checked(spec, table)


def _make_chat_agent(
    name: str, settings: AgentSettings, base: Path, servers: Mapping[str, McpServer]
) -> ChatAgent:
    tools = [_load_tool(f"[agents.{name}] tools", written, base) for written in settings.tools]
    if settings.workspace is not None:
        tools += _make_workspace_tools(f"[agents.{name}.workspace]", settings.workspace)
    try:
        for it in settings.client_tools:
            tools.append(client_tool(it.name, it.description, it.parameters))
        return ChatAgent(
            settings.model or "",
            settings.system,
            tools,
            settings.max_turns,
            base,
            _pick_sources(f"[agents.{name}] mcp", settings.mcp, servers),
            callable_assistants=settings.callable_assistants,
            others=settings.others,
            tool_policy=settings.tool_policy,
            output_schema=settings.output_schema,
            max_total_tokens=settings.max_total_tokens,
            max_cost=settings.max_cost,
            max_output_tokens=settings.max_output_tokens,
            effort=settings.effort,
            model_attempts=settings.model_attempts,
            compact_at=settings.compact_at,
        )
    except ModelSpecError as error:
        raise ConfigError(f"[agents.{name}] model: {error}") from error
    except Unfit as error:
        raise ConfigError(f"[agents.{name}] {error}") from error
    except ValueError as error:
        raise ConfigError(f"[agents.{name}] tools: {error}") from error


def _make_workspace_tools(key: str, settings: WorkspaceSettings) -> list[Tool]:
    try:
        return workspace_tools(**settings.model_dump())
    except ConfigError as error:
        raise ConfigError(f"{key} {error}") from error


def _pick_sources(
    key: str, entries: Sequence[str], servers: Mapping[str, McpServer]
) -> list[ToolSource]:
    """Returns whole servers where they are named alone, else what is named of them."""
    wanted: dict[str, list[str]] = {}
    for entry in entries:
        server, _, name = entry.partition(":")
        wanted.setdefault(server, []).append(name)
    return [
        servers[server] if "" in names else servers[server].pick(names, key)
        for server, names in wanted.items()
    ]


def _load_tool(key: str, written: str, base: Path) -> Tool:
    found = _load(written, base, key)
    if isinstance(found, Tool):
        return found
    if not inspect.isroutine(found):
        raise ConfigError(f'{key} "{written}": is {type(found).__name__}, not a function')
    try:
        return tool(found)
    except TypeError as error:
        raise ConfigError(f'{key} "{written}": {place_of(found)}{error}') from error


def _load(entrypoint: str, base: Path, key: str) -> object:
    try:
        return load_object(entrypoint, base)
    except ConfigError as error:
        raise ConfigError(f'{key} "{entrypoint}": {error}') from error


def _with_settings(spec: AgentSpec, settings: AgentSettings) -> AgentSpec:
    return replace(
        spec,
        description=settings.description or spec.description,
        timeout=settings.timeout,
        concurrency=settings.concurrency,
        max_attempts=settings.max_attempts,
        retry_pause=settings.retry_pause,
    )
