"""What clients ask of the log: submissions within the queue's bound, cancels, deletions; not what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Sequence
from typing import Protocol

from actors.verdicts import Verdicts
from genserve.domain.events import (
    REQUEST_ENDS,
    CancelRequested,
    Recorded,
    RequestDeleted,
    RequestSubmitted,
)
from genserve.domain.ids import request_stream
from genserve.errors import RefusedByPolicy
from genserve.journal.contract import IdempotencyKey, Unit
from genserve.journal.errors import VersionConflict
from genserve.journal.journal import Journal
from genserve.scheduling.gateway import Submission

RETRY_AFTER_S = 5.0


class Live(Container[str], Protocol):
    """Ids of live requests, and how many there are."""

    def __len__(self) -> int: ...


class Intake:
    """Appends for clients. ``live`` answers which requests have not ended; ``limit`` is how many may live at once."""

    def __init__(self, journal: Journal, *, live: Callable[[], Live], limit: int, verdicts: Verdicts) -> None:
        self._journal = journal
        self._verdicts = verdicts
        self._live = live
        self._limit = limit
        self._arriving: set[str] = set()

    async def submit(self, submission: Submission) -> tuple[str, ...]:
        """Record the requests of one call together; their ids, or those of the first call with this key.

        Where there is admission, after its verdict. Safe to repeat. Raises RefusedByPolicy ``queue_full`` or
        ``refused``, CallerError ``idempotency_conflict``.
        """
        ids = tuple(spec.request_id for spec in submission.requests)
        if self._is_overfull(ids) and not await self._is_known(submission):
            message = f"{len(self._live())} requests are live, at most {self._limit} may be"
            raise RefusedByPolicy("queue_full", message, None, RETRY_AFTER_S)
        self._arriving.update(ids)
        try:
            ids = await self._store(submission, ids)
        finally:
            self._arriving.difference_update(spec.request_id for spec in submission.requests)
        await self._verdicts.wait(ids)
        return ids

    async def cancel(self, request_id: str, reason: str) -> None:
        """Record the wish to stop; nothing where the request is unknown, has ended or was cancelled before."""
        stream = request_stream(request_id)
        while True:
            history = await self._read(stream)
            if not history or any(isinstance(r.event, (CancelRequested, *REQUEST_ENDS)) for r in history):
                return
            try:
                await self._journal.append([Unit(stream, (CancelRequested(reason),), history[-1].version)])
            except VersionConflict:
                continue
            return

    async def delete(self, request_id: str) -> None:
        """Record that the client does not want to see the request any more."""
        await self._journal.append([Unit(request_stream(request_id), (RequestDeleted(),))])

    async def _store(self, submission: Submission, ids: tuple[str, ...]) -> tuple[str, ...]:
        due_us = self._verdicts.due_us()
        units = [
            Unit(request_stream(spec.request_id), (RequestSubmitted(spec, due_us),), 0, occurred_us=spec.arrival_us)
            for spec in submission.requests
        ]
        try:
            receipt = await self._journal.append(units, key=_key(submission, ids))
        except VersionConflict:
            return ids
        return receipt.idempotency.request_ids if receipt.idempotency else ids

    def _is_overfull(self, ids: tuple[str, ...]) -> bool:
        """Whether these, those that are being stored and those that live are more than may live at once."""
        live = self._live()
        more = {r for r in (*self._arriving, *ids) if r not in live}
        return len(live) + len(more) > self._limit

    async def _is_known(self, submission: Submission) -> bool:
        """Whether it was stored before: a repetition takes no room and gets the answer of the first time."""
        key = _key(submission, ())
        find_key = self._journal.reader.find_key
        if key is not None and await asyncio.to_thread(find_key, key.tenant, key.key) is not None:
            return True
        return bool(await self._read(request_stream(submission.requests[0].request_id)))

    async def _read(self, stream: str) -> Sequence[Recorded]:
        return await asyncio.to_thread(self._journal.reader.read_stream, stream)


def _key(submission: Submission, ids: tuple[str, ...]) -> IdempotencyKey | None:
    if not submission.idempotency_key:
        return None
    kind = submission.requests[0].media.value
    return IdempotencyKey(submission.tenant, submission.idempotency_key, submission.body_hash, ids, kind)
