"""The queue-manager: an HTTP API through which clients that are not Dagster have pipelines run by a Dagster."""
