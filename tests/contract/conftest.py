"""The fixtures of the suites that fill several files: the bus's and the store's."""

from tests.contract.buses import bus, opener, topic
from tests.contract.stores import overrides, store

__all__ = ["bus", "opener", "overrides", "store", "topic"]
