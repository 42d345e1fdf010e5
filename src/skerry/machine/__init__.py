"""Machines: QEMU, its guest kit, templates, snapshots. Knows no image store and no network."""
