"""What every planner is: a name, a digest and two pure functions; not the loop that calls them.

``plan`` may look at the state, its memory and nothing else. Its answer may not depend on the order of maps.
``remember`` is the only way memory changes: a fold over events, never a side effect of planning.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any, ClassVar, Protocol

import msgspec
from msgspec import Struct

from genserve.domain.cluster import ClusterState
from genserve.domain.events import Recorded
from genserve.domain.plan import Plan

Parameter = bool | int | float | str


class Planner(Protocol):
    """A scheduling policy."""

    @property
    def name(self) -> str:
        """What it is registered and recorded as."""

    @property
    def digest(self) -> str:
        """Equal for planners that decide alike; a log's decisions carry it."""

    def parameters(self) -> dict[str, Parameter]:
        """With the name, what builds it again (see registry)."""

    def begin(self) -> Any:
        """The memory before the first event."""

    def remember(self, memory: Any, recorded: Recorded) -> Any:
        """The memory after one more event."""

    def plan(self, state: ClusterState, memory: Any) -> Plan:
        """What to do at ``state.clock_us``."""


class Policy(Struct, frozen=True, dict=True):
    """A planner whose fields are its parameters and which remembers nothing; others override the latter."""

    title: ClassVar[str] = ""

    @property
    def name(self) -> str:
        return self.title

    @cached_property
    def digest(self) -> str:
        """Over name and parameters: two planners with equal digests decide alike."""
        content = msgspec.json.encode((self.title, self.parameters()), order="deterministic")
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    def parameters(self) -> dict[str, Parameter]:
        return msgspec.structs.asdict(self)

    def begin(self) -> Any:
        return None

    def remember(self, memory: Any, recorded: Recorded) -> Any:
        return memory
