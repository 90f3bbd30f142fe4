"""From the options of a command to a frozen sweep; misspelt names and values end here."""
