"""The commands of `skerry-runtime`, one noun a module; imported one at a time."""
