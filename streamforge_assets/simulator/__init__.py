"""The simulated exchange: a seeded market with planted lead-lag structure, served on Binance's wire."""
