"""Workflow documents as the store keeps them: one that cannot be read must not stand in the way of the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from streamforge_assets.workflow.states import Workflow


def parse_workflows(documents: Iterable[Mapping[str, Any]]) -> tuple[list[Workflow], list[str]]:
    """The workflows, the newest last, and a sentence for each document that is none."""
    found: list[Workflow] = []
    unreadable: list[str] = []
    for document in documents:
        try:
            found.append(Workflow.model_validate(document))
        except ValidationError as error:
            field = ".".join(str(part) for part in error.errors()[0]["loc"])
            unreadable.append(f"the document of the workflow {document.get('queue_id')} cannot be read: {field}")
    return sorted(found, key=lambda workflow: workflow.created_at), unreadable
