"""Reads results only: statistics, summaries, sensitivity, figures, the report and the audit."""

import logging

if logging.getLogger("matplotlib").level == logging.NOTSET:
    # Its messages about font caches and temporary folders would appear among the results.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
