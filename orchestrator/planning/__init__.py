"""From the options of a command to a frozen sweep; wrong names and values are refused here."""
