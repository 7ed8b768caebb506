"""The event bus: the port, and the adapter that the settings choose."""

from resources.bus.port import (
    MAX_LABEL_BYTES,
    MAX_MESSAGE_BYTES,
    Bus,
    Delivery,
    Gap,
    Message,
    Replay,
    Start,
    Subscription,
    TakenOver,
)
from resources.settings import Settings

__all__ = [
    "MAX_LABEL_BYTES",
    "MAX_MESSAGE_BYTES",
    "Bus",
    "Delivery",
    "Gap",
    "Message",
    "Replay",
    "Start",
    "Subscription",
    "TakenOver",
    "open_bus",
]


def open_bus(settings: Settings) -> Bus:
    """Return the bus that `settings.bus` names, not yet entered."""
    match settings.bus:
        case "embedded":
            from resources.bus.embedded import EmbeddedBus

            return EmbeddedBus(settings.home / "bus.sqlite")
        case "kafka":
            from resources.bus.kafka import KafkaBus, KafkaConfig

            return KafkaBus(KafkaConfig.of(settings))
