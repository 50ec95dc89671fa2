from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from genserve.diffusion.build import MARK, build_models, list_models
from genserve.diffusion.catalog import Catalog, ModelEntry
from genserve.errors import CallerError

pytestmark = pytest.mark.models


def only(name: str) -> Catalog:
    return Catalog(models=(Catalog.load().get(name),))


def with_seed(catalog: Catalog, seed: int) -> Catalog:
    entry = catalog.models[0]
    assert entry.recipe is not None
    recipe = msgspec.structs.replace(entry.recipe, seed=seed)
    return Catalog(models=(msgspec.structs.replace(entry, recipe=recipe),))


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", Catalog.load().names)
def test_a_second_build_elsewhere_has_the_same_bytes(name: str, models_dir: Path, tmp_path: Path) -> None:
    build_models(tmp_path, only(name))
    assert contents(tmp_path / name) == contents(models_dir / name)


def test_a_checkpoint_that_is_there_is_not_built_again(tmp_path: Path) -> None:
    catalog, lines = only("tiny-wan"), list[str]()
    assert [built.state for built in list_models(tmp_path, catalog)] == ["missing"]
    assert [built.state for built in build_models(tmp_path, catalog)] == ["built"]
    before = (tmp_path / "tiny-wan" / MARK).stat().st_mtime_ns
    assert [built.state for built in build_models(tmp_path, catalog, lines.append)] == ["present"]
    assert (tmp_path / "tiny-wan" / MARK).stat().st_mtime_ns == before
    assert lines == [f"tiny-wan: present in {tmp_path / 'tiny-wan'}"]


def test_another_recipe_replaces_what_was_built_and_leaves_nothing_behind(tmp_path: Path) -> None:
    catalog = only("tiny-wan")
    build_models(tmp_path, catalog)
    first = contents(tmp_path / "tiny-wan")
    assert [built.state for built in build_models(tmp_path, with_seed(catalog, 99))] == ["built"]
    assert contents(tmp_path / "tiny-wan") != first
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-wan"]


def test_a_folder_that_was_not_built_from_a_recipe_is_never_touched(tmp_path: Path) -> None:
    mine = tmp_path / "tiny-wan" / "weights"
    mine.parent.mkdir()
    mine.write_text("years of training")
    with pytest.raises(CallerError, match=r"checkpoint_in_the_way.*tiny-wan"):
        build_models(tmp_path, only("tiny-wan"))
    assert mine.read_text() == "years of training"


def test_an_entry_without_a_recipe_is_left_to_its_owner(tmp_path: Path) -> None:
    entry: ModelEntry = msgspec.structs.replace(Catalog.load().get("tiny-wan"), recipe=None)
    catalog = Catalog(models=(entry,))
    assert [built.state for built in build_models(tmp_path, catalog)] == ["missing"]
    (tmp_path / "tiny-wan").mkdir()
    assert [built.state for built in build_models(tmp_path, catalog)] == ["external"]
