"""The console that every command prints to: text as it is, neither wrapped nor highlighted."""

from rich.console import Console

console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
