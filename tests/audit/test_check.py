"""A stored log is checked end to end, and the command says so to people and scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genserve.audit.check import check_log
from genserve.cli.main import app
from genserve.domain import events as e
from genserve.journal.open import open_reader
from tests.audit.logs import a_simulated_log, flip, store


@pytest.fixture
async def url(tmp_path: Path) -> str:
    return await store(a_simulated_log(), tmp_path / "log.db")


def position_of(kind: type[e.Event], url: str) -> int:
    reader = open_reader(url)
    found = [r.position for r in reader.read(0) if isinstance(r.event, kind)]
    reader.close()
    return found[len(found) // 2]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["replay", *arguments])
    return result.exit_code, result.stdout


async def test_a_stored_log_replays_as_it_was_written(url: str) -> None:
    reader = open_reader(url)
    check = check_log(reader)
    reader.close()
    assert check.chain.is_sound
    assert check.replay.equal == check.replay.decisions > 5
    assert check.replay.events == check.chain.checked


async def test_one_altered_byte_is_found_where_it_is(url: str, tmp_path: Path) -> None:
    position = position_of(e.StageStarted, url)
    flip(tmp_path / "log.db", position)
    reader = open_reader(url)
    check = check_log(reader)
    reader.close()
    assert (check.chain.position, check.chain.problem) == (position, "altered")
    assert check.position == position
    assert check.replay.last_position == position - 1


async def test_the_command_counts_equal_decisions_and_exits_with_0(url: str) -> None:
    code, text = run("--database", url)
    assert code == 0
    assert "equal, over" in text
    assert "hash chain sound" in text
    assert text.endswith("the log is as it was written\n")


async def test_the_command_exits_with_1_and_the_position_of_an_altered_byte(url: str, tmp_path: Path) -> None:
    position = position_of(e.PlanDecided, url)
    flip(tmp_path / "log.db", position)
    code, text = run("--database", url)
    assert code == 1
    assert f"hash chain broken at position {position}: altered" in text
    assert f"FAILED, first at position {position}" in text


async def test_json_says_the_same_to_a_script(url: str, tmp_path: Path) -> None:
    code, text = run("--database", url, "--json")
    told = json.loads(text)
    assert (code, told["is_clean"], told["position"]) == (0, True, 0)
    assert told["replay"]["equal"] == told["replay"]["decisions"]
    position = position_of(e.StageFinished, url)
    flip(tmp_path / "log.db", position)
    code, text = run("--database", url, "--json")
    assert (code, json.loads(text)["position"]) == (1, position)
