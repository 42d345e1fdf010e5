"""`features`: what this runtime knows, in the form of runtime-spec's features.md."""

import json
import os

from skerry.base.errors import InvalidInput
from skerry.base.oci_runtime import OCI_VERSION
from skerry.kernel.capabilities import ALL
from skerry.kernel.namespaces import FLAGS
from skerry.runtime import mount_options
from skerry.runtime.arguments import parse
from skerry.runtime.context import Context
from skerry.runtime.plan import HOOKS

_ACTIONS = (
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
)
_OPERATORS = ("EQ", "GE", "GT", "LE", "LT", "MASKED_EQ", "NE")
_FLAGS = (
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
)


def features(context: Context, words: list[str]) -> int:
    """Print the features as JSON."""
    if parse(words, {}).words:
        raise InvalidInput("features takes no arguments")
    os.write(1, (json.dumps(known(), indent=4) + "\n").encode())
    return 0


def known() -> dict[str, object]:
    """What is understood, whether or not this host has it."""
    linux = {
        "namespaces": sorted(FLAGS),
        "capabilities": list(ALL),
        "cgroup": {
            "v1": True,
            "v2": True,
            "systemd": False,
            "systemdUser": False,
            "rdma": True,
        },
        "seccomp": {
            "enabled": True,
            "actions": list(_ACTIONS),
            "operators": [f"SCMP_CMP_{name}" for name in _OPERATORS],
            "archs": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
            "knownFlags": list(_FLAGS),
            "supportedFlags": list(_FLAGS),
        },
        "apparmor": {"enabled": True},
        "selinux": {"enabled": True},
        "intelRdt": {"enabled": False},
        "mountExtensions": {"idmap": {"enabled": True}},
    }
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": list(HOOKS),
        "mountOptions": mount_options.known(),
        "linux": linux,
        "annotations": {},
        "potentiallyUnsafeConfigAnnotations": [],
    }
