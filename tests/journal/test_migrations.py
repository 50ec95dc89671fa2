"""Migrations agree with the tables and travel in the wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from genserve.journal.errors import JournalUnavailable
from genserve.journal.tables import metadata
from genserve.journal.upgrade import check, current, latest, upgrade
from tests.journal.conftest import PostgresServer

ROOT = Path(__file__).parents[2]


def test_the_migrated_database_has_exactly_our_tables(sql_url: str) -> None:
    engine = create_engine(sql_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_upgrading_twice_changes_nothing(sql_url: str) -> None:
    assert current(sql_url) == latest()
    assert upgrade(sql_url) == latest()
    check(sql_url)


def test_a_database_that_was_never_set_up_has_no_revision(tmp_path: Path, postgres: PostgresServer) -> None:
    assert current(f"sqlite:///{tmp_path}/empty.db") is None
    assert current(postgres.new_database(template="template1")) is None


def test_a_wheel_can_set_up_a_database(tmp_path: Path) -> None:
    """Built from a copy, unpacked elsewhere, and used without the checkout on the path."""
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(ROOT / "pyproject.toml", source)
    for package in ("genserve", "migrations"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("README.md", "LICENSE"):
        (source / part).write_text("x")
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('..'))"
    subprocess.run([sys.executable, "-W", "ignore", "-c", build], cwd=source, check=True, capture_output=True)
    site = tmp_path / "site"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    script = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import genserve; from genserve.journal.upgrade import upgrade\n"
        "print(genserve.__file__, upgrade('sqlite:///new.db'))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(site / "genserve" / "__init__.py"), latest()]


@pytest.mark.parametrize("url", ["sqlite:////absent/folder/log.db", "postgresql+psycopg://me:secret@127.0.0.1:1/log"])
def test_a_database_that_cannot_be_used_is_named_without_its_password(url: str) -> None:
    with pytest.raises(JournalUnavailable) as refusal:
        upgrade(url)
    assert url.replace("secret", "***") in str(refusal.value)
