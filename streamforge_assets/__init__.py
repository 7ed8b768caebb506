"""StreamForge: crypto market data, collected complete and turned into trained models."""
