"""The launcher: the port, and the adapter that the settings choose."""

from resources.launcher.port import Entrypoint, Launcher, State, WorkerSpec, WorkerState
from resources.settings import Settings

__all__ = ["Entrypoint", "Launcher", "State", "WorkerSpec", "WorkerState", "open_launcher"]


def open_launcher(settings: Settings, entrypoint: Entrypoint) -> Launcher:
    """Return the launcher that `settings.launcher` names, not yet entered.

    Args:
        settings: names the launcher.
        entrypoint: runs one worker in this process; only the inline launcher uses it.
    """
    match settings.launcher:
        case "inline":
            from resources.launcher.inline import InlineLauncher

            return InlineLauncher(entrypoint)
        case "process":
            from resources.launcher.process import ProcessLauncher

            return ProcessLauncher(settings.home / "logs", settings.environment())
