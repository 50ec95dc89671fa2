"""Files exist whole or not at all."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from genserve.scheduling.files import read_verified, write_durably


def test_what_was_written_is_read_back_by_its_hash(tmp_path: Path) -> None:
    sha256 = write_durably(tmp_path / "folder" / "file", b"content")
    assert read_verified(tmp_path / "folder" / "file", sha256) == b"content"
    assert read_verified(tmp_path / "folder" / "file", "0" * 64) is None


def test_what_does_not_fit_on_the_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_durably(tmp_path / "file", b"content")
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_leave_one_whole_file(tmp_path: Path) -> None:
    contents = [bytes([number]) * 1_000 for number in range(8)]
    with ThreadPoolExecutor(len(contents)) as threads:
        for _ in range(10):
            list(threads.map(lambda content: write_durably(tmp_path / "file", content), contents))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() in contents
