"""Make the small checkpoints of a catalog in the diffusers folder format; not for downloading real ones."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from genserve.diffusion.catalog import Catalog, ModelEntry, TinyRecipe
from genserve.errors import CallerError

MARK = "genserve_recipe.json"
"""The file that says which recipe a folder was built from; a folder without it is never touched."""

FORMAT = 1
"""Goes into the recipe's digest: raise it when the builders change what a recipe means."""


class Built(msgspec.Struct, frozen=True):
    """What became of one entry: ``state`` is built, present, missing or external (no recipe, or not ours)."""

    name: str
    folder: Path
    state: str


def build_models(
    directory: Path | str, catalog: Catalog, progress: Callable[[str], None] = lambda _: None
) -> list[Built]:
    """Make every small checkpoint that is absent or was built from another recipe.

    A folder appears complete or not at all, and two processes may build at once. Raises CallerError
    ``checkpoint_in_the_way`` where a folder exists that this function did not make.
    """
    built = []
    for before in list_models(directory, catalog):
        entry = catalog.get(before.name)
        if entry.recipe is None or before.state == "present":
            progress(f"{entry.name}: {before.state} in {before.folder}")
            built.append(before)
            continue
        progress(f"{entry.name}: building in {before.folder}")
        _build(entry, entry.recipe, before.folder)
        built.append(Built(entry.name, before.folder, "built"))
    return built


def list_models(directory: Path | str, catalog: Catalog) -> list[Built]:
    """Where every entry's checkpoint is and whether it is there; imports no torch."""
    return [Built(entry.name, entry.folder(directory), _state(entry, directory)) for entry in catalog.models]


def recipe_digest(recipe: TinyRecipe) -> str:
    """SHA-256 of the recipe and of the builders' format."""
    return hashlib.sha256(msgspec.json.encode((FORMAT, recipe), order="deterministic")).hexdigest()


def _state(entry: ModelEntry, directory: Path | str) -> str:
    folder = entry.folder(directory)
    if entry.recipe is None:
        return "external" if folder.is_dir() else "missing"
    return "present" if _built_from(folder) == recipe_digest(entry.recipe) else "missing"


def _built_from(folder: Path) -> str | None:
    try:
        return str(msgspec.json.decode((folder / MARK).read_bytes())["digest"])
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return None


def _build(entry: ModelEntry, recipe: TinyRecipe, folder: Path) -> None:
    from genserve.diffusion.architectures import build_pipeline
    from genserve.diffusion.quiet import quiet

    if folder.exists() and _built_from(folder) is None:
        message = f"{folder} holds something that was not built from a recipe: move it, or change {entry.name}'s path"
        raise CallerError("checkpoint_in_the_way", message)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{entry.name}-") as scratch:
        fresh = Path(scratch) / "checkpoint"
        with quiet():
            build_pipeline(recipe).save_pretrained(fresh)
        (fresh / MARK).write_bytes(msgspec.json.encode({"digest": recipe_digest(recipe), "recipe": recipe}))
        _replace(folder, fresh, old=Path(scratch) / "old")
        if _built_from(folder) != recipe_digest(recipe):
            raise CallerError("checkpoint_in_the_way", f"{folder} changed while {entry.name} was being built")


def _replace(folder: Path, fresh: Path, *, old: Path) -> None:
    """Put ``fresh`` in the place of ``folder``; whoever else built the same meanwhile may win."""
    with contextlib.suppress(FileNotFoundError):
        folder.rename(old)
    with contextlib.suppress(OSError):
        fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
