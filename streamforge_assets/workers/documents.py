"""Writing documents in batches: what cannot be written for now is tried again, and only that.

Kafka Connect's sink repeats a whole batch when one document of it meets a conflict; here the others are done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from resources.bus.port import Delivery
from resources.datasets import Dataset
from resources.errors import Rejected, Unavailable
from resources.live_rows import rows_table
from resources.store.port import Store
from streamforge_assets.workers.patience import Patience


@dataclass(frozen=True, slots=True)
class Document:
    """One row on its way, and the message that brought it."""

    dataset: Dataset
    row: dict[str, Any]
    delivery: Delivery

    @property
    def key(self) -> Hashable:
        """What identifies it in the store."""
        return (self.dataset.name, *(str(self.row[name]) for name in self.dataset.record.key))


Outcome = Rejected | Unavailable | None
"""What became of one document: written, wrong for good, or not written for now."""

Write = Callable[[Sequence[Document]], Awaitable[Sequence[Outcome]]]
"""Writes documents in order and says what became of each."""


async def write_all(
    documents: Sequence[Document], write: Write, patience: Patience
) -> list[tuple[Document, Rejected]]:
    """Write all documents; returns those that are wrong, each with the reason.

    Documents of one key keep their order: one whose successor is written already is not tried again.

    Raises:
        Unavailable: some could not be written within the patience. The others are; all may be written again.
    """
    wrong: list[tuple[Document, Rejected]] = []
    waiting = list(documents)
    while waiting:
        outcomes = await write(waiting)
        written = {d.key: at for at, (d, o) in enumerate(zip(waiting, outcomes, strict=True)) if o is None}
        again: list[Document] = []
        trouble: Unavailable | None = None
        for at, (document, outcome) in enumerate(zip(waiting, outcomes, strict=True)):
            if isinstance(outcome, Rejected):
                wrong.append((document, outcome))
            elif outcome is not None and written.get(document.key, -1) < at:
                again.append(document)
                trouble = trouble or outcome
        if written:
            patience.succeeded()
        if trouble is not None:
            await patience.bear(trouble, concerned=len(again))
        waiting = again
    return wrong


def store_writer(store: Store) -> Write:
    """Write through the store's upsert, which takes or refuses a batch as a whole: a refused one is halved."""

    async def write(documents: Sequence[Document]) -> list[Outcome]:
        outcomes: list[Outcome] = [None] * len(documents)
        for dataset in dict.fromkeys(document.dataset for document in documents):
            await upsert(
                dataset, [at for at, d in enumerate(documents) if d.dataset == dataset], documents, outcomes
            )
        return outcomes

    async def upsert(
        dataset: Dataset, places: list[int], documents: Sequence[Document], outcomes: list[Outcome]
    ) -> None:
        try:
            await store.upsert(dataset.name, rows_table(dataset, [documents[at].row for at in places]))
        except Unavailable as unavailable:
            for at in places:
                outcomes[at] = unavailable
        except Rejected as error:
            if len(places) == 1:
                outcomes[places[0]] = error
                return
            half = len(places) // 2
            await upsert(dataset, places[:half], documents, outcomes)
            await upsert(dataset, places[half:], documents, outcomes)

    return write
