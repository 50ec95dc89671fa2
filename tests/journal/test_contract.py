"""The contract suite on every storage."""

from __future__ import annotations

import pytest

from genserve.journal import MemoryStorage, open_storage
from tests.journal.append_contract import AppendContract
from tests.journal.helpers import Opener
from tests.journal.owner_contract import OwnerContract
from tests.journal.view_contract import ViewContract


class Contract(AppendContract, OwnerContract, ViewContract):
    """All of it."""


class TestMemory(Contract):
    @pytest.fixture
    def open_log(self) -> Opener:
        storage = MemoryStorage()
        return lambda: storage


class TestSqlite(Contract):
    @pytest.fixture
    def open_log(self, sqlite_url: str) -> Opener:
        return lambda: open_storage(sqlite_url)


class TestPostgres(Contract):
    @pytest.fixture
    def open_log(self, postgres_url: str) -> Opener:
        return lambda: open_storage(postgres_url)
