"""PostgreSQL with psql, psycopg and asyncpg: sign-in, bulk both ways, cancelling, notifications."""

from __future__ import annotations

import hashlib
import time

import psycopg
import pytest

from tests.interop.conftest import Servers
from tests.interop.programs import needs
from tests.interop.recipe import Pod

pytestmark = needs("initdb", "postgres", "psql")


@pytest.fixture
def sql(servers: Servers, web: Pod) -> Pod:
    servers.serve("db", "PostgreSQL")
    web.follow("PostgreSQL")  # every test needs its `forward`, so every test is the page's
    return web


def test_sessions_copy_in_and_out_and_a_query_is_cancelled(sql: Pod) -> None:
    rows = [(n, hashlib.sha256(str(n).encode()).hexdigest()) for n in range(50_000)]
    with psycopg.connect(host=str(sql.folder), user="baker", password="cardamom", dbname="postgres") as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TEMPORARY TABLE loaves (n int, name text)")
        with cursor.copy("COPY loaves FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        assert cursor.execute("SELECT * FROM loaves ORDER BY n").fetchall() == rows
        connection.commit()
        cursor.execute("SET statement_timeout = '40s'")
        connection.commit()
        with psycopg.connect(
            host=str(sql.folder), user="baker", password="cardamom", dbname="postgres", autocommit=True
        ) as other:
            other.execute("LISTEN oven")
            connection.execute("NOTIFY oven, 'hot'")
            connection.commit()
            assert [notice.payload for notice in other.notifies(timeout=10, stop_after=1)] == ["hot"]
            asked = time.monotonic()
            pipeline = connection.pgconn
            pipeline.send_query(b"SELECT pg_sleep(50)")
            pipeline.flush()
            # PostgreSQL forgets a cancel that comes before the query has begun, so see it run.
            running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'"
            while other.execute(running).fetchone() == (0,):
                assert time.monotonic() - asked < 30
        connection.cancel_safe(timeout=10)
        result = pipeline.get_result()
        assert result is not None
        assert b"canceling statement due to user request" in result.error_message
        assert pipeline.get_result() is None
