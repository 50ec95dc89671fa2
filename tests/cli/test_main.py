"""The command itself: it starts fast, explains itself, and turns errors into exit codes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from genserve.cli.client import parse_events
from genserve.cli.exits import ReportingGroup
from genserve.cli.main import app
from genserve.cli.options import parse_duration_ms
from genserve.errors import CallerError, GenServeError, InvariantBroken, RefusedByPolicy, Unavailable

HEAVY = {"torch", "diffusers", "transformers", "ray", "sqlalchemy", "fastapi", "numpy", "httpx"}


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom genserve.cli.main import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "genserve", "-h"], capture_output=True, text=True, check=True)
    assert "Usage: genserve" in done.stdout


@pytest.mark.parametrize("command", [["submit", "image"], ["submit", "video"], ["status"], ["events"], ["cancel"]])
def test_every_command_has_an_example(command: list[str]) -> None:
    assert "Example" in CliRunner().invoke(app, [*command, "--help"]).output


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CallerError("a", "change it"), 2),
        (RefusedByPolicy("a", "later"), 3),
        (Unavailable("a", "away"), 3),
        (GenServeError("a", "failed"), 1),
        (InvariantBroken("a", "bug"), 1),
    ],
)
def test_errors_become_one_line_and_an_exit_code(error: GenServeError, code: int) -> None:
    broken = typer.Typer(cls=ReportingGroup)

    @broken.callback()
    def root() -> None: ...

    @broken.command()
    def run() -> None:
        raise error

    result = CliRunner().invoke(broken, ["run"])
    assert (result.exit_code, result.stderr) == (code, f"error: {error.message} [a]\n")


@pytest.mark.parametrize(("text", "ms"), [("500ms", 500), ("30s", 30_000), ("1.5m", 90_000), ("2h", 7_200_000)])
def test_durations_have_units(text: str, ms: int) -> None:
    assert parse_duration_ms(text) == ms


def lines(text: str) -> Iterator[str]:
    return iter(text.split("\n"))


def test_events_are_parsed_past_comments() -> None:
    (event,) = parse_events(lines(': connected\n\nid: 7\nevent: X\ndata: {"a": 1}\n\n: still here\n\n'))
    assert event == (7, "X", {"a": 1})


def test_an_error_event_is_raised() -> None:
    with pytest.raises(Unavailable, match="journal_unavailable"):
        list(parse_events(lines('event: error\ndata: {"error": {"code": "journal_unavailable", "message": "m"}}\n\n')))
