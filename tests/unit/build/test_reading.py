"""From instructions to operations: expansion in its scope, configuration, the history's text."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.base.errors import LimitExceeded, SkerryError
from skerry.build import mount_flags, ports, reading
from skerry.build.language.faults import DockerfileFault
from skerry.build.operations import Configure, Copy, Operation, Run, Workdir
from skerry.build.request import Options

BASE: dict[str, Any] = {"Env": ["PATH=/bin"], "Cmd": ["sh"]}


def evaluated(
    text: str, config: dict[str, Any] | None = None, **options: Any
) -> tuple[list[Operation], dict[str, Any]]:
    """The operations of the only stage, and the configuration behind them."""
    plan = reading.read(f"FROM busybox\n{text}\n".encode(), Options(**options), ())
    scope = reading.Scope(plan)
    found, now = [], dict(BASE if config is None else config)
    for instruction in plan.stages[0].instructions:
        operation = scope.evaluate(instruction, now)
        found.append(operation)
        if isinstance(operation, Configure):
            now = operation.config
        elif isinstance(operation, Workdir):
            now = {**now, "WorkingDir": operation.path}
    return found, now


def last(text: str, **options: Any) -> Any:
    return evaluated(text, **options)[0][-1]


@pytest.mark.parametrize(
    ("text", "field", "expected", "history"),
    [
        ("ENV A=1 B=$PATH", "Env", ["PATH=/bin", "A=1", "B=/bin"], "ENV A=1 B=/bin"),
        ("ENV PATH=/x:$PATH", "Env", ["PATH=/x:/bin"], "ENV PATH=/x:/bin"),
        ('CMD ["a", "b c"]', "Cmd", ["a", "b c"], 'CMD ["a" "b c"]'),
        ("CMD a b", "Cmd", ["/bin/sh", "-c", "a b"], 'CMD ["/bin/sh" "-c" "a b"]'),
        ("USER me:us", "User", "me:us", "USER me:us"),
        ("EXPOSE 80 7-8/udp", "ExposedPorts", {"80/tcp": {}, "7/udp": {}, "8/udp": {}},
         "EXPOSE map[80/tcp:{} 7/udp:{} 8/udp:{}]"),
        ("VOLUME /a /b", "Volumes", {"/a": {}, "/b": {}}, "VOLUME [/a /b]"),
        ("STOPSIGNAL SIGINT", "StopSignal", "SIGINT", "STOPSIGNAL SIGINT"),
        ('SHELL ["/bin/ash", "-ec"]', "Shell", ["/bin/ash", "-ec"], "SHELL [/bin/ash -ec]"),
        ("LABEL a=b 'c d'=e", "Labels", {"a": "b", "c d": "e"}, "LABEL a=b c d=e"),
        ("ONBUILD RUN x", "OnBuild", ["RUN x"], "ONBUILD RUN x"),
        ("HEALTHCHECK --retries=2 CMD x", "Healthcheck",
         {"Test": ["CMD-SHELL", "x"], "Retries": 2}, 'HEALTHCHECK &{["CMD-SHELL" "x"]}'),
        ("HEALTHCHECK NONE", "Healthcheck", {"Test": ["NONE"]}, 'HEALTHCHECK &{["NONE"]}'),
    ],
)  # fmt: skip
def test_what_instructions_configure(text: str, field: str, expected: Any, history: str) -> None:
    operations, config = evaluated(text)
    assert config[field] == expected
    assert operations[-1].text == history


def test_an_entry_point_drops_the_bases_command_but_not_the_own_one() -> None:
    assert evaluated('ENTRYPOINT ["x"]')[1]["Cmd"] is None
    assert evaluated('CMD ["y"]\nENTRYPOINT ["x"]')[1]["Cmd"] == ["y"]


def test_a_run_sees_declared_arguments_only() -> None:
    run = last("ARG A=1\nARG B\nARG C\nRUN x", build_args={"B": "2", "D": "4", "HTTP_PROXY": "p"})
    assert run.args == ("/bin/sh", "-c", "x")
    assert run.variables == ("A=1", "B=2")
    assert run.hidden == ("HTTP_PROXY=p",)
    assert run.text == "RUN |2 A=1 B=2 /bin/sh -c x # buildkit"


def test_the_environment_hides_arguments_of_the_same_name() -> None:
    run = last("ARG A=1\nENV A=2\nRUN x")
    assert run.variables == ()
    assert last("ARG A=1\nENV A=2\nWORKDIR /$A").path == "/2"


@pytest.mark.parametrize(
    ("text", "args", "files"),
    [
        ("RUN <<E\na\nb\nE", ("/bin/sh", "-c", "a\nb\n"), ()),
        ("RUN <<E\n#!/x\nb\nE", ("/dev/pipes/E",), (("/dev/pipes/E", b"#!/x\nb\n"),)),
        ("RUN cat <<E > /f\na\nE", ("/bin/sh", "-c", "cat <<E > /f\na\nE"), ()),
        ('SHELL ["/s"]\nRUN x', ("/s", "x"), ()),
        ('RUN ["x", "$A"]', ("x", "$A"), ()),
    ],
)
def test_scripts(text: str, args: tuple[str, ...], files: tuple[Any, ...]) -> None:
    run = last(text)
    assert isinstance(run, Run)
    assert (run.args, run.files) == (args, files)


def test_here_documents_as_files_are_expanded_but_quotes_stay() -> None:
    found = last("ARG A=1\nCOPY <<E <<'F' /d/\n\"$A\" '$A' \\$A\nE\n$A\nF")
    assert isinstance(found, Copy)
    assert found.files == (("E", b"\"1\" '1' $A\n"), ("F", b"$A\n"))
    assert found.text == "COPY <<E <<F /d/ # buildkit"


@pytest.mark.parametrize(
    ("before", "target", "expected"),
    [
        ("", "x", "/x"),
        ("", ".", "/"),
        ("WORKDIR /a/b", ".", "/a/b/"),
        ("WORKDIR /a/b", "c/", "/a/b/c/"),
        ("WORKDIR /a\nWORKDIR b", "./c", "/a/b/./c"),
        ("WORKDIR /a", "/c", "/c"),
    ],
)
def test_targets_are_below_the_working_directory(before: str, target: str, expected: str) -> None:
    assert last(f"{before}\nCOPY f {target}").target == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("COPY --from=$A x y", "variable expansion is not supported for --from"),
        ("COPY a b c", "destination must be a directory and end with a /"),
        ("EXPOSE 70000", "invalid containerPort"),
        ("STOPSIGNAL SIGNOPE", "invalid signal: SIGNOPE"),
        ("WORKDIR $NOTHING", "WORKDIR requires a path"),
        ("ADD --checksum=sha256:00 a /", "checksum requires HTTP"),
        ("ADD --checksum=sha256:00 http://x/y http://x/z /", "specified for multiple sources"),
        ("RUN --mount=type=cache x", "a target is required"),
        ("RUN --mount=type=cash,target=/x x", "did you mean cache"),
        ("RUN --mount=target=/x,shring=locked x", "unexpected key"),
        ("RUN --mount=type=cache,target=/x,sharing=lockd x", "did you mean locked"),
        ("RUN --mount=type=secret x", "one of source, target required"),
        ("ENV A=${B?missing}", "B: missing"),
    ],
)
def test_mistakes_are_told_with_their_line(text: str, reason: str) -> None:
    with pytest.raises(DockerfileFault, match=reason) as caught:
        evaluated(text)
    assert "on line 2: " in caught.value.message
    assert ">>>" in caught.value.excerpt


def test_mounts() -> None:
    run = last(
        "ARG D=/deps\nWORKDIR /w\nRUN --mount=type=cache,id=a,dst=$D,sharing=locked,mode=0700,uid=5"
        " --mount=from=x,src=/s,target=in,rw --mount=type=secret,id=k,env=K"
        " --mount=type=tmpfs,target=/t,size=1m --mount=type=ssh,required x"
    )
    cache, bind, secret, tmpfs, ssh = run.mounts
    assert (cache.target, cache.id, cache.sharing, cache.mode, cache.uid, cache.read_only) == (
        "/deps", "a", "locked", 0o700, 5, False,
    )  # fmt: skip
    assert (bind.kind, bind.target, bind.from_, bind.read_only) == ("bind", "/w/in", "x", False)
    assert (secret.id, secret.env, secret.target) == ("k", "K", "")
    assert tmpfs.size == 1 << 20
    assert (ssh.id, ssh.required) == ("default", True)


@given(st.text(max_size=80))
@settings(max_examples=200)
def test_any_mount_text_is_a_mount_or_a_fault(text: str) -> None:
    try:
        mount = mount_flags.parse(text, "/w", lambda each: each)
    except DockerfileFault:
        return
    assert mount.target.startswith("/") or mount.kind in ("secret", "ssh")


@given(st.text("0123456789-/tcpudx ", max_size=20))
def test_any_port_text_is_ports_or_a_fault(text: str) -> None:
    try:
        found = ports.parse_ports(text)
    except DockerfileFault:
        return
    assert all(0 < int(each.partition("/")[0]) < 65536 for each in found)


@given(st.lists(st.sampled_from(
    "RUN x|COPY a b|ENV A=${A:-1}|ARG A|WORKDIR $A|USER ${A}|ADD http://x/y /|SHELL [\"a\"]|"
    "EXPOSE $A|LABEL $A=$A|RUN <<E\n$A\nE|COPY --chmod=$A x y|ONBUILD ENV A=b".split("|")
), max_size=8))  # fmt: skip
def test_any_order_of_instructions_evaluates_or_is_a_fault(lines: list[str]) -> None:
    try:
        operations, _ = evaluated("\n".join(lines))
    except SkerryError:
        return
    assert len(operations) == len(lines)


def test_a_stage_has_no_more_instructions_than_a_history_can_tell() -> None:
    with pytest.raises(LimitExceeded, match="stage 0 has 4001 instructions, at most 4000"):
        evaluated("ENV A=b\n" * 4001)
