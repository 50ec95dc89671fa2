"""Files that either exist whole or not at all: checkpoints and artifacts; not where they are named."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Set
from pathlib import Path


def write_durably(path: Path, content: bytes) -> str:
    """Write under a temporary name, sync, rename, sync the folder; returns the content's SHA-256.

    After a crash the path holds the whole content or is absent; what does not fit leaves nothing behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return hashlib.sha256(content).hexdigest()


def read_verified(path: Path | str, sha256: str) -> bytes | None:
    """The file's bytes if it exists and is what was written, else None."""
    try:
        content = Path(path).read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == sha256 else None


def remove(path: Path | str) -> None:
    """Delete a file, if it is there."""
    Path(path).unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Delete a folder with everything in it, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def keep_only(folder: Path, names: Set[str]) -> None:
    """Delete what a folder holds beside those names."""
    for path in [*folder.iterdir()] if folder.is_dir() else []:
        if path.name not in names:
            remove_folder(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
