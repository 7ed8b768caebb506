"""Artifacts: the port, and the adapter that the settings choose."""

from resources.artifacts.port import Artifacts
from resources.settings import Settings

__all__ = ["Artifacts", "open_artifacts"]


def open_artifacts(settings: Settings) -> Artifacts:
    """Return the artifacts that `settings.artifacts` names, not yet entered."""
    match settings.artifacts:
        case "local":
            from resources.artifacts.local import LocalArtifacts

            return LocalArtifacts(settings.home / "artifacts")
