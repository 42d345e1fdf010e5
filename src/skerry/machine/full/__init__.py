"""Full machines: guests that nobody prepared, with firmware, disks, screens and snapshots."""
