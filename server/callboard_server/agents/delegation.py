"""The tools by which a chat agent calls others, and what its policies say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from callboard_server.agents.asking import ask_tools
from callboard_server.agents.callees import TOOL_PREFIX, Callee
from callboard_server.agents.kit import job_tools
from callboard_server.agents.tools import Tool
from callboard_server.config import Policy


@dataclass(frozen=True, slots=True)
class Delegation:
    """Whom a chat agent calls with some configuration, and whom it does not call any more."""

    callees: Sequence[Callee]
    """Who can be called."""
    own: Sequence[Callee] = ()
    """Whom the agent itself names, whether they can be called or not."""
    others: Sequence[Callee] = ()
    """Whom its assistant or the run names, likewise."""

    @property
    def are_names_known(self) -> bool:
        """Whether it is known what all are called. Nobody knows it of those who were deleted."""
        named = (*self.callees, *self.own, *self.others)
        return all(callee.is_name_known for callee in named)

    @property
    def tools(self) -> list[Tool]:
        """The tools that call."""
        return calling_tools(self.callees)

    def bound(self, policies: Mapping[str, Policy]) -> dict[str, Policy]:
        """Returns the policies of the agent by the names that the tools of callees have here.

        A configuration that names other callees, or one in several versions, numbers them anew.
        What an agent says of one whom it calls holds for that one, whatever the tool is called.
        """
        own = [callee for callee in self.own if callee.is_waited_for]
        names = {callee.tool_name for callee in own}
        bound = {name: policy for name, policy in policies.items() if name not in names}
        for callee in self.callees:
            origin = callee.origin(own)
            if origin is not None and origin.tool_name in policies:
                bound[callee.tool_name] = policies[origin.tool_name]
        return bound

    def is_left_out(self, name: str, tools: Mapping[str, Tool]) -> bool:
        """Whether a name is that of a tool that is missing because somebody is not called.

        Args:
            name: The name.
            tools: The tools that are there.
        """
        if name in tools:
            return False
        named = [*calling_tools(self.own), *calling_tools(self.others)]
        if name in [tool.name for tool in named]:
            return True
        if self.are_names_known or not name.startswith(TOOL_PREFIX):
            return False
        # Where two are alike and one goes, the other may get its number.
        plain, _, number = name.rpartition("_")
        return not (plain in tools and number.isdigit())


def calling_tools(callees: Sequence[Callee]) -> list[Tool]:
    """Returns the tools that call others, each of them as its mode says."""
    waited_for = [callee for callee in callees if callee.is_waited_for]
    return [*job_tools([c for c in callees if not c.is_waited_for]), *ask_tools(waited_for)]
