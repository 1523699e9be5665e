"""What goes in: a location becomes a stream, a stream lines, lines rows, and those targets."""
