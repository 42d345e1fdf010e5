"""Who vouches for an image, and what is in it: keys, signatures, policies, package lists.

Pure: bytes in, verdicts out. Nothing here opens a file or speaks to a registry.
"""
