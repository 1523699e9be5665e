"""The ledger: which targets there are, what became of each, and the directory that keeps it."""
