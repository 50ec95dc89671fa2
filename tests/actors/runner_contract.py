"""What every Runner promises; inherited by the fake one and by the one with real models."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from genserve.domain.request import RequestSpec, Stage
from genserve.errors import GenServeError
from genserve.scheduling import protocol as p
from genserve.scheduling.runner import Runner


class RunnerContract:
    """Subclasses provide the fixture ``runner`` and ``spec``."""

    @pytest.fixture
    def runner(self) -> Runner:
        raise NotImplementedError

    def spec(self, request_id: str, **changes: Any) -> RequestSpec:
        """An image of at least three steps that this runner has a model for."""
        raise NotImplementedError

    def member(self, request_id: str = "r1", *, attempt: int = 0, **changes: Any) -> p.Member:
        return p.Member(self.spec(request_id, **changes), attempt, "request-0")

    def test_its_models_are_resident_in_every_stage(self, runner: Runner) -> None:
        assert {(model, stage) for model in runner.models for stage in Stage} == set(runner.resident)

    def test_a_request_is_held_after_its_prompt_is_encoded(self, runner: Runner) -> None:
        member = self.member()
        assert not runner.holds("r1", 0)
        runner.encode((member,))
        assert runner.holds("r1", 0)

    def test_what_is_held_belongs_to_one_attempt(self, runner: Runner) -> None:
        runner.encode((self.member(attempt=1),))
        assert not runner.holds("r1", 0)

    def test_what_was_forgotten_is_not_held(self, runner: Runner) -> None:
        runner.encode((self.member(),))
        runner.forget("r1")
        assert not runner.holds("r1", 0)

    def test_a_step_moves_the_position_by_one(self, runner: Runner) -> None:
        runner.encode((self.member(),))
        batch = runner.begin((self.member(),))
        runner.step(batch)
        assert runner.position(batch) == 1

    def test_a_request_that_is_not_held_begins_at_step_0(self, runner: Runner) -> None:
        assert runner.position(runner.begin((self.member(),))) == 0

    def test_decode_gives_frames_and_holds_nothing_afterwards(self, runner: Runner) -> None:
        member = self.member()
        frames = self.pixels(runner, (member,))["r1"]
        shape = member.spec.shape
        assert frames.dtype == np.uint8
        assert frames.shape == (shape.frames, shape.height, shape.width, 3)
        assert not runner.holds("r1", 0)

    def test_decoding_what_is_not_held_is_refused(self, runner: Runner) -> None:
        with pytest.raises(GenServeError, match="unknown_latents"):
            runner.decode((self.member(),))

    def test_decoding_unfinished_latents_is_refused(self, runner: Runner) -> None:
        batch = runner.begin((self.member(),))
        runner.step(batch)
        runner.end(batch)
        with pytest.raises(GenServeError, match="unknown_latents"):
            runner.decode((self.member(),))

    def test_equal_requests_give_equal_pixels_and_others_do_not(self, runner: Runner) -> None:
        first, again = (self.pixels(runner, (self.member("r1", seed=5),))["r1"] for _ in range(2))
        other = self.pixels(runner, (self.member("r1", seed=6),))["r1"]
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_a_batch_of_two_gives_what_each_gives_alone(self, runner: Runner) -> None:
        members = (self.member("r1", seed=5), self.member("r2", seed=6))
        together = self.pixels(runner, members)
        for member in members:
            alone = self.pixels(runner, (member,))[member.request_id]
            assert self.are_alike(together[member.request_id], alone)

    def test_leaving_a_batch_does_not_disturb_who_stays(self, runner: Runner) -> None:
        members = (self.member("r1", seed=5), self.member("r2", seed=6))
        batch = runner.begin(members)
        runner.step(batch)
        runner.forget("r2")
        batch = runner.without(batch, ("r2",))
        frames = self.finish(runner, batch, members[:1])["r1"]
        assert self.are_alike(frames, self.pixels(runner, members[:1])["r1"])

    def test_a_restored_snapshot_goes_on_to_the_same_pixels(self, runner: Runner) -> None:
        member = self.member(seed=5)
        batch = runner.begin((member,))
        runner.step(batch)
        content = runner.snapshot(batch, "r1")()
        runner.end(batch)
        runner.forget("r1")
        later = self.member(seed=5, attempt=1)
        runner.restore(later, content)
        batch = runner.begin((later,))
        assert runner.position(batch) == 1
        assert np.array_equal(self.finish(runner, batch, (later,))["r1"], self.pixels(runner, (member,))["r1"])

    def test_a_snapshot_is_not_changed_by_later_steps(self, runner: Runner) -> None:
        batch = runner.begin((self.member(seed=5),))
        runner.step(batch)
        held = runner.snapshot(batch, "r1")
        runner.step(batch)
        runner.restore(self.member("r1", seed=5), held())
        assert runner.position(runner.begin((self.member(seed=5),))) == 1

    def test_a_snapshot_may_be_taken_right_after_the_end(self, runner: Runner) -> None:
        batch = runner.begin((self.member("r1", seed=5), self.member("r2", seed=6)))
        runner.step(batch)
        before = runner.snapshot(batch, "r2")()
        runner.end(batch)
        assert runner.snapshot(batch, "r2")() == before

    def test_what_is_offered_stays_and_goes_on_elsewhere(self, runner: Runner) -> None:
        member = self.member(seed=5)
        content = bytearray().join(self.offered(runner, member))
        assert runner.holds("r1", 0)
        runner.forget("r1")
        runner.restore(member, content)
        assert runner.position(runner.begin((member,))) == 1

    def test_what_comes_piece_by_piece_is_held_from_when_it_is_wanted(self, runner: Runner) -> None:
        member = self.member(seed=5)
        first, *others = self.offered(runner, member)
        rest = io.BytesIO(b"".join(others))
        runner.forget("r1")
        ready = runner.receive(member, first, rest.readinto)
        assert rest.read() == b""
        assert not runner.holds("r1", 0)
        ready()
        frames = self.finish(runner, runner.begin((member,)), (member,))["r1"]
        assert np.array_equal(frames, self.pixels(runner, (member,))["r1"])

    def test_pieces_that_do_not_come_raise_what_bringing_them_does(self, runner: Runner) -> None:
        def nothing(memory: memoryview) -> None:
            raise ConnectionResetError("the giver has gone")

        first, *_ = self.offered(runner, self.member())
        with pytest.raises(ConnectionResetError):
            runner.receive(self.member(), first, nothing)

    def test_nothing_is_offered_of_what_is_not_held(self, runner: Runner) -> None:
        assert runner.offer("r1", 0) is None

    @pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-2] + bytes([b[-2] ^ 1]) + b[-1:]])
    def test_damaged_bytes_are_refused_with_a_code(self, runner: Runner, damage: Any) -> None:
        batch = runner.begin((self.member(),))
        runner.step(batch)
        content = runner.snapshot(batch, "r1")()
        with pytest.raises(GenServeError, match="checkpoint_corrupt"):
            runner.restore(self.member(), damage(content))

    def test_a_preview_does_not_disturb_its_request(self, runner: Runner) -> None:
        member = self.member(seed=5)
        batch = runner.begin((member,))
        runner.step(batch)
        shape = member.spec.shape
        assert runner.preview(batch, "r1").shape == (shape.frames, shape.height, shape.width, 3)
        assert np.array_equal(self.finish(runner, batch, (member,))["r1"], self.pixels(runner, (member,))["r1"])

    # ── helpers ──────────────────────────────────────────────────────────────────────────────────────────

    def offered(self, runner: Runner, member: p.Member) -> tuple[p.Content, ...]:
        """What is offered of it after its first step, piece by piece."""
        batch = runner.begin((member,))
        runner.step(batch)
        runner.end(batch)
        offer = runner.offer(member.request_id, member.attempt)
        assert offer is not None
        return offer()

    def are_alike(self, a: Any, b: Any) -> bool:
        """Equal, up to one grey level where a batch adds in another order."""
        return int(np.abs(a.astype(int) - b.astype(int)).max()) <= 1

    def pixels(self, runner: Runner, members: tuple[p.Member, ...]) -> dict[str, Any]:
        for member in members:
            runner.forget(member.request_id)
        runner.encode(members)
        return self.finish(runner, runner.begin(members), members)

    def finish(self, runner: Runner, batch: Any, members: tuple[p.Member, ...]) -> dict[str, Any]:
        while runner.position(batch) < members[0].spec.steps:
            runner.step(batch)
        runner.end(batch)
        return runner.decode(members)
