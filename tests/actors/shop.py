"""Two workers on fake devices and somebody who listens to them; for tests of one worker, without a scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from actors.delivery import Inbox
from actors.framework.local_runtime import LocalRuntime
from actors.worker import Worker
from genserve.domain.request import Stage
from genserve.scheduling import protocol as p
from tests.actors.cell import STEP_S, an_image
from tests.actors.fake_runner import FakeRunner
from tests.actors.listener import Listener
from tests.actors.virtual_time import VirtualLoop, run

EPOCH = 3


class Shop:
    """Two greeted workers and somebody who listens to them.

    ``straight``: they give each other what they hold over connections of their own, not in answers.
    """

    def __init__(self, *, straight: bool = False) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        self.runtime = LocalRuntime()
        self.loaded = 0
        self.inboxes = {name: Inbox() if straight else None for name in ("worker-0", "worker-1")}

    async def open(self) -> Shop:
        await self.runtime.spawn("request-0", Listener)
        for name, inbox in self.inboxes.items():
            await self.runtime.spawn(
                name, lambda runtime, name=name, inbox=inbox: Worker(runtime, name, self._make_runner, inbox=inbox)
            )
            await self.hello(name)
        return self

    async def close(self) -> None:
        for inbox in self.inboxes.values():
            if inbox is not None:
                await inbox.close()

    def _make_runner(self) -> FakeRunner:
        self.loaded += 1
        return FakeRunner(self._take_time)

    def _take_time(self, verb: str, members: tuple[p.Member, ...], step: int) -> None:
        if verb == "step":
            self.loop.sleep_in_thread(STEP_S)

    @property
    def listener(self) -> Listener:
        found: Listener = self.runtime.actor("request-0")
        return found

    async def hello(self, worker_id: str = "worker-0", epoch: int = EPOCH, lost: int = 0) -> p.Hello:
        hello: p.Hello = await self.runtime.find(worker_id).ask("hello", epoch, lost)
        return hello

    async def tell(self, command: p.Command, worker_id: str = "worker-0") -> p.Answer:
        (answer,) = await self.runtime.find(worker_id).ask("obey", (command,))
        assert isinstance(answer, p.Answer)
        return answer

    async def finish(self, command: p.RunSegment, worker_id: str = "worker-0") -> Any:
        """Run a segment; its last report."""
        last = p.Decoded if command.stage is Stage.DECODE else p.Ended
        count = len(self.listener.of(last)) + len(self.listener.of(p.Failed)) + 1
        await self.tell(command, worker_id)
        await self.listener.until(lambda heard: len(heard.of(last)) + len(heard.of(p.Failed)) >= count)
        return self.listener.reports[-1]


def a_member(request_id: str = "r1", **fields: Any) -> p.Member:
    attempt = fields.pop("attempt", 0)
    checkpoint, home = fields.pop("checkpoint", None), fields.pop("home", "")
    return p.Member(an_image(request_id, **fields), attempt, "request-0", home, checkpoint)


def a_segment(segment_id: str = "s1", *members: p.Member, stage: Stage = Stage.DENOISE, **fields: Any) -> p.RunSegment:
    members = members or (a_member(),)
    to_step = members[0].spec.steps if stage is Stage.DENOISE else 0
    defaults: dict[str, Any] = {"model": "t2i", "group": ("worker-0",), "from_step": 0, "to_step": to_step}
    return p.RunSegment(EPOCH, segment_id, stage, members=members, **{**defaults, **fields})


def in_shop(test: Callable[[Shop], Coroutine[Any, Any, None]]) -> None:
    """Whatever holds for workers holds whichever way they give each other what they hold."""

    async def main(*, straight: bool) -> None:
        shop = await Shop(straight=straight).open()
        try:
            await test(shop)
        finally:
            await shop.close()

    for straight in (False, True):
        run(main(straight=straight))
