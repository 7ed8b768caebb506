"""Workflows: what one request for market data becomes, from its announcement to its end."""
