"""Commands that read a recorded log take its URL or its file, and say so where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from genserve.cli.logs import read_history
from genserve.cli.main import app
from genserve.errors import CallerError
from genserve.journal.upgrade import upgrade


@pytest.mark.parametrize("form", ["{path}", "sqlite:///{path}"])
def test_a_log_is_named_by_its_file_or_its_url(form: str, tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    upgrade(f"sqlite:///{path}")
    assert list(read_history(form.format(path=path))) == []


@pytest.mark.parametrize("form", ["{path}", "sqlite:///{path}"])
def test_a_log_that_does_not_exist_is_named_and_not_made(form: str, tmp_path: Path) -> None:
    path = tmp_path / "absent.db"
    with pytest.raises(CallerError, match=f"log_not_found.*{path}"):
        list(read_history(form.format(path=path)))
    assert not path.exists()


@pytest.mark.parametrize("command", ["timeline", "replay"])
def test_the_command_fails_in_one_line(command: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [command, "--database", str(tmp_path / "absent.db")])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
