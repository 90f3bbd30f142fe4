"""The command line: `main` parses and delegates, `tables` and `progress` print."""
