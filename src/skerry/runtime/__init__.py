"""The OCI runtime: from a bundle to a running, confined process."""
