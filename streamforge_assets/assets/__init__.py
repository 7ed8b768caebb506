"""The assets, one module for each family."""

import warnings

import dagster as dg

# backfill_policy= has no stable replacement; of the beta API it is the one part in use.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
