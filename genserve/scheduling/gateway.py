"""What the HTTP surface needs from the system behind it; not HTTP and not Ray."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from msgspec import Struct

from genserve.domain.events import Recorded
from genserve.domain.request import Artifact, RequestSpec


class Submission(Struct, frozen=True):
    """The requests of one call, to be recorded together or not at all.

    With an ``idempotency_key``, a repeated submission of the same tenant and ``body_hash`` gets the first one's ids,
    and another body under the same key is refused (CallerError ``idempotency_conflict``).
    """

    requests: tuple[RequestSpec, ...]
    tenant: str = ""
    idempotency_key: str = ""
    body_hash: str = ""


class Forecast(Struct, frozen=True):
    """The planner's own projection for one live request, microseconds since the epoch."""

    eta_us: int
    deadline_us: int
    will_meet: bool


class RequestRow(Struct, frozen=True):
    """The read model of one request, live or ended; ``position`` is that of its latest event in the log."""

    request_id: str
    spec: RequestSpec
    status: str
    step: int
    submitted_us: int
    started_us: int = 0
    finished_us: int = 0
    pauses: int = 0
    error_code: str = ""
    error_message: str = ""
    artifacts: tuple[Artifact, ...] = ()
    deleted: bool = False
    position: int = 0


class Health(Struct, frozen=True):
    """The truth about what is behind the door."""

    is_ready: bool
    scheduler: str
    workers: int
    details: dict[str, Any] = {}


class Gateway(Protocol):
    """Every method may raise Unavailable ``scheduler_unavailable`` or ``journal_unavailable``; nothing is lost then."""

    async def submit(self, submission: Submission) -> tuple[str, ...]:
        """Record the requests; their ids once that is committed and, where there is admission, they are admitted.

        Raises RefusedByPolicy ``queue_full`` or ``refused``.
        """

    async def cancel(self, request_id: str, reason: str) -> None:
        """Record the wish to stop, committed on return; a no-op on a request that has ended."""

    async def hide(self, request_id: str) -> None:
        """Mark a job as deleted for listings; its history stays in the log."""

    async def find_request(self, request_id: str) -> RequestRow | None:
        """One request, of any tenant, also when it is deleted."""

    async def list_requests(
        self, *, media: str, tenant: str, after: str, limit: int, newest_first: bool
    ) -> list[RequestRow]:
        """Requests that are not deleted, beyond the id ``after`` in that order; "" for media or tenant means any."""

    def follow(self, request_id: str, *, after: int) -> AsyncGenerator[Recorded, None]:
        """The request's events beyond a log position, then new ones as they are committed, until its end.

        At its end means after RequestCompleted, RequestCancelled or RequestFailed, or at once where that is behind
        ``after``. Closing the generator ends the subscription and nothing else.
        """

    async def forecast(self, request_id: str) -> Forecast | None:
        """None for a request that has ended, or that the planner has not looked at yet."""

    async def read_artifact(self, artifact: Artifact) -> bytes:
        """The stored file; raises CallerError ``artifact_not_found`` when it is gone."""

    async def health(self) -> Health:
        """What can be said now; a scheduler that does not answer is a report, not an error."""

    async def metrics(self) -> bytes:
        """Prometheus text exposition."""
