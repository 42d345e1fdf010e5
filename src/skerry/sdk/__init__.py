"""A Python client of the engine's API. Holds no engine code."""
