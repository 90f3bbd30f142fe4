"""What trials ended with: the ledger, the schema of its rows, and how a winner is selected."""
