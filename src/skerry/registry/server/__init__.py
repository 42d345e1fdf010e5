"""An OCI distribution 1.1 server over a `Storage`; `main` is `skerry registry`."""
