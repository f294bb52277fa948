"""Function agents: whatever can be called with a context, made into one async shape."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import cast, get_type_hints

from pydantic_core import PydanticSerializationError, to_json

from callboard.v1.message_pb2 import ContentBlock, Message, Role, Text
from callboard_server.agents.context import Context, SyncContext
from callboard_server.agents.errors import AgentError
from callboard_server.agents.threads import in_thread

AgentFunction = Callable[[Context], Awaitable[object]]
AgentFactory = Callable[[dict[str, object]], AbstractAsyncContextManager[object]]

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
    if inspect.isasyncgenfunction(inspect.unwrap(agent)):
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


def _adapt_factory(factory: Callable[..., object]) -> AgentFunction:
    if factory is inspect.unwrap(factory):
        raise TypeError(f"is an async generator: decorate it with @asynccontextmanager; {_KINDS}")
    _check_parameter(factory, None)
    make = cast("AgentFactory", factory)

    async def run(ctx: Context) -> object:
        async with make(ctx.config) as agent:
            try:
                function = adapt(agent)
            except TypeError as error:
                raise AgentError(f"What the agent's factory yields {error}.") from error
            return await function(ctx)

    return run


def _check_parameter(function: Callable[..., object], right: type | None) -> None:
    """Checks that a function takes one argument, and of the right type if it says one."""
    signature = inspect.signature(function)
    try:
        bound = signature.bind(None)
    except TypeError:
        raise TypeError(f"takes {signature}, not one argument; {_KINDS}") from None
    hint = _hints(function).get(next(iter(bound.arguments)))
    if hint in (Context, SyncContext) and hint is not right:
        expected = right.__name__ if right else "a config"
        raise TypeError(f"takes {hint.__name__}, but should take {expected}; {_KINDS}")


def _hints(function: Callable[..., object]) -> dict[str, type]:
    try:
        return get_type_hints(function)
    except (NameError, TypeError):
        # Types that exist for type checkers only, or a callable object: nothing to compare.
        return {}
