"""Walks the log and says where it was altered, if it was; not for repairing it.

Three things are checked against each other: every event's hash over its own fields and the event before, the commits
(their bounds and hashes), and the head. Whoever changes a byte would have to change every later row as well.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from genserve.journal.contract import CommitRow, EventRow, Head, Reader
from genserve.journal.errors import UnknownEvent
from genserve.journal.rows import chain_of, to_recorded

PAGE = 1000


class Verdict(Struct, frozen=True):
    """``position`` is the first that is wrong, 0 where all is well; ``problem`` is one of the words below.

    altered: the event is not what was written. missing: no event there. out_of_order: an event in another's place.
    commit_mismatch, head_mismatch: the events do not end as their commit, or the head, says.
    unknown_event: written by newer code. Events before ``position`` are as they were written.
    """

    checked: int
    position: int = 0
    problem: str = ""
    detail: str = ""

    @property
    def is_sound(self) -> bool:
        return self.position == 0


class _Broken(Exception):
    """(position, problem, detail)."""


class _Walk:
    """What has been seen so far."""

    def __init__(self) -> None:
        self.position = 0
        self.chain_hash = bytes(32)
        self.recorded_us = 0
        self.versions: dict[str, int] = {}

    def step(self, row: EventRow) -> None:
        """Check one event on top of those before. Raises _Broken."""
        expected = self.position + 1
        if row.position != expected:
            problem = "missing" if row.position > expected else "out_of_order"
            raise _Broken(expected, problem, f"found position {row.position} where {expected} should be")
        if chain_of(self.chain_hash, row) != row.chain_hash:
            raise _Broken(expected, "altered", f"event {row.event_id} ({row.type}) does not match its hash")
        version = self.versions.get(row.stream_id, 0) + 1
        if row.stream_version != version or row.recorded_us < self.recorded_us:
            detail = f"{row.stream_id} version {row.stream_version} at {row.recorded_us}, expected version {version}"
            raise _Broken(expected, "out_of_order", detail)
        _check_payload(row)
        self.position, self.chain_hash, self.recorded_us = expected, row.chain_hash, row.recorded_us
        self.versions[row.stream_id] = version

    def close(self, commit: CommitRow) -> None:
        """Check that a commit ends where its events do. Raises _Broken."""
        if commit.last_position != self.position or commit.chain_hash != self.chain_hash:
            detail = f"commit {commit.commit_id} ends at {commit.last_position} with another hash than its events"
            raise _Broken(commit.first_position, "commit_mismatch", detail)


def verify(reader: Reader) -> Verdict:
    """Check the whole log, from position 1 to the head; memory grows with the number of streams only."""
    walk = _Walk()
    head = reader.head()
    try:
        commits = _commits(reader)
        commit = next(commits, None)
        for row in _events(reader):
            if row.position > head.position:
                break
            walk.step(row)
            if commit is None or row.commit_id != commit.commit_id:
                raise _Broken(row.position, "commit_mismatch", f"commit {row.commit_id} is missing")
            if row.position >= commit.last_position:
                walk.close(commit)
                commit = next(commits, None)
        _check_end(walk, head)
    except _Broken as broken:
        position, problem, detail = broken.args
        return Verdict(walk.position, position, problem, detail)
    return Verdict(walk.position)


def _check_end(walk: _Walk, head: Head) -> None:
    if walk.position < head.position:
        raise _Broken(walk.position + 1, "missing", f"the log ends at {walk.position}, its head says {head.position}")
    if walk.chain_hash != head.chain_hash:
        raise _Broken(max(1, walk.position), "head_mismatch", "the last event's hash is not the head's")


def _check_payload(row: EventRow) -> None:
    try:
        to_recorded(row)
    except UnknownEvent as error:
        raise _Broken(row.position, "unknown_event", error.message) from error


def _events(reader: Reader) -> Iterator[EventRow]:
    after = 0
    while rows := reader.read_rows(after, PAGE):
        yield from rows
        after = max(row.position for row in rows)


def _commits(reader: Reader) -> Iterator[CommitRow]:
    after = 0
    while rows := reader.read_commits(after, PAGE):
        yield from rows
        after = rows[-1].commit_id
