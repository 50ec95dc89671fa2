"""Embeddings and latents for a segment that its worker does not hold: from another worker, else from disk."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from concurrent.futures import Executor

from actors.framework.runtime import Runtime
from genserve.domain.request import Stage
from genserve.scheduling import protocol as p
from genserve.scheduling.files import read_verified
from genserve.scheduling.segments import Runner
from observability.logging import get_logger

HAND_OVER_S = 20.0
"""How long a worker that may hang is asked for latents; disk has them too."""


class Supply:
    """Plain object inside a worker, used on its event loop; files are read on the ``files`` thread."""

    def __init__(self, runtime: Runtime, worker_id: str, files: Executor) -> None:
        self._runtime = runtime
        self._worker_id = worker_id
        self._files = files

    async def fetch(
        self, command: p.RunSegment, runner: Runner, *, without: Collection[str]
    ) -> dict[str, bytes | None]:
        """What members of the segment lack here, by request; None for a checkpoint that cannot be read.

        The worker that ran the stage before is asked where there is one, else the one that the log calls their home.
        """
        if command.stage is Stage.ENCODE or command.leader != self._worker_id:
            return {}
        found: dict[str, bytes | None] = {}
        for member in command.members:
            if member.request_id not in without and not runner.holds(member.request_id, member.attempt):
                home = command.after_on or member.home
                found |= await self._fetch_one(member, home, command.from_step)
        return found

    async def _fetch_one(self, member: p.Member, home: str, step: int | None) -> dict[str, bytes | None]:
        """From its home, else from disk; nothing where neither is of that step, and for a stop none on disk is."""
        moved = await self._move_in(member, home)
        checkpoint = member.checkpoint
        if moved is not None:
            return {member.request_id: moved}
        if checkpoint is None or checkpoint.step != step:
            return {}
        read = asyncio.get_running_loop().run_in_executor(self._files, read_verified, checkpoint.uri, checkpoint.sha256)
        return {member.request_id: await read}

    async def _move_in(self, member: p.Member, home: str) -> bytes | None:
        """What the home gives up; without an answer disk is the truth, so no error matters here."""
        if home in ("", self._worker_id):
            return None
        try:
            async with asyncio.timeout(HAND_OVER_S):
                holder = self._runtime.find(home)
                moved: bytes | None = await holder.ask("hand_over", member.request_id, member.attempt)
        except Exception as error:
            get_logger("genserve.worker").warning(
                "not handed over", request_id=member.request_id, reason=str(error) or type(error).__name__
            )
            return None
        return moved
