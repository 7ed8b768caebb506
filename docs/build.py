"""Write the tables of the documentation from the code: `python docs/build.py`; `--check` only compares."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from resources.bus.acl import acl_table
from resources.bus.topics import topics_table
from resources.messages import ControlMessage, EventMessage
from resources.metrics import HEALING_METRICS, METRICS, QUEUE_MANAGER_METRICS, WORKER_LABELS, Metric
from resources.records import RECORDS
from resources.settings import PREFIX, Settings
from streamforge_assets.market.features import FEATURES

ROOT = Path(__file__).parent.parent


def settings_table() -> str:
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        shown = "" if default is None or not str(default) else f"`{default}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows)


def features_table() -> str:
    rows = ["| feature | formula | window | unit |", "|---|---|---|---|"]
    rows += [f"| `{item.name}` | {item.formula} | {item.window} | {item.unit} |" for item in FEATURES]
    return "\n".join(rows)


def schema(model: type[ControlMessage | EventMessage]) -> str:
    return f"```json\n{json.dumps(model.model_json_schema(), indent=1)}\n```"


def metrics_table(metrics: Sequence[Metric] = METRICS, common: Sequence[str] = WORKER_LABELS) -> str:
    rows = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in (*common, *metric.labels))
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |")
    return "\n".join(rows)


TABLES = {
    "README.md": {"settings": settings_table},
    "docs/models.md": {"features": features_table},
    "docs/records.md": {name: record.markdown for name, record in RECORDS.items()},
    "docs/metrics.md": {
        "metrics": metrics_table,
        "healing": lambda: metrics_table(HEALING_METRICS, ()),
        "queue-manager": lambda: metrics_table(QUEUE_MANAGER_METRICS, ()),
    },
    "docs/topics.md": {"topics": topics_table, "acl": acl_table},
    "docs/messages.md": {
        "control": lambda: schema(ControlMessage),
        "event": lambda: schema(EventMessage),
    },
}


def built(path: str) -> str:
    """The file's text with every table between its markers made anew."""
    text = (ROOT / path).read_text()
    for name, make in TABLES[path].items():
        marked = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not marked.search(text):
            raise SystemExit(f"{path} lacks the markers of {name}")
        table = make()
        text = marked.sub(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text)
    return text


def main() -> None:
    stale = [path for path in TABLES if built(path) != (ROOT / path).read_text()]
    if "--check" not in sys.argv:
        for path in stale:
            (ROOT / path).write_text(built(path))
    elif stale:
        raise SystemExit(f"out of date: {', '.join(stale)}; run python docs/build.py")


if __name__ == "__main__":
    main()
