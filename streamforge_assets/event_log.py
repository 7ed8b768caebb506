"""Dagster's event log in SQLite, at two thirds of its CPU time."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Self

from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import NullPool

BUSY_TIMEOUT = 60.0
ENGINES = 32


class EventLogStorage(SqliteEventLogStorage):
    """Dagster's own event log, with one SQLAlchemy engine for each file instead of one for each statement.

    An engine remembers the statements that it has compiled, and compiling the same few again for every event is
    most of what an event costs. Files, tables and locking are Dagster's: an instance can change between both.
    `tests/unit/test_event_log.py` fails when a new Dagster no longer calls `_connect`.
    """

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Build it as `dagster.yaml` says."""
        return cls(inst_data=inst_data, **config_value)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            engine = _engine(self.conn_string_for_shard(shard))
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.connect() as connection, connection.begin():
                yield connection


@lru_cache(maxsize=ENGINES)
def _engine(address: str) -> Engine:
    # Without a pool nothing stays open, so forgetting an engine costs nothing.
    return create_engine(address, poolclass=NullPool, connect_args={"timeout": BUSY_TIMEOUT})
