"""The HTTP face of the engine: Docker's Engine API and what skerry adds to it."""
