"""A running cluster seen from outside: submit a sweep, follow it, fetch it, examine the nodes."""
