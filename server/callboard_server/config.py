"""The configuration: what `callboard.toml` says, checked and typed."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_before_validator_function

from callboard_server.log.events import EVENT_BYTES
from callboard_server.log.view import Others
from callboard_server.validation import describe_errors, suggest

_AGENT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
# Stands before the names of its tools, parted by two underscores.
_MCP_NAME = re.compile(r"(?=.{1,32}\Z)[A-Za-z][A-Za-z0-9-]*(_[A-Za-z0-9-]+)*")

_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_OF_ANY_AGENT = {
    *("description", "entrypoint", "model", "timeout"),
    *("concurrency", "max_attempts", "retry_pause"),
}
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(:-(?P<default>[^}]*))?\}")

OFFLINE = "offline"
"""The provider of models that are tables."""
BUILT_IN = ("anthropic", "openai")
"""The providers that are there without a table."""

Policy = Literal["allow", "ask", "deny"]
"""Whether a tool runs at once, only with a permission from outside, or never."""


class ConfigError(Exception):
    """The configuration is wrong; the message names the file, the key and what would be right."""


class _Section(BaseModel):
    """A table of the file. TOML has types of its own, so none is guessed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ServerSettings(_Section):
    """`[server]`: how the process listens and works."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 50_051
    """0 takes any port that is free."""
    insecure_bind: bool = False
    """Whether `host` may be an address that others reach: there is no authentication."""
    db: str = "callboard.db"
    """The SQLite file, named from the working directory."""
    slots: PositiveInt = 16
    """How many runs compute at the same time."""
    grace: NonNegativeFloat = 10.0
    """Seconds that a run gets to stop."""
    max_message_bytes: Annotated[int, Field(ge=4 * EVENT_BYTES)] = 4 * EVENT_BYTES
    """The least holds any job: its task, progress and result take up to an event each."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"

    @model_validator(mode="after")
    def _check_bind(self) -> ServerSettings:
        if not (self.insecure_bind or _is_loopback(self.host)):
            raise PydanticCustomError(
                "insecure_bind",
                "host {host} can be reached by others, and the server has no authentication; "
                "say insecure_bind = true if that is meant",
                {"host": self.host},
            )
        return self


class StoreSettings(_Section):
    """`[store]`: how safe a commit is."""

    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    """FULL outlasts a power cut, NORMAL a crash of the process."""


class SweepSettings(_Section):
    """`[sweep]`: how sessions go that have outlived their ttl."""

    interval: PositiveFloat = 60.0
    """Seconds from one look for them to the next."""
    archive_dir: str | None = None
    """The folder in which each is kept as a file, named from the working directory."""


class DelegationSettings(_Section):
    """`[delegation]`: how far work may be handed on."""

    depth: PositiveInt = 8
    """How many threads may stand below one another, under a root thread."""
    width: PositiveInt = 10_000
    """How many jobs of one thread may be under way at the same time."""


class WorkspaceSettings(_Section):
    """`[agents.NAME.workspace]`: what an agent may do in the workspace of its session."""

    tools: list[Literal["read", "search", "write", "run"]] = ["read", "search", "write", "run"]
    read_only: bool = False
    """Whether there is neither write nor run."""
    paths: list[str] = ["**"]
    """What may be read and written, as patterns from the workspace on."""
    timeout: PositiveFloat = 60.0
    """Seconds that a command may take."""
    pass_env: list[str] = []
    """Names of variables of this process that commands get, beside PATH and the like."""


def _fill_in(text: str) -> str:
    """Puts the values of environment variables in the places that name them."""

    def value_of(match: re.Match[str]) -> str:
        value = os.environ.get(match["name"]) or match["default"]
        if value is None:
            raise PydanticCustomError(
                "variable",
                "the environment variable {name} is not set; set it, or write {form}",
                {"name": match["name"], "form": f"${{{match['name']}:-VALUE}}"},
            )
        return value

    return _VARIABLE.sub(value_of, text)


FilledIn = Annotated[str, AfterValidator(_fill_in)]
"""Text of the file in which `${NAME}` or `${NAME:-DEFAULT}` stands for an environment variable."""


class McpSettings(_Section):
    """`[mcp.NAME]`: a server of tools, as a program to start or at an address."""

    command: str | None = None
    """The program; it speaks over its standard input and output."""
    args: list[str] = []
    env: dict[str, str] = {}
    """Variables that it gets beside PATH, HOME and the like. No place for secrets."""
    pass_env: list[str] = []
    """Names of variables of this process that it gets, too."""
    cwd: str | None = None
    """Its working directory, named from the folder of this file."""
    log_file: str | None = None
    """Where its standard error goes, named from the working directory."""
    url: FilledIn | None = None
    """Where it listens, over streamable HTTP."""
    token_env: str | None = None
    """The name of the variable that holds the bearer token for it."""
    headers_env: dict[str, str] = {}
    """Further headers for it, and the names of the variables that hold their values."""
    timeout: PositiveFloat = 60.0
    """Seconds that a call may take."""
    connect_timeout: PositiveFloat = 30.0
    """Seconds in which it must have told its tools."""

    @model_validator(mode="after")
    def _check_kind(self) -> McpSettings:
        if (self.command is None) == (self.url is None):
            raise PydanticCustomError("mcp_kind", "needs either command or url")
        of_a_command = {"args", "env", "pass_env", "cwd", "log_file"}
        of_an_address = {"token_env", "headers_env"}
        extra = self.model_fields_set & (of_a_command if self.command is None else of_an_address)
        if extra:
            raise PydanticCustomError(
                "mcp_kind",
                "{keys} belong to a {kind}",
                {"keys": ", ".join(sorted(extra)), "kind": "url" if self.command else "command"},
            )
        if self.url is not None and not _is_plain_url(self.url):
            raise PydanticCustomError(
                "mcp_url", "url must begin with http:// or https:// and hold no password"
            )
        return self


class ProviderSettings(_Section):
    """`[providers.NAME]`: where models are, and which key opens them."""

    kind: Literal["anthropic", "openai", "openai-chat"] | None = None
    """The API that it speaks; `anthropic` and `openai` do so by their names."""
    base_url: FilledIn | None = None
    """Its address; that of the vendor when left out."""
    api_key_env: str | None = None
    """The name of the variable that holds its key."""
    api_key_file: str | None = None
    """The file that holds its key, named from the folder of this file."""

    @model_validator(mode="after")
    def _check(self) -> ProviderSettings:
        if self.base_url is not None and not _is_plain_url(self.base_url):
            raise PydanticCustomError(
                "provider_url", "base_url must begin with http:// or https:// and hold no password"
            )
        if self.api_key_env is not None and self.api_key_file is not None:
            raise PydanticCustomError(
                "provider_key", "has its key from api_key_env or api_key_file, not from both"
            )
        return self


class WebhookSettings(_Section):
    """`[webhooks.NAME]`: where to tell of jobs that are over or need an answer."""

    url: FilledIn
    """Where it is sent to."""
    secret_env: str | None = None
    """The name of the variable that holds the secret that signs it."""
    secret_file: str | None = None
    """The file that holds it, named from the folder of this file."""
    timeout: PositiveFloat = 10.0
    """Seconds that an attempt may take."""
    retry_pause: PositiveFloat = 5.0
    """Seconds before the second attempt; twice as long before each further one, up to an hour."""
    max_attempts: PositiveInt | None = None
    """How often it is tried."""
    give_up_after: PositiveFloat = 3 * 24 * 3600.0
    """Seconds after which it is tried no more."""
    concurrency: PositiveInt = 4
    """How many are sent at the same time."""
    allow_private: bool = False
    """Whether it may go to addresses that are not public, and without TLS."""

    @model_validator(mode="after")
    def _check(self) -> WebhookSettings:
        if not _is_plain_url(self.url):
            raise PydanticCustomError(
                "webhook_url", "url must begin with https:// and hold no password"
            )
        if urlsplit(self.url).scheme != "https" and not self.allow_private:
            raise PydanticCustomError(
                "webhook_url",
                "url must begin with https://; http:// goes with allow_private = true alone",
            )
        if (self.secret_env is None) == (self.secret_file is None):
            raise PydanticCustomError(
                "webhook_secret",
                "needs its secret from secret_env or secret_file, from one of them",
            )
        return self


class PriceSettings(_Section):
    """`[prices."PROVIDER:MODEL"]`: what a million tokens cost, in whatever money."""

    input: NonNegativeFloat
    """Read, and not from the provider's cache."""
    output: NonNegativeFloat
    """Written, reasoning included."""
    cached_input: NonNegativeFloat | None = None
    """Read from the provider's cache; as `input` when left out."""
    cache_write: NonNegativeFloat | None = None
    """Read, and written to the provider's cache; as `input` when left out."""


class ClientToolSettings(_Section):
    """`[[agents.NAME.client_tools]]`: a tool that a client runs."""

    name: str
    description: str
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object"})
    """JSON Schema of the arguments, which are one object."""


class CallableAssistant(_Section):
    """`[[agents.NAME.callable_assistants]]`: whom a chat agent may call, and how."""

    id: Annotated[str, Field(min_length=1)]
    """The name of an agent, or the id of an assistant."""
    version: PositiveInt | None = None
    """The version of the assistant; the current one when left out."""
    mode: Literal["async", "sync"] = "async"
    """Whether it works in the background, or is waited for."""
    context: Literal["isolated", "fork"] = "isolated"
    """Whether it begins with the task alone, or with the conversation before it."""
    description: str = ""
    """What it does, for the model; what the assistant or agent says of itself when left out."""


class _OrId:
    """Lets an id stand for the table that has nothing else."""

    def __get_pydantic_core_schema__(
        self, source: type[CallableAssistant], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return no_info_before_validator_function(_spelt_out, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [handler(schema), {"type": "string", "minLength": 1}]}


def _spelt_out(written: object) -> object:
    if isinstance(written, str):
        return {"id": written}
    if not isinstance(written, dict | CallableAssistant):
        raise PydanticCustomError("callable_assistants", "must be a name, or a table with an id")
    return written


def _check_twice(entries: list[CallableAssistant]) -> list[CallableAssistant]:
    """Refuses entries that differ in words only."""
    ways = [(entry.id, entry.version, entry.mode) for entry in entries]
    for way in ways:
        if ways.count(way) > 1:
            raise PydanticCustomError(
                "callable_assistants", "{id} is named twice for the same mode", {"id": way[0]}
            )
    return entries


CallableAssistants = Annotated[
    list[Annotated[CallableAssistant, _OrId()]], AfterValidator(_check_twice)
]


class AgentSettings(_Section):
    """`[agents.NAME]`: an entrypoint in code, or a chat agent without any."""

    description: str = ""
    entrypoint: str | None = None
    """`file.py:object`, named from the folder of this file, or `package.module:object`."""
    model: FilledIn | None = None
    """`PROVIDER:MODEL`, or `offline:TABLE.toml`."""
    system: str = ""
    tools: list[str] = []
    """Functions, written like an entrypoint."""
    client_tools: list[ClientToolSettings] = []
    """Tools that a client runs."""
    mcp: list[str] = []
    """Servers of `[mcp]` whose tools it has, or `SERVER:TOOL` for single ones."""
    workspace: WorkspaceSettings | None = None
    """Tools for the session's workspace; none when left out."""
    callable_assistants: CallableAssistants | None = None
    """Whom it may call, and its assistants at most: it gets the tools for that."""
    others: Others = "final"
    """What it sees of other agents' runs: their last answers, or all turns with their tools."""
    tool_policy: dict[str, Policy] = {}
    """By the name of a tool, what holds instead of the policy that its code has."""
    output_schema: dict[str, Any] | None = None
    """JSON Schema that the final answer must fit."""
    max_turns: PositiveInt = 50
    """How often a run may call its model."""
    max_total_tokens: PositiveInt | None = None
    """After how many tokens, read and written, a run calls its model no more."""
    max_cost: PositiveFloat | None = None
    """After which cost a run calls its model no more; needs a price of the model."""
    max_output_tokens: PositiveInt | None = None
    """How long an answer may be; what the model says when left out."""
    effort: str = ""
    """How hard the model shall think, in the provider's own words."""
    model_attempts: PositiveInt = 5
    """How often a model call is tried that fails for a reason that may pass."""
    compact_at: PositiveInt | None = None
    """At how many tokens a conversation is too long, so that its older part is summarised; only
    when the model's provider says so when left out."""
    timeout: PositiveFloat | None = None
    """Seconds that a run may be RUNNING in all, where its request does not say."""
    concurrency: PositiveInt | None = None
    """How many runs of one of its assistants compute at the same time."""
    max_attempts: PositiveInt = 3
    """How often a run is tried that fails unexpectedly."""
    retry_pause: Annotated[float, Field(ge=0, le=60)] = 1.0
    """Seconds before the second attempt; twice as long before each further one, up to 60."""

    @model_validator(mode="after")
    def _check_kind(self) -> AgentSettings:
        if (self.entrypoint is None) == (self.model is None):
            raise PydanticCustomError("agent_kind", "needs either entrypoint or model")
        extra = self.model_fields_set - _OF_ANY_AGENT
        if self.entrypoint is not None and extra:
            raise PydanticCustomError(
                "agent_kind",
                "an entrypoint has no {keys}: that goes with a model",
                {"keys": ", ".join(sorted(extra))},
            )
        return self


class ServerConfig(_Section):
    """The whole file."""

    server: ServerSettings = Field(default_factory=ServerSettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    sweep: SweepSettings = Field(default_factory=SweepSettings)
    delegation: DelegationSettings = Field(default_factory=DelegationSettings)
    providers: dict[str, ProviderSettings] = {}
    prices: dict[str, PriceSettings] = {}
    mcp: dict[str, McpSettings] = {}
    webhooks: dict[str, WebhookSettings] = {}
    agents: dict[str, AgentSettings] = {}

    @model_validator(mode="after")
    def _check_agents(self) -> ServerConfig:
        names = list(self.agents)
        for name, agent in self.agents.items():
            if not _AGENT_NAME.fullmatch(name) or is_uuid(name):
                raise PydanticCustomError(
                    "agent_name",
                    "agents.{name}: a name is a letter and up to 63 letters, digits, _ and -, "
                    "and no UUID",
                    {"name": name},
                )
            for called in agent.callable_assistants or ():
                if problem := _problem_of_call(called, names):
                    raise PydanticCustomError(
                        "callable_assistants",
                        "agents.{name}.callable_assistants: {problem}",
                        {"name": name, "problem": problem},
                    )
        return self

    @model_validator(mode="after")
    def _check_providers(self) -> ServerConfig:
        for name, provider in self.providers.items():
            if not _PLAIN_NAME.fullmatch(name) or name == OFFLINE:
                raise PydanticCustomError(
                    "provider_name",
                    "providers.{name}: a name is a letter and up to 63 letters, digits, _ and -, "
                    "and not {offline}",
                    {"name": name, "offline": OFFLINE},
                )
            if provider.kind is None and name not in BUILT_IN:
                raise PydanticCustomError(
                    "provider_kind", "providers.{name}.kind: is required", {"name": name}
                )
        for spec in self.prices:
            provider_name = spec.partition(":")[0]
            known = [*BUILT_IN, *self.providers]
            if provider_name not in known:
                raise PydanticCustomError(
                    "prices",
                    "prices.{spec}: there is no provider {name}; {hint}",
                    {"spec": spec, "name": provider_name, "hint": suggest(provider_name, known)},
                )
        return self

    @model_validator(mode="after")
    def _check_webhooks(self) -> ServerConfig:
        for name in self.webhooks:
            if not _PLAIN_NAME.fullmatch(name):
                raise PydanticCustomError(
                    "webhook_name",
                    "webhooks.{name}: a name is a letter and up to 63 letters, digits, _ and -",
                    {"name": name},
                )
        return self

    @model_validator(mode="after")
    def _check_mcp(self) -> ServerConfig:
        names = list(self.mcp)
        for name in names:
            if not _MCP_NAME.fullmatch(name):
                raise PydanticCustomError(
                    "mcp_name",
                    "mcp.{name}: a name is a letter and up to 31 letters, digits, - and single _",
                    {"name": name},
                )
        for name, agent in self.agents.items():
            for other in (entry.partition(":")[0] for entry in agent.mcp):
                if other not in names:
                    raise PydanticCustomError(
                        "mcp",
                        "agents.{name}.mcp: there is no [mcp.{other}]; {hint}",
                        {"name": name, "other": other, "hint": suggest(other, names)},
                    )
        return self


def _problem_of_call(called: CallableAssistant, agents: Sequence[str]) -> str:
    """Says why an agent cannot be called; empty where it can. Assistants are in the database."""
    if is_uuid(called.id):
        return ""
    if called.id not in agents:
        return f"there is no agent {called.id}; {suggest(called.id, agents)}"
    if called.version not in (None, 1):
        return f"agent {called.id} has version 1 alone; assistants have more"
    return ""


def load_config(path: Path, server: Mapping[str, object] | None = None) -> ServerConfig:
    """Reads a configuration.

    Args:
        path: The file.
        server: Values that go before those of `[server]`, as from a command line.

    Raises:
        ConfigError: The file cannot be read, or says something that is wrong.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        return ServerConfig.model_validate(_lay_over(table, server or {}))
    except ValidationError as error:
        problems = describe_errors(error, ServerConfig.model_json_schema())
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems)) from None


def _lay_over(table: dict[str, Any], server: Mapping[str, object]) -> dict[str, Any]:
    section = table.get("server", {})
    if not isinstance(section, dict):
        return table
    return {**table, "server": {**section, **server}}


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _is_plain_url(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc


def is_uuid(name: str) -> bool:
    """Whether a name is the id of an assistant, and so none of an agent."""
    try:
        UUID(name)
    except ValueError:
        return False
    return True
