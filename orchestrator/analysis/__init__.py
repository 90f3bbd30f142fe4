"""Reads results, never makes them: statistics, aggregates, sensitivity, figures and the report."""
