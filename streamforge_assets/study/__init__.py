"""Experiments on simulated markets whose truth is known: shown by the report, run at full size by `make bench`."""
