"""``genserve replay``: was the log altered, and would today's code decide the same? Not a simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from genserve.cli.exits import ExitCode
from genserve.cli.logs import open_log

if TYPE_CHECKING:
    from genserve.audit.check import LogCheck

SHOWN_VIOLATIONS = 10


def add_to(app: typer.Typer) -> None:
    app.command()(replay)


def replay(
    database: Annotated[str, typer.Option(help="URL or SQLite file; by default that of the settings.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Make every decision of a log again and compare; check its hash chain and its laws.

    Exits with 0 if the log is unaltered and all decisions are equal, else with 1 and the first position at fault.
    """
    from genserve.audit.check import check_log

    with open_log(database) as reader:
        check = check_log(reader)
    print(_as_json(check) if as_json else _as_text(check))
    if not check.is_clean:
        raise typer.Exit(ExitCode.FAILED)


def _as_text(check: LogCheck) -> str:
    chain, report = check.chain, check.replay
    rate = report.decisions / max(report.took_s, 1e-9)
    lines = [f"decisions  {report.equal} of {report.decisions} equal, over {report.events} events ({rate:,.0f}/s)"]
    if report.first is not None:
        lines.append(f"           {report.first}".replace("\n", "\n           "))
    if chain.is_sound:
        lines.append(f"hash chain sound over {chain.checked} events")
    else:
        lines.append(f"hash chain broken at position {chain.position}: {chain.problem}: {chain.detail}")
    lines.append(f"laws       {report.violation_count or 'no'} violations")
    lines += [f"           {violation}" for violation in report.violations[:SHOWN_VIOLATIONS]]
    lines.append("the log is as it was written" if check.is_clean else f"FAILED, first at position {check.position}")
    return "\n".join(lines)


def _as_json(check: LogCheck) -> str:
    import msgspec

    fields: dict[str, Any] = {"is_clean": check.is_clean, "position": check.position}
    fields |= {"chain": check.chain, "replay": check.replay}
    return msgspec.json.encode(fields).decode()
