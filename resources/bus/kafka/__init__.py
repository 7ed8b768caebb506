"""The event bus on Apache Kafka."""

from resources.bus.kafka.bus import KafkaBus
from resources.bus.kafka.config import KafkaConfig

__all__ = ["KafkaBus", "KafkaConfig"]
