"""What every test of actors relies on: no Ray unless it is asked for, and a cell in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import ray

from actors import recollection
from genserve.audit.replay import replay
from tests.actors.cell import LocalCell, told
from tests.actors.virtual_time import run


@pytest.fixture(autouse=True)
def _no_ray(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting Ray is an error, except in tests marked with ``ray``."""
    if request.node.get_closest_marker("ray") is None:
        monkeypatch.setattr(ray, "init", _refuse)


@pytest.fixture(autouse=True)
def _frequent_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs of tests are short: without this nobody would ever recover from a snapshot."""
    monkeypatch.setattr(recollection, "EVERY", 10)


def _refuse(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("this test may not start Ray: mark it with `ray`")


@pytest.fixture
def in_cell(tmp_path: Path) -> Callable[..., None]:
    """Runs a test in a started cell with the given options; afterwards the log obeys the laws and replays."""

    async def main(test: Callable[[LocalCell], Coroutine[Any, Any, None]], options: dict[str, Any]) -> None:
        cell = await LocalCell(tmp_path, **options).start()
        await test(cell)
        assert cell.violations() == [], told(cell.log)
        report = replay(cell.log)
        assert report.is_clean, str(report.first)

    return lambda test, **options: run(main(test, options))
