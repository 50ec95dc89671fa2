"""What may happen to a batch between its first step and its last, as values to be drawn, and how it is carried out."""

from __future__ import annotations

from enum import StrEnum
from itertools import permutations

import msgspec
import torch
from hypothesis import strategies as st

from genserve.diffusion.generation import Generation
from tests.elastic.ranks import NAMES, Ranks

STEPS = 6
MAX_SEGMENTS = 5
GROUPS = tuple(group for degree in (1, 2, 4) for group in permutations(NAMES, degree))
"""Any members in any order, the first of which leads; most of them are not aligned and are formed at first use."""


class Way(StrEnum):
    """How the batch gets to the segment's leader, if that is not where it is."""

    MOVE = "move"
    RELOAD = "reload"


class After(StrEnum):
    """What happens at the end of a segment: nothing but a pause, a checkpoint, or the loss of the batch's home."""

    PAUSE = "pause"
    CHECKPOINT = "checkpoint"
    LOSS = "loss"


class Segment(msgspec.Struct, frozen=True):
    """Some steps on a group. ``reload`` goes through a checkpoint even where the batch is at hand."""

    group: tuple[str, ...]
    steps: int
    way: Way = Way.MOVE
    after: After = After.PAUSE


class Schedule(msgspec.Struct, frozen=True):
    """One run: who shares it (by seed, from the start), of which width, and its segments; the rest runs on one GPU."""

    seeds: tuple[int, ...]
    width: int
    segments: tuple[Segment, ...]

    @property
    def is_alone(self) -> bool:
        """Whether no two processes ever share a step."""
        return all(len(segment.group) == 1 for segment in self.segments)


def segments(groups: tuple[tuple[str, ...], ...] = GROUPS) -> st.SearchStrategy[Segment]:
    return st.builds(
        Segment,
        group=st.sampled_from(groups),
        steps=st.integers(0, 3),
        way=st.sampled_from(Way),
        after=st.sampled_from(After),
    )


def schedules(groups: tuple[tuple[str, ...], ...] = GROUPS) -> st.SearchStrategy[Schedule]:
    """Widths of 48 leave tokens that do not divide among ranks; wider groups are drawn as often as narrow ones."""
    by_degree = [tuple(g for g in groups if len(g) == degree) for degree in sorted({len(g) for g in groups})]
    return st.builds(
        Schedule,
        seeds=st.sampled_from([(1,), (1, 2)]),
        width=st.sampled_from([48, 64]),
        segments=st.lists(st.one_of(*map(segments, by_degree)), min_size=1, max_size=MAX_SEGMENTS).map(tuple),
    )


class Run:
    """A schedule under way on real processes; ``is_deadly`` kills the home of a lost batch rather than its memory."""

    def __init__(
        self, ranks: Ranks, name: str, generations: tuple[Generation, ...], *, is_deadly: bool = False
    ) -> None:
        self._ranks = ranks
        self._name = name
        self._generations = generations
        self._is_deadly = is_deadly
        self._home: str | None = None
        self._done = 0
        self._checkpoints: list[bytes] = []
        self._checkpoint_step = 0

    def all_of(self, schedule: Schedule) -> torch.Tensor:
        """The latents at the end."""
        for segment in schedule.segments:
            self._segment(segment)
        self._segment(Segment(self._last_group(), STEPS))
        (latents,) = self._ranks.ask(self._last_group(), "latents")
        return latents  # type: ignore[no-any-return]

    def _last_group(self) -> tuple[str, ...]:
        return (self._home or NAMES[0],)

    def _segment(self, segment: Segment) -> None:
        leader = segment.group[0]
        self._bring_to(leader, segment.way)
        steps = min(segment.steps, STEPS - self._done)
        self._ranks.ask(segment.group, "run", self._name, segment.group, leader, steps)
        self._home, self._done = leader, self._done + steps
        if segment.after is After.CHECKPOINT:
            (self._checkpoints,) = self._ranks.ask((leader,), "saved", self._name)
            self._checkpoint_step = self._done
        elif segment.after is After.LOSS:
            self._lose(leader)

    def _bring_to(self, leader: str, way: Way) -> None:
        here = (leader,)
        if self._home is None and self._checkpoints:
            self._ranks.ask(here, "load", self._name, self._generations, self._checkpoints)
        elif self._home is None:
            self._ranks.ask(here, "begin", self._name, *self._generations)
        elif way is Way.RELOAD:
            (saved,) = self._ranks.ask((self._home,), "saved", self._name)
            self._ranks.ask((self._home,), "forget")
            self._ranks.ask(here, "load", self._name, self._generations, saved)
        elif self._home != leader:
            (packed,) = self._ranks.ask((self._home,), "take", self._name)
            self._ranks.ask(here, "give", self._name, packed)

    def _lose(self, home: str) -> None:
        if self._is_deadly:
            self._ranks.kill(home)
            self._ranks.start(home)
            self._ranks.form(*NAMES)
        else:
            self._ranks.ask((home,), "forget")
        self._home, self._done = None, self._checkpoint_step
