"""Requests through the whole system, undisturbed."""

from __future__ import annotations

from collections.abc import Callable

from tests.actors.cell import LocalCell, an_image
from tests.actors.virtual_time import run

MakeCell = Callable[..., LocalCell]


def test_an_image_travels_from_submission_to_a_stored_result(make_cell: MakeCell) -> None:
    async def main() -> None:
        cell = await make_cell().start()
        await cell.submit(an_image())
        await cell.finish("i1")
        assert cell.story("i1") == [
            "RequestSubmitted",
            "StageStarted",
            "StageFinished",
            "StageStarted",
            "LatentsCheckpointed",
            "StepsFinished",
            "StageFinished",
            "StageStarted",
            "StageFinished",
            "ArtifactStored",
            "RequestCompleted",
        ]

    run(main())
