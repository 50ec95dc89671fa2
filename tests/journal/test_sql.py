"""What only databases can do: triggers, altered bytes, a server that goes away, damaged snapshots."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from genserve.errors import CallerError, InvariantBroken
from genserve.journal import JournalUnavailable, Receipt, Snapshot, open_reader, open_storage
from genserve.journal.rows import chain_of
from genserve.journal.verify import verify
from tests.journal.conftest import PostgresServer
from tests.journal.helpers import decided, running, steps, submitted, until

FIELDS = {
    "stream_id": "'request/r2'",
    "stream_version": "99",
    "type": "'RequestPaused'",
    "schema_version": "2",
    "kind": "'decision'",
    "event_id": "'0'",
    "producer_seq": "77",
    "unit_index": "9",
    "fence": "1",
    "occurred_us": "occurred_us + 1",
    "recorded_us": "recorded_us + 1",
    "causation_position": "4",
    "correlation_id": "'x'",
    "commit_id": "3",
    "payload": "replace(payload, '50000', '50001')",
    "chain_hash": "(SELECT chain_hash FROM log_head)",
}
NO_TRIGGERS = {
    "sqlite": ["DROP TRIGGER events_no_update", "DROP TRIGGER events_no_delete"],
    "postgresql": ["ALTER TABLE events DISABLE TRIGGER ALL"],
}


def execute(url: str, *statements: str) -> None:
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))
    finally:
        engine.dispose()


def tamper(url: str, *statements: str) -> None:
    execute(url, *NO_TRIGGERS[create_engine(url).dialect.name], *statements)


async def a_log(url: str) -> None:
    """Ten events in three commits."""
    async with running(open_storage(url)) as journal:
        await journal.append([submitted(steps=20)])
        await journal.append([steps(count=5, seq=0)])
        await journal.append([steps(at=5, count=3, seq=1), decided(9)])


def verdict(url: str) -> tuple[int, str]:
    reader = open_reader(url)
    found = verify(reader)
    reader.close()
    return found.position, found.problem


@pytest.mark.parametrize("statement", ["UPDATE events SET type = 'x'", "DELETE FROM events", "DELETE FROM commits"])
async def test_the_log_refuses_to_be_rewritten(sql_url: str, statement: str) -> None:
    await a_log(sql_url)
    with pytest.raises(IntegrityError, match="append-only"):
        execute(sql_url, statement)


async def test_an_untouched_log_is_sound(sql_url: str) -> None:
    await a_log(sql_url)
    assert verdict(sql_url) == (0, "")


@pytest.mark.parametrize("column", FIELDS)
async def test_one_altered_field_is_found_where_it_is(sqlite_url: str, column: str) -> None:
    await a_log(sqlite_url)
    tamper(sqlite_url, f"UPDATE events SET {column} = {FIELDS[column]} WHERE position = 5")
    assert verdict(sqlite_url) == (5, "altered")


async def test_an_altered_payload_is_found_in_postgres_too(postgres_url: str) -> None:
    await a_log(postgres_url)
    tamper(postgres_url, f"UPDATE events SET payload = {FIELDS['payload']} WHERE position = 5")
    assert verdict(postgres_url) == (5, "altered")


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        (["DELETE FROM events WHERE position = 4"], (4, "missing")),
        (["DELETE FROM events WHERE position = 10"], (10, "missing")),
        (["DELETE FROM events WHERE position >= 7"], (7, "missing")),
        (["DELETE FROM events WHERE position = 1"], (1, "missing")),
        (
            [
                "UPDATE events SET position = -1, stream_version = -1 WHERE position = 4",
                "UPDATE events SET position = 4 WHERE position = 5",
                "UPDATE events SET position = 5 WHERE position = -1",
            ],
            (4, "altered"),
        ),
        (["DELETE FROM events WHERE position > 6", "UPDATE log_head SET position = 6"], (6, "head_mismatch")),
        (["DROP TRIGGER commits_no_delete", "DELETE FROM commits WHERE commit_id = 2"], (2, "commit_mismatch")),
        (["DROP TRIGGER commits_no_update", "UPDATE commits SET last_position = 5"], (2, "commit_mismatch")),
    ],
)
async def test_missing_and_moved_rows_are_found(
    sqlite_url: str, statements: list[str], expected: tuple[int, str]
) -> None:
    await a_log(sqlite_url)
    tamper(sqlite_url, *statements)
    assert verdict(sqlite_url) == expected


async def test_a_forged_event_with_a_hash_of_its_own_breaks_the_chain_behind_it(sqlite_url: str) -> None:
    await a_log(sqlite_url)
    reader = open_reader(sqlite_url)
    before, row = reader.read_rows(2, limit=2)
    reader.close()
    forged = row._replace(payload=row.payload.replace("50000", "1"))
    tamper(
        sqlite_url,
        f"UPDATE events SET payload = '{forged.payload.replace(':', chr(92) + ':')}', "
        f"chain_hash = x'{chain_of(before.chain_hash, forged).hex()}' WHERE position = 4",
    )
    assert verdict(sqlite_url) == (5, "altered")


async def test_a_damaged_snapshot_is_passed_over(sql_url: str) -> None:
    async with running(open_storage(sql_url)) as journal:
        await journal.append([steps(count=9)])
        for position in (3, 5):
            await journal.store_snapshot(Snapshot("state", position, 1, "json", b"at %d" % position))
    execute(sql_url, "UPDATE snapshots SET data = (SELECT data FROM snapshots WHERE position = 3) WHERE position = 5")
    reader = open_reader(sql_url)
    found = reader.load_snapshot("state", 1)
    reader.close()
    assert found == Snapshot("state", 3, 1, "json", b"at 3")


async def test_the_journal_goes_on_after_its_connection_was_cut(postgres: PostgresServer, postgres_url: str) -> None:
    async with running(open_storage(postgres_url)) as journal:
        await journal.append([steps(seq=0)])
        journal.reader.head()
        postgres.admin("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'test_%'")
        with pytest.raises(JournalUnavailable):
            await journal.append([steps(at=1, seq=1)])
        await until(lambda: journal.is_available)
        assert await journal.append([steps(at=1, seq=1)]) == Receipt(2, 2)
        assert journal.reader.head().position == 2


async def test_a_reader_sees_commits_of_a_writer_it_does_not_know(sql_url: str) -> None:
    reader = open_reader(sql_url)
    async with running(open_storage(sql_url)) as journal:
        await journal.append([submitted()])
        assert len(await asyncio.to_thread(reader.read, 0)) == 1
        await journal.append([steps()])
        assert len(await asyncio.to_thread(reader.read, 1)) == 1
        assert reader.head().position == 2
    reader.close()


def test_a_reader_cannot_write(sql_url: str) -> None:
    reader: Any = open_reader(sql_url)
    with pytest.raises(Exception, match=r"readonly|read-only"), reader._engine.begin() as connection:
        connection.execute(text("UPDATE log_head SET position = 9"))
    reader.close()


def test_an_empty_database_is_refused_with_what_to_do(tmp_path: Any) -> None:
    with pytest.raises(InvariantBroken, match="genserve db upgrade") as refused:
        open_storage(f"sqlite:///{tmp_path}/none.db")
    assert refused.value.code == "schema_mismatch"
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("url", ["mysql://h/d", "nonsense", "sqlite://", "postgresql+asyncpg://h/d"])
def test_other_databases_are_refused_with_what_can_be_used(url: str) -> None:
    with pytest.raises(CallerError, match="sqlite:///path, postgresql"):
        open_storage(url)
