"""The access rules at the Kafka brokers, from `acl.toml`: who may do what with which topics and groups."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal, get_args

from resources.errors import Rejected

Resource = Literal["topic", "group", "cluster"]
Operation = Literal["read", "write", "create", "delete", "describe", "describe_configs"]

FILE: Final = Path(__file__).with_name("acl.toml")
_SECTIONS: Final[dict[str, Resource]] = {"topics": "topic", "groups": "group", "cluster": "cluster"}


@dataclass(frozen=True, slots=True)
class Rule:
    """One user's rights to one resource. A `name` that ends in `*` stands for all names that begin so."""

    user: str
    resource: Resource
    name: str
    operations: tuple[Operation, ...]

    @property
    def prefix(self) -> str | None:
        """What the names begin with where the rule is for several, else None."""
        return self.name.removesuffix("*") if self.name.endswith("*") else None

    def covers(self, name: str) -> bool:
        """Whether the rule is about `name`."""
        return name == self.name if self.prefix is None else name.startswith(self.prefix)


@dataclass(frozen=True, slots=True)
class User:
    """A user of the brokers, what it is for, and its rules."""

    name: str
    purpose: str
    rules: tuple[Rule, ...]


@cache
def users() -> tuple[User, ...]:
    """All users and their rules. Raises Rejected where the file says something unknown."""
    return tuple(_user(name, entry) for name, entry in tomllib.loads(FILE.read_text()).items())


def allowed(user: str, resource: Resource, name: str, operation: Operation) -> bool:
    """Whether the rules let `user` do this."""
    return any(
        rule.resource == resource and operation in rule.operations and rule.covers(name)
        for one in users()
        if one.name == user
        for rule in one.rules
    )


def acl_table() -> str:
    """The rules as the documentation shows them."""
    rows = ["| user | topic or group | may |", "|---|---|---|"]
    for user in users():
        rows.append(f"| **{user.name}** | | *{user.purpose}* |")
        rows += [f"| | {rule.resource} `{rule.name}` | {', '.join(rule.operations)} |" for rule in user.rules]
    return "\n".join(rows)


def _user(name: str, entry: dict[str, object]) -> User:
    return User(name, str(entry.get("purpose", "")), tuple(_rules(name, entry)))


def _rules(user: str, entry: dict[str, object]) -> Iterator[Rule]:
    for section, named in entry.items():
        if section == "purpose":
            continue
        if section not in _SECTIONS or not isinstance(named, dict):
            raise Rejected(f"{FILE.name}: {user} has {section!r}, which is none of {', '.join(_SECTIONS)}")
        for name, operations in named.items():
            unknown = set(operations) - set(get_args(Operation))
            if unknown:
                raise Rejected(f"{FILE.name}: {user} may {', '.join(unknown)} {name}, which Kafka does not know")
            yield Rule(user, _SECTIONS[section], name, tuple(operations))
