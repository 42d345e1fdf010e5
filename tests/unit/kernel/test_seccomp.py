"""Profiles: what is refused, what is kept, and Docker's conditions; hostile bytes."""

import contextlib
import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, LimitExceeded, Unsupported
from skerry.kernel import capabilities, seccomp
from skerry.kernel.seccomp_policy import MAX_RULES, parse_policy
from skerry.kernel.seccomp_profile import (
    MAX_PROFILE_BYTES,
    default_profile,
    docker_default,
    parse_docker_profile,
)

ALLOW_READ = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}
quick = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])


def profile(**changes: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [ALLOW_READ], **changes}


def with_arg(**changes: Any) -> dict[str, Any]:
    arg = {"index": 0, "value": 1, "op": "SCMP_CMP_EQ", **changes}
    return profile(syscalls=[{**ALLOW_READ, "args": [arg]}])


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (profile(defaultAction="SCMP_ACT_MAYBE"), "defaultAction 'SCMP_ACT_MAYBE'"),
        (profile(defaultAction=None), "unknown defaultAction"),
        (profile(defaultAction="SCMP_ACT_NOTIFY"), "cannot be the defaultAction"),
        (profile(defaultAction="SCMP_ACT_ALLOW", defaultErrnoRet=1), "takes no errno"),
        (profile(architectures=["SCMP_ARCH_PDP11"]), "unknown architecture 'SCMP_ARCH_PDP11'"),
        (profile(flags=["SECCOMP_FILTER_FLAG_NOPE"]), "unknown flag"),
        (profile(syscalls=[{"names": [], "action": "SCMP_ACT_ALLOW"}]), "list of system call"),
        (profile(syscalls=[{"names": ["read"], "action": "ALLOW"}]), "unknown action 'ALLOW'"),
        (profile(syscalls=[{**ALLOW_READ, "errnoRet": 1}]), "takes no errno"),
        (profile(syscalls=[{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}]), "write"),
        (profile(syscalls="read"), "syscalls must be a list"),
        (with_arg(op="SCMP_CMP_LIKE"), "unknown operator"),
        (with_arg(index=6), "argument index"),
        (with_arg(value=-1), "argument value"),
        (with_arg(value=1 << 64), "argument value"),
        (with_arg(value=True), "argument value"),
    ],
)
def test_what_is_wrong_is_named(broken: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        seccomp.compile_profile(broken)


def test_a_profile_that_was_compiled_is_known_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = profile(syscalls=[ALLOW_READ])
    program = seccomp.compile_profile(first)
    same = copy.deepcopy(first)
    others = [profile(defaultErrnoRet=n) for n in range(2, 2 + seccomp._KNOWN)]
    texts: list[object] = []
    dumps = json.dumps
    monkeypatch.setattr(json, "dumps", lambda *a, **named: texts.append(a) or dumps(*a, **named))
    assert seccomp.compile_profile(first) is program and not texts
    assert seccomp.compile_profile(same) == program and len(texts) == 1
    different = [seccomp.compile_profile(each) for each in others]
    assert len({program, *different}) == 1 + len(others)
    # Long ago by now, and still right.
    assert seccomp.compile_profile(first) == program


def test_there_are_limits() -> None:
    with pytest.raises(LimitExceeded):
        parse_policy(profile(syscalls=[ALLOW_READ] * (MAX_RULES + 1)))
    many = [with_arg(value=n, index=n % 6)["syscalls"][0] for n in range(3000)]
    with pytest.raises(LimitExceeded, match="instructions"):
        seccomp.compile_profile(profile(syscalls=many))


def test_unknown_calls_are_ignored_and_the_result_is_deterministic() -> None:
    known = seccomp.compile_profile(profile(), arch="x86_64")
    both = profile(syscalls=[{**ALLOW_READ, "names": ["read", "no_such_call"]}])
    assert seccomp.compile_profile(both, arch="x86_64") == known
    with pytest.raises(Unsupported, match="riscv64"):
        seccomp.compile_profile(profile(), arch="riscv64")
    assert seccomp.compile_profile(profile(), arch="aarch64") != known


def test_a_cached_program_needs_no_tables(tmp_path: Path) -> None:
    wanted = profile(syscalls=[{**ALLOW_READ, "names": ["read", f"pid{os.getpid()}"]}])
    first = seccomp.compile_profile(wanted, cache_dir=str(tmp_path / "cache"))
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".bpf"]
    script = (
        "import json, sys; from skerry.kernel import seccomp\n"
        "program = seccomp.compile_profile(json.loads(sys.argv[1]), cache_dir=sys.argv[2])\n"
        "tables = [name for name in sys.modules if 'syscall_table' in name]\n"
        "print(program.hex(), tables)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, json.dumps(wanted), str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == f"{first.hex()} []\n"


def test_a_damaged_cache_is_compiled_anew(tmp_path: Path) -> None:
    wanted = profile(syscalls=[{**ALLOW_READ, "names": ["read", f"again{os.getpid()}"]}])
    first = seccomp.compile_profile(wanted, cache_dir=str(tmp_path))
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"torn")
    seccomp._compiled.clear()
    seccomp._known.clear()
    assert seccomp.compile_profile(wanted, cache_dir=str(tmp_path)) == first
    assert file.read_bytes() == first


def test_the_default_policy_is_a_third_of_libseccomps_size() -> None:
    program = seccomp.compile_profile(seccomp.docker_default(capabilities.DOCKER_DEFAULT))
    assert len(program) // 8 < 450


def names_allowed(resolved: dict[str, Any] | None) -> set[str]:
    assert resolved is not None
    return {
        name
        for rule in resolved["syscalls"]
        for name in rule["names"]
        if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule
    }


def test_the_default_follows_the_capabilities() -> None:
    plain = names_allowed(docker_default(capabilities.DOCKER_DEFAULT))
    assert {"chroot", "ptrace", "openat2"} <= plain
    assert plain.isdisjoint({"mount", "bpf", "reboot", "clone", "clone3", "io_uring_setup"})
    assert {"mount", "clone3", "bpf"} <= names_allowed(docker_default(["CAP_SYS_ADMIN"]))
    assert "chroot" not in names_allowed(docker_default([]))
    assert "syslog" in names_allowed(docker_default(["CAP_SYSLOG"]))


def test_conditions_by_kernel_and_architecture() -> None:
    assert "ptrace" not in names_allowed(docker_default([], kernel="4.7.1"))
    assert "ptrace" in names_allowed(docker_default([], kernel="4.19.0-amd64"))
    arm = docker_default([], arch="aarch64")
    assert "arch_prctl" not in names_allowed(arm)
    assert "cacheflush" in names_allowed(arm)
    assert arm["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]


def test_dockers_file_format_round_trips_the_default() -> None:
    data = json.dumps(default_profile()).encode()
    held = capabilities.DOCKER_DEFAULT
    assert parse_docker_profile(data, held) == docker_default(held)


def test_the_older_name_field_and_an_empty_profile() -> None:
    rule = {"name": "mkdir", "action": "SCMP_ACT_ERRNO", "args": None}
    data = json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}).encode()
    resolved = parse_docker_profile(data, ())
    assert resolved is not None
    assert resolved["syscalls"] == [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]
    assert parse_docker_profile(b"{}", ()) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b'{"syscalls": 1, "defaultAction": "SCMP_ACT_ALLOW"}',
        b'{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "archMap": [{}]}',
        b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "names": ["b"]}]}',
        b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"includes": {"minKernel": "x"}}]}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_malformed_profiles_are_the_callers_fault(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_docker_profile(data, ())


def test_a_huge_profile_is_not_read() -> None:
    with pytest.raises(LimitExceeded):
        parse_docker_profile(b" " * (MAX_PROFILE_BYTES + 1), ())


@quick
@given(st.binary(max_size=200))
def test_any_bytes_are_answered(data: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        parse_docker_profile(data, ())


_words = st.sampled_from(
    [
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
        "SCMP_CMP_EQ",
        "SCMP_CMP_LT",
        "SCMP_ARCH_X86",
        "read",
        "clone",
        "4.8",
        "amd64",
    ]
)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _words | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "names",
                    "name",
                    "action",
                    "args",
                    "index",
                    "value",
                    "valueTwo",
                    "op",
                    "includes",
                    "excludes",
                    "caps",
                    "arches",
                    "minKernel",
                    "errnoRet",
                    "architecture",
                    "subArchitectures",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
_shapes = st.fixed_dictionaries(
    {"defaultAction": _words | _values, "syscalls": st.lists(_values, max_size=3)},
    optional=dict.fromkeys(("architectures", "archMap", "flags", "defaultErrnoRet"), _values),
)


@quick
@given(_shapes)
def test_any_shape_either_compiles_or_is_refused(shape: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidInput):
        resolved = parse_docker_profile(json.dumps(shape).encode(), ["CAP_CHOWN"])
        if resolved is not None:
            assert len(seccomp.compile_profile(resolved)) % 8 == 0
