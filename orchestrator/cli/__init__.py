"""The command line: `main`, `data`, `doctor` and `cluster` have the commands; the others print.

`interrupts` answers Ctrl-C.
"""
