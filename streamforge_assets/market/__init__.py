"""Pure computation on market data: resampling, completeness, agreement. No I/O, no Dagster."""
