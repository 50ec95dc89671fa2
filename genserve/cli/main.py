"""The ``genserve`` command; each command or group of commands is in a file of its own.

To add one: write ``genserve/cli/<name>.py`` with a function ``add_to(app)`` that hangs its commands on the app, and
list the module below. Import heavy things inside the command, so that ``genserve --help`` stays fast. Raise errors of
``genserve.errors``: the root group prints them and picks the exit code (see exits).
"""

from __future__ import annotations

from importlib import import_module

import typer

from genserve.cli.exits import ReportingGroup

HELP = """Serve text-to-image and text-to-video diffusion models by deadline, out of one event log.

Exit codes: 0 done, 1 the request or command failed, 2 wrong usage or refused input, 3 unavailable for now.
"""

app = typer.Typer(
    name="genserve",
    cls=ReportingGroup,
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root() -> None:
    """Hold the commands together."""


MODULES = (
    "serve",
    "submit",
    "status",
    "events",
    "models",
    "demo",
    "replay",
    "simulate",
    "compare",
    "bound",
    "profile",
    "timeline",
    "db",
)
"""The command files, in the order of ``genserve --help``."""

for name in MODULES:
    import_module(f"genserve.cli.{name}").add_to(app)
