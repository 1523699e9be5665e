"""How far a batch is, on a terminal, in the log, and for Prometheus."""
