"""The journal against a model of twenty lines, under random appends, restarts and failures."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from genserve.errors import GenServeError
from genserve.journal import ANY, Journal, Storage, open_storage
from genserve.journal.upgrade import upgrade
from genserve.journal.verify import verify
from tests.journal.failing import FailingStorage
from tests.journal.helpers import steps

STREAMS = st.sampled_from(["request/a", "request/b", "worker/c"])


class JournalMachine(RuleBasedStateMachine):
    """``log`` is what the journal must hold: (stream, step); the answers follow from it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.log: list[tuple[str, int]] = []
        self.sent: dict[int, tuple[int, int]] = {}
        self.fences: dict[str, int] = {}
        self.epoch = 0
        self.step = 0

    def new_storage(self) -> Storage:
        raise NotImplementedError

    @initialize()
    def open(self) -> None:
        self.storage = self.new_storage()
        self.start()

    def start(self) -> None:
        async def begin() -> Journal:
            journal = Journal(self.storage)
            self.epoch += 1
            assert await journal.take_over("me") == self.epoch
            return journal

        self.journal = self.loop.run(begin())

    def version(self, stream: str) -> int:
        return sum(name == stream for name, _ in self.log)

    @rule(stream=STREAMS, count=st.integers(1, 3), offset=st.sampled_from([None, 0, 0, 1, -1]), fence=st.integers(0, 2))
    def append(self, stream: str, count: int, offset: int | None, fence: int) -> None:
        expected = ANY if offset is None else max(0, self.version(stream) + offset)
        answer = self.send([steps(stream, at=self.step, count=count, expected=expected, fence=fence)])
        if fence and fence < self.fences.get(stream, 0):
            assert answer == "fenced"
        elif expected not in (ANY, self.version(stream)):
            assert answer == "version_conflict"
        else:
            assert answer == (len(self.log) + 1, len(self.log) + count, False)
            self.accept(stream, count, fence)

    @rule(stream=STREAMS, seq=st.integers(0, 6))
    def append_as_producer(self, stream: str, seq: int) -> None:
        answer = self.send([steps(stream, at=self.step, seq=seq)])
        if seq in self.sent:
            assert answer == (*self.sent[seq], True)
        else:
            here = len(self.log) + 1
            assert answer == (here, here, False)
            self.sent[seq] = (here, here)
            self.accept(stream, 1, 0)

    @rule(bad=st.booleans())
    def append_to_two_streams(self, bad: bool) -> None:
        expected = self.version("request/b") + bad
        answer = self.send([steps("request/a", at=self.step), steps("request/b", at=self.step, expected=expected)])
        if bad:
            assert answer == "version_conflict"
        else:
            assert answer == (len(self.log) + 1, len(self.log) + 2, False)
            self.accept("request/a", 1, 0, next_step=False)
            self.accept("request/b", 1, 0)

    @rule()
    def restart(self) -> None:
        self.loop.run(self.journal.close())
        self.storage = self.reopened()
        self.start()

    def reopened(self) -> Storage:
        return self.storage

    def send(self, units: list[Any]) -> object:
        async def call() -> object:
            try:
                receipt = await self.journal.append(units)
            except GenServeError as error:
                return error.code
            return (receipt.first, receipt.last, receipt.is_duplicate)

        return self.loop.run(call())

    def accept(self, stream: str, count: int, fence: int, *, next_step: bool = True) -> None:
        self.log += [(stream, self.step + i) for i in range(count)]
        self.fences[stream] = max(fence, self.fences.get(stream, 0))
        self.step += count if next_step else 0

    @invariant()
    def the_log_is_what_was_accepted(self) -> None:
        log: Any = self.journal.reader.read(0) if hasattr(self, "journal") else []
        assert [(r.stream, r.event.from_step) for r in log] == self.log
        assert [r.position for r in log] == list(range(1, len(log) + 1))

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            assert verify(self.journal.reader).is_sound
            self.loop.run(self.journal.close())
        self.loop.close()


class MemoryMachine(JournalMachine):
    """With a database that loses answers now and then."""

    storage: FailingStorage

    def new_storage(self) -> Storage:
        return FailingStorage()

    @rule(is_stored=st.booleans(), seq=st.integers(7, 12))
    @precondition(lambda self: hasattr(self, "storage"))
    def lose_an_answer(self, is_stored: bool, seq: int) -> None:
        if seq in self.sent:
            return
        setattr(self.storage, "fail_after" if is_stored else "fail_before", 1)
        assert self.send([steps("request/a", at=self.step, seq=seq)]) == "journal_unavailable"
        if is_stored:
            here = len(self.log) + 1
            self.sent[seq] = (here, here)
            self.accept("request/a", 1, 0)


class SqliteMachine(JournalMachine):
    def new_storage(self) -> Storage:
        self.directory = Path(tempfile.mkdtemp())
        upgrade(self.url)
        return open_storage(self.url)

    @property
    def url(self) -> str:
        return f"sqlite:///{self.directory}/log.db"

    def reopened(self) -> Storage:
        return open_storage(self.url)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.directory, ignore_errors=True)


QUICK = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
TestMemoryModel = MemoryMachine.TestCase
TestMemoryModel.settings = settings(QUICK, max_examples=60, stateful_step_count=40)
TestSqliteModel = SqliteMachine.TestCase
TestSqliteModel.settings = settings(QUICK, max_examples=8, stateful_step_count=25)
