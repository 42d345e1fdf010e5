"""The command line. Lean: it imports nothing heavy before it has spoken to the engine."""
