"""What may run now: limits, who holds their permits, whose turn it is, and who is left alone."""
