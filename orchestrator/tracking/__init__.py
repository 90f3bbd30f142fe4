"""MLflow, written from the ledger by one process of its own; the sweep never waits for it."""
