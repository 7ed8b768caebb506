"""The honest report: what is stored of a span of forecasts, judged beside ablations and a study of the method."""
