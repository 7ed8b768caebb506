"""The event bus: the port, and the adapter that the settings choose."""

from resources.bus.port import MAX_MESSAGE_BYTES, Bus, Delivery, Message, Start, Subscription
from resources.settings import Settings

__all__ = ["MAX_MESSAGE_BYTES", "Bus", "Delivery", "Message", "Start", "Subscription", "open_bus"]


def open_bus(settings: Settings) -> Bus:
    """Return the bus that `settings.bus` names, not yet entered."""
    match settings.bus:
        case "embedded":
            from resources.bus.embedded import EmbeddedBus

            return EmbeddedBus(settings.home / "bus.sqlite")
