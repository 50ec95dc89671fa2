"""How a command ends: the exit codes, and errors as one line in place of a traceback; not what commands do."""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import Any

import typer
from typer.core import TyperGroup

from genserve.errors import CallerError, GenServeError, RefusedByPolicy


class ExitCode(IntEnum):
    """What scripts may rely on."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 3
    INTERRUPTED = 130


def exit_code(error: GenServeError) -> ExitCode:
    """The caller's fault is usage, what may work later is unavailable, the rest is a failure."""
    if isinstance(error, CallerError):
        return ExitCode.USAGE
    return ExitCode.UNAVAILABLE if isinstance(error, RefusedByPolicy) else ExitCode.FAILED


class ReportingGroup(TyperGroup):
    """The root group: turns our errors, from any command, into one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except GenServeError as error:
            typer.echo(f"error: {error.message} [{error.code}]", err=True)
            sys.exit(exit_code(error))
