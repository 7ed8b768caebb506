"""Dagster's event log in SQLite, without opening the file anew for every event."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Self

from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import QueuePool

BUSY_TIMEOUT = 60.0
ENGINES = 32


class EventLogStorage(SqliteEventLogStorage):
    """Dagster's own event log, with one SQLAlchemy engine for each file instead of one for each statement.

    An engine remembers the statements that it has compiled, and keeps a connection open. Closing the last
    connection makes SQLite fold its write-ahead log into the file, which is most of what an event costs.
    Files, tables and locking are Dagster's: an instance can change between both.
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
    return create_engine(
        address,
        poolclass=QueuePool,
        pool_size=1,
        connect_args={
            "timeout": BUSY_TIMEOUT,
            "check_same_thread": False,
        },  # `_db_lock` lets one thread in at a time
    )
