"""The services, one a noun, and the recovery after a crash."""
