"""Export of remote code, cards from measured facts, and pushes to the Hub."""
