"""Embeddings and latents for a segment that its worker does not hold: from another worker, else from disk; and what
other workers ask of this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any

from msgspec.structs import replace

from actors.delivery import Delivery, Errand, Inbox
from actors.framework.runtime import Runtime
from actors.outbox import UNHURRIED_S
from actors.register import Register
from genserve.diffusion.wires import Wire, call
from genserve.domain.request import Stage
from genserve.scheduling import protocol as p
from genserve.scheduling.files import read_verified
from genserve.scheduling.runner import Runner
from genserve.scheduling.segments import Fetched
from observability.logging import get_logger

HAND_OVER_S = 20.0
"""How long a worker that may hang is asked for latents; disk has them too."""
SEND_S = 2.0
"""How long a taker that hangs may hold up the step thread that sends."""
UNTAKEN_S = 0.02
"""From when on somebody else takes in what the step thread has not; it usually does within a millisecond."""
COURIERS = 2
"""Receipts waited for at once; a taker that hangs gives none."""

Contents = Mapping[str, Fetched]


class Supply:
    """Plain object inside a worker, used on its event loop; files are read on the ``files`` thread.

    Without an ``inbox`` everything comes as the answer to a call.
    """

    def __init__(self, runtime: Runtime, worker_id: str, files: Executor, inbox: Inbox | None) -> None:
        self._runtime = runtime
        self._worker_id = worker_id
        self._node = runtime.node
        self._files = files
        self._inbox = inbox
        self._couriers = ThreadPoolExecutor(COURIERS, thread_name_prefix=f"{worker_id}-couriers")
        self._arrived: dict[str, Contents] = {}

    # ── taking ───────────────────────────────────────────────────────────────────────────────────────────

    async def await_other(self, command: p.RunSegment, runner: Runner) -> p.Left | None:
        """Returns when the segment before that one has ended on its worker, with what is held there of the members.

        Who left that one early; None where it will not run, or nobody knows.
        """
        members = self._missing(command, runner)
        wish = p.HandOver(_names(members), command.after, command.after_incarnation, command.is_open)
        try:
            given = await self._ask(command.after_on, wish, members, runner)
        except Exception as error:
            _note(command.segment_id, error)
            return None
        self._arrived[command.segment_id] = _contents(given, members)
        if isinstance(given, Delivery):
            asyncio.get_running_loop().call_later(UNTAKEN_S, self._relieve, given)
        return given.left

    async def fetch(self, command: p.RunSegment, runner: Runner, *, without: Collection[str]) -> dict[str, Fetched]:
        """What members of the segment lack here, by request; None for a checkpoint that cannot be read.

        Another worker has been asked where that could be done ahead; else the one that the log calls their home is.
        """
        is_to_be_asked = command.segment_id not in self._arrived
        found: dict[str, Fetched] = {**self._arrived.pop(command.segment_id, {})}
        for member in self._missing(command, runner):
            if member.request_id not in (*without, *found):
                moved = await self._move_in(member, runner) if is_to_be_asked else {}
                found |= moved or await self._read(member, command.from_step)
        return found

    def elsewhere(self, command: p.RunSegment, runner: Runner) -> tuple[p.Member, ...]:
        """Members whose home is another worker, where no segment comes before this one that would bring them here."""
        missing = () if command.after else self._missing(command, runner)
        return tuple(m for m in missing if m.home not in ("", self._worker_id))

    async def fetch_ahead(self, segment_id: str, members: tuple[p.Member, ...], runner: Runner) -> None:
        """Returns when what their homes hold is here, so that nothing waits for it when the segment's turn comes."""
        found = await asyncio.gather(*(self._move_in(member, runner) for member in members))
        self._arrived[segment_id] = {request_id: content for one in found for request_id, content in one.items()}

    def drop(self, segment_ids: Iterable[str]) -> None:
        """What has come for segments that will not run."""
        for segment_id in segment_ids:
            self._arrived.pop(segment_id, None)

    def _missing(self, command: p.RunSegment, runner: Runner) -> tuple[p.Member, ...]:
        """Whom this worker needs to hold, and does not."""
        if command.stage is Stage.ENCODE or command.leader != self._worker_id:
            return ()
        return tuple(m for m in command.members if not runner.holds(m.request_id, m.attempt))

    async def _read(self, member: p.Member, step: int | None) -> dict[str, Fetched]:
        """From disk; nothing where that is not of that step, and for a stop none is."""
        checkpoint = member.checkpoint
        if checkpoint is None or checkpoint.step != step:
            return {}
        read = asyncio.get_running_loop().run_in_executor(self._files, read_verified, checkpoint.uri, checkpoint.sha256)
        return {member.request_id: await read}

    async def _move_in(self, member: p.Member, runner: Runner) -> dict[str, Fetched]:
        """What the home gives up; without an answer disk is the truth, so no error matters here."""
        if member.home in ("", self._worker_id):
            return {}
        try:
            async with asyncio.timeout(HAND_OVER_S):
                given = await self._ask(member.home, p.HandOver(_names((member,))), (member,), runner)
                if isinstance(given, Delivery):
                    await asyncio.to_thread(given.take_in)
                return dict(_contents(given, (member,)))
        except Exception as error:
            _note(member.request_id, error)
            return {}

    async def _ask(
        self, holder: str, wish: p.HandOver, members: tuple[p.Member, ...], runner: Runner
    ) -> Delivery | p.HandedOver:
        """Who left early, and what is given, straight or in the answer; raises whatever the call does."""
        if self._inbox is None:
            answer: p.HandedOver = await self._runtime.find(holder).ask("hand_over", wish)
            return answer
        name = f"{self._worker_id}/{secrets.token_hex(8)}"
        with self._inbox.expecting(name, lambda number, *come: runner.receive(members[number], *come)) as delivery:
            wish = replace(wish, node=self._node, port=self._inbox.open(), name=name)
            asking = asyncio.ensure_future(self._runtime.find(holder).ask("hand_over", wish))
            asking.add_done_callback(_overlook)
            await asyncio.wait({delivery, asking}, return_when=asyncio.FIRST_COMPLETED)
            if not delivery.done() and (answered := asking.result()) is not None:
                return answered  # type: ignore[no-any-return]
            return delivery.result()

    def _relieve(self, delivery: Delivery) -> None:
        """Its giver may wait: who is to take it in is busy with something else."""
        if delivery.has_come:
            return
        taking = asyncio.get_running_loop().run_in_executor(None, delivery.take_in)
        taking.add_done_callback(_overlook)

    # ── giving ───────────────────────────────────────────────────────────────────────────────────────────

    async def give(self, wish: p.HandOver, runner: Runner, register: Register) -> p.HandedOver | None:
        """What another worker wishes for, once it is due; None: it has been sent. This one forgets what was given."""
        errand = Errand(wish, runner, wire := await self._call(wish))
        left: p.Left | None = p.Left()
        if wish.after:
            revision = register.revision(wish.after)
            if wire is not None and revision is not None:
                revision.takers = (*revision.takers, errand.send)
            left = await register.end_of(wish.after)
        answer = await asyncio.get_running_loop().run_in_executor(self._couriers, errand.finish, left)
        if answer is None:
            await asyncio.sleep(UNHURRIED_S)  # taking the answer in would hold up what goes on there
        return answer

    async def _call(self, wish: p.HandOver) -> Wire | None:
        """A wire to whoever wishes, ahead of the time at which it is needed; None where the answer must do."""
        if not wish.port or wish.node != self._node:
            return None
        ring = partial(call, wish.port, wish.name, send_s=SEND_S)
        with contextlib.suppress(OSError):
            return await asyncio.get_running_loop().run_in_executor(self._couriers, ring)
        return None


def _contents(given: Delivery | p.HandedOver, members: tuple[p.Member, ...]) -> Contents:
    if isinstance(given, Delivery):
        return {members[number].request_id: partial(given.hold, number) for number in given.numbers}
    return given.contents


def _names(members: Iterable[p.Member]) -> tuple[tuple[str, int], ...]:
    return tuple((member.request_id, member.attempt) for member in members)


def _overlook(done: asyncio.Future[Any]) -> None:
    """What went wrong there, somebody else meets."""
    if not done.cancelled():
        done.exception()


def _note(what: str, error: Exception) -> None:
    reason = str(error) or type(error).__name__
    get_logger("genserve.worker").warning("not handed over", what=what, reason=reason)
