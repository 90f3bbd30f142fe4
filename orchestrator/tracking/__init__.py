"""MLflow runs, written from the ledger by a process of its own, for which no sweep waits."""
