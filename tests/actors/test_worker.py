"""A worker on a fake device: it obeys or refuses with a code, and tells every request's actor what happened."""

from __future__ import annotations

import asyncio
from pathlib import Path

from msgspec.structs import replace

from genserve.domain.request import Checkpoint, Stage
from genserve.scheduling import protocol as p
from genserve.scheduling.files import write_durably
from tests.actors.shop import EPOCH, Shop, a_member, a_segment, in_shop


def test_a_worker_describes_itself() -> None:
    async def test(shop: Shop) -> None:
        hello = await shop.hello()
        assert (hello.worker_id, hello.device, hello.segments) == ("worker-0", "fake", ())

    in_shop(test)


def test_models_are_loaded_once_however_often_a_worker_is_greeted() -> None:
    async def test(shop: Shop) -> None:
        shop.runtime.crash("worker-0")
        await asyncio.gather(*(shop.hello(epoch=epoch) for epoch in (3, 4, 5)))
        assert shop.loaded == 3

    in_shop(test)


def test_a_segment_is_run_and_reported() -> None:
    async def test(shop: Shop) -> None:
        last = await shop.finish(a_segment())
        assert isinstance(last, p.Ended)

    in_shop(test)


def test_a_repeated_command_changes_nothing() -> None:
    async def test(shop: Shop) -> None:
        await shop.finish(a_segment("s1"))
        assert await shop.tell(a_segment("s1")) == p.Answer()
        await shop.finish(a_segment("s2", a_member("r2")))
        assert [began.segment_id for began in shop.listener.of(p.Began)] == ["s1", "s2"]

    in_shop(test)


def test_a_command_of_an_earlier_leader_is_refused() -> None:
    async def test(shop: Shop) -> None:
        await shop.hello(epoch=EPOCH + 1)
        assert (await shop.tell(a_segment())).refusal == "stale_epoch"
        assert (await shop.tell(p.Revise(EPOCH, "s1", stop=True))).refusal == "stale_epoch"

    in_shop(test)


def test_a_leader_that_comes_back_late_does_not_lower_the_epoch() -> None:
    async def test(shop: Shop) -> None:
        await shop.hello(epoch=EPOCH + 1)
        await shop.hello(epoch=EPOCH)
        assert (await shop.tell(a_segment())).refusal == "stale_epoch"

    in_shop(test)


def test_commands_that_cannot_be_obeyed_are_refused_with_a_code() -> None:
    async def test(shop: Shop) -> None:
        refusals = [
            await shop.tell(a_segment(group=("worker-7",))),
            await shop.tell(a_segment(model="t2x")),
            await shop.tell(a_segment(group=("worker-0", "worker-1"))),
            await shop.tell(p.Revise(EPOCH, "s9", stop=True)),
        ]
        codes = ["not_in_group", "unknown_model", "unsupported_degree", "unknown_segment"]
        assert [answer.refusal for answer in refusals] == codes

    in_shop(test)


def test_a_worker_that_was_not_greeted_refuses_work() -> None:
    async def test(shop: Shop) -> None:
        shop.runtime.crash("worker-0")
        assert (await shop.tell(a_segment())).refusal == "worker_not_ready"

    in_shop(test)


def test_the_next_segment_begins_when_the_one_before_it_has_ended() -> None:
    async def test(shop: Shop) -> None:
        await shop.tell(a_segment("s1", a_member("r1")))
        await shop.finish(a_segment("s2", a_member("r2")))
        await shop.listener.hear(p.Ended, 2)
        kinds = [(r.segment_id, type(r).__name__) for r in shop.listener.reports]
        assert kinds.index(("s1", "Ended")) < kinds.index(("s2", "Began"))

    in_shop(test)


def test_a_revision_stops_a_running_segment_at_its_next_boundary() -> None:
    async def test(shop: Shop) -> None:
        await shop.tell(a_segment("s1", a_member(steps=100)))
        await shop.listener.hear(p.Stepped)
        await shop.tell(p.Revise(EPOCH, "s1", stop=True))
        stopped = await shop.listener.hear(p.Stopped)
        assert 0 < stopped.step < 100

    in_shop(test)


def test_a_queued_segment_can_be_revised_before_it_begins() -> None:
    async def test(shop: Shop) -> None:
        await shop.tell(a_segment("s1", a_member("r1")))
        await shop.tell(a_segment("s2", a_member("r2")))
        await shop.tell(p.Revise(EPOCH, "s2", drop=("r2",)))
        assert (await shop.listener.hear(p.Dropped)).request_id == "r2"

    in_shop(test)


def test_a_paused_request_leaves_its_queued_segments_behind() -> None:
    async def test(shop: Shop) -> None:
        member = a_member(steps=100)
        await shop.tell(a_segment("s1", member))
        await shop.tell(a_segment("s2", member, stage=Stage.DECODE))
        await shop.tell(p.Revise(EPOCH, "s1", stop=True))
        await shop.listener.hear(p.Stopped)
        await shop.finish(a_segment("s3", a_member("r2")))
        assert "s2" not in {report.segment_id for report in shop.listener.reports}

    in_shop(test)


def test_a_paused_request_goes_on_at_another_worker_with_the_same_pixels() -> None:
    async def test(shop: Shop) -> None:
        await shop.finish(a_segment("s0", a_member("r1", steps=8)))
        plain = await shop.finish(a_segment("s1", a_member("r1", steps=8), stage=Stage.DECODE))
        await shop.tell(a_segment("s2", a_member("r1", steps=8, attempt=1)))
        await shop.tell(p.Revise(EPOCH, "s2", stop=True))
        stopped = await shop.listener.hear(p.Stopped)
        moved = a_member("r1", steps=8, attempt=1, home=stopped.home)
        await shop.finish(a_segment("s3", moved, from_step=stopped.step, group=("worker-1",)), "worker-1")
        there = a_segment("s4", moved, stage=Stage.DECODE, group=("worker-1",))
        assert (await shop.finish(there, "worker-1")).frames.tobytes() == plain.frames.tobytes()
        assert await shop.runtime.find("worker-0").ask("hand_over", p.HandOver((("r1", 1),))) == p.HandedOver(p.Left())

    in_shop(test)


def test_a_paused_request_has_come_before_its_turn_at_another_worker() -> None:
    async def test(shop: Shop) -> None:
        await shop.tell(a_segment("s1", a_member("r1", steps=8)))
        await shop.tell(p.Revise(EPOCH, "s1", stop=True))
        stopped = await shop.listener.hear(p.Stopped)
        await shop.tell(a_segment("s2", a_member("r2", steps=100), group=("worker-1",)), "worker-1")
        moved = a_member("r1", steps=8, home="worker-0")
        await shop.tell(a_segment("s3", moved, from_step=stopped.step, group=("worker-1",)), "worker-1")
        await shop.listener.hear(p.Stepped, 20)
        asked = await shop.runtime.find("worker-0").ask("hand_over", p.HandOver((("r1", 0),)))
        assert asked == p.HandedOver(p.Left()), "worker-1 has it, and is still at work for another one"
        assert not [ended for ended in shop.listener.of(p.Ended) if ended.request_id == "r2"]
        await shop.listener.hear(p.Ended, 2)
        assert [(b.segment_id, b.from_step) for b in shop.listener.of(p.Began)][-1] == ("s3", stopped.step)

    in_shop(test)


def test_latents_whose_home_has_died_come_from_the_checkpoint(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        await shop.tell(a_segment("s1", a_member(steps=4), checkpoint_every=2))
        snapshot = await shop.listener.hear(p.Snapshot)
        await shop.listener.hear(p.Ended)
        path = tmp_path / "latents"
        checkpoint = Checkpoint(2, 0, str(path), 1, write_durably(path, snapshot.content))
        shop.runtime.crash("worker-0")
        member = a_member(steps=4, attempt=1, home="worker-0", checkpoint=checkpoint)
        await shop.tell(a_segment("s2", member, from_step=2, group=("worker-1",)), "worker-1")
        began = await shop.listener.hear(p.Began, 2)
        assert (began.segment_id, began.from_step) == ("s2", 2)

    in_shop(test)


def test_a_damaged_checkpoint_file_is_a_failure_with_a_code(tmp_path: Path) -> None:
    async def test(shop: Shop) -> None:
        path = tmp_path / "latents"
        checkpoint = Checkpoint(2, 0, str(path), 1, write_durably(path, b"latents"))
        path.write_bytes(b"lutents")
        failed = await shop.finish(a_segment("s1", a_member(steps=4, checkpoint=checkpoint), from_step=2))
        assert (failed.code, failed.retryable) == ("checkpoint_lost", True)

    in_shop(test)


def test_a_worker_works_on_after_a_segment_has_failed() -> None:
    async def test(shop: Shop) -> None:
        failed = await shop.finish(a_segment("s1", a_member("r1"), from_step=2))
        assert failed.code == "wrong_step"
        assert isinstance(await shop.finish(a_segment("s2", a_member("r2"))), p.Ended)

    in_shop(test)


def test_a_new_leader_is_told_which_segments_will_still_be_reported() -> None:
    async def test(shop: Shop) -> None:
        await shop.tell(a_segment("s1", a_member("r1", steps=100)))
        await shop.tell(a_segment("s2", a_member("r2")))
        await shop.listener.hear(p.Stepped)
        assert set((await shop.hello(epoch=EPOCH + 1)).segments) >= {"s1", "s2"}

    in_shop(test)


def test_a_worker_given_up_by_mistake_starts_over() -> None:
    async def test(shop: Shop) -> None:
        await shop.tell(a_segment("s1", a_member("r1", steps=1000)))
        await shop.tell(a_segment("s2", a_member("r2")))
        await shop.listener.hear(p.Stepped)
        before = await shop.hello()
        after = await shop.hello(lost=before.incarnation)
        assert after.incarnation > before.incarnation
        await shop.listener.hear(p.Stopped)
        await shop.finish(a_segment("s3", a_member("r3")))
        assert "s2" not in {report.segment_id for report in shop.listener.reports}

    in_shop(test)


def test_a_worker_that_died_and_came_back_is_not_asked_to_start_over() -> None:
    async def test(shop: Shop) -> None:
        before = await shop.hello()
        shop.runtime.crash("worker-0")
        fresh = await shop.hello(lost=before.incarnation)
        again = await shop.hello(lost=before.incarnation)
        assert before.incarnation < fresh.incarnation == again.incarnation

    in_shop(test)


def test_latents_of_an_older_attempt_are_not_decoded() -> None:
    async def test(shop: Shop) -> None:
        member = a_member(steps=3)
        await shop.finish(a_segment("s1", member))
        failed = await shop.finish(a_segment("s2", replace(member, attempt=1), stage=Stage.DECODE))
        assert failed.code == "unknown_latents"

    in_shop(test)
