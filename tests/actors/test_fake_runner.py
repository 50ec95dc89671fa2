"""The fake runner keeps a runner's promises, so that what it shows of workers holds for real ones."""

from __future__ import annotations

from typing import Any

import pytest

from genserve.domain.request import RequestSpec
from genserve.scheduling.runner import Runner
from tests.actors.cell import an_image
from tests.actors.fake_runner import FakeRunner
from tests.actors.runner_contract import RunnerContract


class TestFakeRunner(RunnerContract):
    @pytest.fixture
    def runner(self) -> Runner:
        return FakeRunner()

    def spec(self, request_id: str, **changes: Any) -> RequestSpec:
        return an_image(request_id, **changes)
