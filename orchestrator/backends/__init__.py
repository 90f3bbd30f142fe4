"""Where trials run: in this process (`local`) or on a Ray cluster (`ray`); one Search for both."""
