"""Uncertainty over speakers: intervals, differences, rank groups."""
