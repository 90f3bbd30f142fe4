"""A running cluster from outside: submit a sweep, follow it, fetch its results, check the nodes."""
