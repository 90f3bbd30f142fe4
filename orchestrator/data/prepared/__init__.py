"""Prepared tasks: every image decoded once into memory-mapped files that all sweeps share."""
