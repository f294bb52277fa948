"""Function agents: whatever can be called with a context, made into one async shape."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import SimpleNamespace
from typing import Any, cast, get_type_hints

from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import PydanticSerializationError, to_json

from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.message_pb2 import ContentBlock, Message, Role, Text
from callboard_server.agents.context import Context
from callboard_server.agents.errors import AgentError
from callboard_server.agents.sync_context import SyncContext
from callboard_server.agents.threads import in_thread
from callboard_server.validation import describe_errors

AgentFunction = Callable[[Context], Awaitable[object]]
AgentFactory = Callable[[Any], AbstractAsyncContextManager[object]]

_KINDS = (
    "an agent is an async function of a Context, a plain function of a SyncContext, "
    "a ChatAgent, or a factory: an @asynccontextmanager function of a config that yields one"
)


def adapt(agent: object) -> AgentFunction:
    """Makes an async function of a Context from an agent in any form.

    A plain function runs in a thread. A factory is entered for each run, with its configuration.

    Raises:
        TypeError: It cannot be an agent; the message says why.
    """
    if not callable(agent) or isinstance(agent, type):
        raise TypeError(f"is {type(agent).__name__} and cannot be called with a context; {_KINDS}")
    if _is_factory(agent):
        return _adapt_factory(agent)
    if inspect.iscoroutinefunction(agent) or inspect.iscoroutinefunction(type(agent).__call__):
        _check_parameter(agent, Context)
        return agent
    _check_parameter(agent, SyncContext)

    async def run(ctx: Context) -> object:
        return await in_thread(agent, SyncContext(ctx))

    return run


def to_message(result: object) -> Message | None:
    """Makes a message from what an agent returned; None is no message.

    Raises:
        AgentError: It cannot be shown.
    """
    if result is None or isinstance(result, Message):
        return result
    if not isinstance(result, str):
        try:
            result = to_json(result).decode()
        except PydanticSerializationError:
            kind = type(result).__name__
            raise AgentError(f"The agent's result ({kind}) cannot be shown as JSON.") from None
    return Message(role=Role.ROLE_ASSISTANT, content=[ContentBlock(text=Text(text=result))])


def config_schema(agent: object) -> dict[str, Any]:
    """Returns the JSON Schema of the configuration that an agent takes.

    A factory says so by the type of its parameter, if that is a pydantic model. Any other agent
    takes whatever it is given.

    Raises:
        TypeError: The model has no JSON Schema.
    """
    model = _config_model(agent) if callable(agent) and _is_factory(agent) else None
    if model is None:
        return {"type": "object"}
    try:
        return model.model_json_schema()
    except PydanticInvalidForJsonSchema as error:
        raise TypeError(f"takes {model.__name__}, which has no JSON Schema: {error}") from None


def _is_factory(agent: Callable[..., object]) -> bool:
    return inspect.isasyncgenfunction(inspect.unwrap(agent))


def _adapt_factory(factory: Callable[..., object]) -> AgentFunction:
    if factory is inspect.unwrap(factory):
        raise TypeError(f"is an async generator: decorate it with @asynccontextmanager; {_KINDS}")
    _check_parameter(factory, None)
    make, model = cast("AgentFactory", factory), _config_model(factory)

    async def run(ctx: Context) -> object:
        config = ctx.config if model is None else _validated(model, ctx.config)
        async with make(config) as agent:
            try:
                function = adapt(agent)
            except TypeError as error:
                raise AgentError(f"What the agent's factory yields {error}.") from error
            return await function(ctx)

    return run


def _config_model(factory: Callable[..., object]) -> type[BaseModel] | None:
    """Returns the pydantic model that a factory takes as its configuration, if it takes one."""
    hint = _hint(factory, next(iter(inspect.signature(factory).parameters)))
    return hint if isinstance(hint, type) and issubclass(hint, BaseModel) else None


def _validated(model: type[BaseModel], config: dict[str, object]) -> BaseModel:
    try:
        return model.model_validate(config)
    except ValidationError as error:
        problems = "; ".join(describe_errors(error, model.model_json_schema()))
        raise AgentError(
            f"The configuration does not fit the agent: {problems}",
            reason=ErrorReason.ERROR_REASON_CONFIG_INVALID,
        ) from None


def _check_parameter(function: Callable[..., object], right: type | None) -> None:
    """Checks that a function takes one argument, and of the right type if it says one."""
    signature = inspect.signature(function)
    try:
        bound = signature.bind(None)
    except TypeError:
        raise TypeError(f"takes {signature}, not one argument; {_KINDS}") from None
    hint = _hint(function, next(iter(bound.arguments)))
    if hint in (Context, SyncContext) and hint is not right:
        expected = right.__name__ if right else "a config"
        raise TypeError(f"takes {hint.__name__}, but should take {expected}; {_KINDS}")


def _hint(function: Callable[..., object], parameter: str) -> object:
    """Returns the type of a parameter; None where it is not said, or for type checkers only."""
    function = inspect.unwrap(function)
    written = getattr(function, "__annotations__", {}).get(parameter)
    try:
        # Of the others, some may be for type checkers only.
        only = SimpleNamespace(__annotations__={parameter: written})
        return get_type_hints(only, getattr(function, "__globals__", {})).get(parameter)
    except (NameError, TypeError):
        return None
