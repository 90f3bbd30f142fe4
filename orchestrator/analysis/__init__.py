"""Reads results, never makes them: statistics, aggregates, sensitivity, figures and the report."""

import logging

if logging.getLogger("matplotlib").level == logging.NOTSET:
    # What it says of font caches and temporary folders is no news to who asks for results.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
