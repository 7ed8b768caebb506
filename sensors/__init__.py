"""Dagster sensors that bring events of the outside world into the asset graph."""
