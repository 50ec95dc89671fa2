"""What to time for a catalog: which shapes, degrees and batches; free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from genserve.diffusion.catalog import ModelEntry
from genserve.domain.request import Shape, Stage
from genserve.errors import CallerError
from genserve.profile.table import Task

SIDES = (64, 128, 256, 512, 768, 1024, 1440)


def shapes_of(entry: ModelEntry) -> list[Shape]:
    """Squares from the smallest worth timing to twice the default; videos at the default's frames and at the fewest.

    What lies between is interpolated over pixels by whoever reads the table.
    """
    largest = min(entry.max_width, entry.max_height, 2 * entry.default_width)
    sides = {s for s in SIDES if entry.min_width <= s <= largest and s % entry.size_multiple == 0}
    frames = {entry.default_frames, entry.nearest_frames(entry.default_frames / 3)}
    squares = sorted(sides | {entry.default_width} if entry.default_width == entry.default_height else sides)
    return [Shape(side, side, count) for side in squares for count in sorted(frames)]


def degrees_of(wish: Sequence[int], *, gpus: int | None) -> tuple[int, ...]:
    """The degrees to time, by default 1 and 2 as far as there are GPUs; None are the processes of a CPU, of any number.

    Raises CallerError ``no_gpu`` or ``unsupported_degree``.
    """
    if gpus == 0:
        raise CallerError("no_gpu", "there is no GPU here; use auto or cpu", "device")
    if not wish:
        return tuple(degree for degree in (1, 2) if gpus is None or degree <= gpus)
    if min(wish) < 1 or (gpus is not None and max(wish) > gpus):
        limit = "on" if gpus is None else f"to {gpus}, one GPU for each of its processes"
        raise CallerError("unsupported_degree", f"a degree is a number from 1 {limit}, not {[*wish]}", "degree")
    return tuple(wish)


def tasks_of(
    entries: Iterable[ModelEntry], *, degrees: Sequence[int], batches: Sequence[int], shapes: Sequence[Shape] = ()
) -> Iterator[Task]:
    """Encode, decode and steps of every shape; degrees are timed alone, batches on one process."""
    for entry in entries:
        for shape in shapes or shapes_of(entry):
            yield Task(entry.name, Stage.ENCODE, shape)
            yield Task(entry.name, Stage.DECODE, shape)
            for degree in degrees:
                yield Task(entry.name, Stage.DENOISE, shape, degree)
            for batch in batches:
                if batch > 1 and entry.media == "image":
                    yield Task(entry.name, Stage.DENOISE, shape, 1, batch)
