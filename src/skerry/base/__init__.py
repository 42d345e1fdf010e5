"""Words that every floor uses: errors, references, digests, ids, settings and the OCI types."""
