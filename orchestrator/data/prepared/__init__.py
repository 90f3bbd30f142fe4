"""Prepared tasks: decoded once, stored as Arrow files, mapped when they are read."""
