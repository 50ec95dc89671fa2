"""``genserve demo``: a server, a mixed load with deadlines, the results and a replay of every decision."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from genserve.cli.serve import build_small_models, say

START_S = 120.0


def add_to(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Where log, checkpoints and results go; must not hold a log yet.")] = Path(
        "var/demo"
    ),
    port: Annotated[int, typer.Option(help="Port of the HTTP server.")] = 8000,
    planner: Annotated[str, typer.Option(help="Scheduling policy.")] = "save",
) -> None:
    """Make images and videos with deadlines on this machine, show how it goes, and verify the log by replay."""
    from genserve.cli.demo_load import print_results, run_load
    from genserve.config import load_settings
    from genserve.errors import CallerError

    began = time.monotonic()
    settings = load_settings()
    database = f"sqlite:///{out.absolute()}/genserve.db"
    if (out / "genserve.db").exists():
        raise CallerError("demo_exists", f"{out} holds the log of an earlier demo: remove it or choose another --out")
    build_small_models(settings)
    environ = {
        "GENSERVE_DATA_DIR": str(out.absolute()),
        "GENSERVE_DATABASE_URL": database,
        "GENSERVE_MODELS_DIR": str(settings.models.absolute()),
        "GENSERVE_HTTP__PORT": str(port),
        "GENSERVE_PLANNER": planner,
    }
    with _server(environ, out / "server.log", f"http://127.0.0.1:{port}") as url:
        jobs = asyncio.run(run_load(url, out / "results"))
    print_results(jobs)
    say("replaying the log: every decision is made again and compared")
    replayed = subprocess.run([sys.executable, "-m", "genserve", "replay", "--database", database], check=False)  # noqa: S603
    say(f"done in {time.monotonic() - began:.0f} s; results in {out / 'results'}, log in {out / 'genserve.db'}")
    if replayed.returncode or any(job.status != "completed" for job in jobs):
        raise typer.Exit(1)


@contextmanager
def _server(environ: dict[str, str], log: Path, url: str) -> Iterator[str]:
    """A ``genserve serve`` process, from ready to stopped."""
    log.parent.mkdir(parents=True, exist_ok=True)
    say(f"starting the server (its output goes to {log})")
    with log.open("wb") as output:
        command = [sys.executable, "-m", "genserve", "serve"]
        server = subprocess.Popen(command, env={**os.environ, **environ}, stdout=output, stderr=output)  # noqa: S603
        try:
            _wait_until_ready(server, url, log)
            yield url
        finally:
            say("stopping the server")
            server.send_signal(signal.SIGTERM)
            server.wait(60)


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    import httpx

    from genserve.errors import Unavailable

    patience = time.monotonic() + START_S
    while time.monotonic() < patience and server.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    raise Unavailable("server_not_started", f"the server did not become ready; the end of {log} says why")
