"""Images as files: what each archive format says, read into stored blobs and written from them.

`reading` tells the formats apart and reads them, `writing` makes them; `documents` (docker-archive,
OCI layout) and `tree` (rootfs with `lxc` or `aci` metadata) know one family each.
"""
