"""Features, graphs, models and forecasts of a day: made from what is stored, and kept as sealed artifacts."""
