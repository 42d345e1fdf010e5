"""Full machines: what exists, what runs, and every verb on it."""

from skerry.engine.vms.service import Vms

__all__ = ["Vms"]
