"""Every example of the HTTP interface runs to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.conftest import Served

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "says", "files"),
    [
        ("openai_image.py", "wrote dawn.png", ["lighthouse-0.png", "lighthouse-1.png", "dawn-0.png", "dawn.png"]),
        ("openai_video.py", "wrote waves.mp4 and waves.webp", ["waves.mp4", "waves.webp"]),
        ("follow_events.py", "completed deadline met", []),
        ("curl.sh", "use a multiple of 16", ["waves.mp4"]),
    ],
)
def test_an_example_runs(served: Served, tmp_path: Path, name: str, says: str, files: list[str]) -> None:
    command = ["sh" if name.endswith(".sh") else sys.executable, str(EXAMPLES / name)]
    environment = {**os.environ, "GENSERVE_URL": served.url}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert says in done.stdout
    assert all((tmp_path / file).stat().st_size for file in files)
