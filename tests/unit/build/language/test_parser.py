"""Instructions out of Dockerfiles, and faults with their places."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput
from skerry.build.language import lines
from skerry.build.language.faults import DockerfileFault
from skerry.build.language.instructions import (
    Cmd,
    Command,
    Copy,
    Entrypoint,
    Env,
    Expose,
    HealthCheck,
    Instruction,
    Label,
    OnBuild,
    Run,
    Shell,
    Volume,
)
from skerry.build.language.parser import KEYWORDS, parse, parse_trigger
from skerry.build.language.position import Span


def one(text: str) -> Any:
    """The single instruction of a stage."""
    found = parse(b"FROM x\n" + text.encode()).stages[0].instructions
    assert len(found) == 1
    return found[0]


def fault(text: str) -> DockerfileFault:
    with pytest.raises(DockerfileFault) as caught:
        parse(text.encode())
    return caught.value


@pytest.mark.parametrize(
    ("text", "kind", "fields"),
    [
        ("RUN a  b", Run, {"command": Command(("a  b",), True)}),
        ('RUN ["a", "b c"]', Run, {"command": Command(("a", "b c"), False)}),
        ("RUN ['a']", Run, {"command": Command(("['a']",), True)}),
        ("RUN [ -f x ] && y", Run, {"command": Command(("[ -f x ] && y",), True)}),
        (
            "RUN --mount=type=cache,target=/a --mount=type=tmpfs,target=/b --network=none x",
            Run,
            {"mounts": ("type=cache,target=/a", "type=tmpfs,target=/b"), "network": "none"},
        ),
        ("RUN -- --network=none", Run, {"command": Command(("--network=none",), True)}),
        ("CMD", Cmd, {"command": Command((), True)}),
        ("CMD []", Cmd, {"command": Command((), False)}),
        ("ENTRYPOINT a", Entrypoint, {"command": Command(("a",), True)}),
        ("ENV a=1 b=\"2 3\" c='4'", Env, {"pairs": (("a", "1"), ("b", '"2 3"'), ("c", "'4'"))}),
        ("ENV a b c", Env, {"pairs": (("a", "b c"),), "legacy": True}),
        (r"ENV a=b\ c", Env, {"pairs": (("a", r"b\ c"),)}),
        ('LABEL "a b"=c', Label, {"pairs": (('"a b"', "c"),)}),
        ("COPY a b c/", Copy, {"sources": ("a", "b"), "target": "c/", "add": False}),
        ('COPY ["a b", "c"]', Copy, {"sources": ("a b",), "target": "c"}),
        (
            "COPY --from=x --chown=1:2 --chmod=0755 --link --parents --exclude=*.o a b",
            Copy,
            {
                "from_": "x",
                "chown": "1:2",
                "chmod": "0755",
                "link": True,
                "parents": True,
                "exclude": ("*.o",),
            },
        ),
        (
            "ADD --checksum=sha256:0 --keep-git-dir --unpack=false u d",
            Copy,
            {"add": True, "checksum": "sha256:0", "keep_git_dir": True, "unpack": False},
        ),
        ("COPY --link=false a b", Copy, {"link": False}),
        ("EXPOSE 80 443/udp", Expose, {"ports": ("80", "443/udp")}),
        ('VOLUME ["/a", "/b c"]', Volume, {"paths": ("/a", "/b c")}),
        ("VOLUME /a /b", Volume, {"paths": ("/a", "/b")}),
        ('SHELL ["/bin/bash", "-c"]', Shell, {"args": ("/bin/bash", "-c")}),
        ("HEALTHCHECK NONE", HealthCheck, {"command": None}),
        (
            "HEALTHCHECK --interval=1m30s --timeout=500ms --retries=3 CMD curl x",
            HealthCheck,
            {"interval": 90 * 10**9, "timeout": 5 * 10**8, "retries": 3},
        ),
        ("ONBUILD RUN x", OnBuild, {"trigger": "RUN x"}),
    ],
)
def test_an_instruction_is_read(
    text: str, kind: type[Instruction], fields: dict[str, object]
) -> None:
    found = one(text)
    assert isinstance(found, kind)
    assert {name: getattr(found, name) for name in fields} == fields


def test_lines_are_joined_and_comments_inside_left_out() -> None:
    found = parse(b"FROM x\nRUN a \\\n# no\n   # nor this\n  b \\ \n\n  c\nCMD d\n")
    run, cmd = found.stages[0].instructions
    assert run.source.text == "RUN a   b   c"
    assert run.source.span == Span(2, 7)
    assert cmd.source.span == Span(8, 8)
    assert [remark.rule for remark in found.remarks] == ["NoEmptyContinuation"]


def test_a_doubled_escape_ends_no_line() -> None:
    found = parse(b"FROM x\nRUN a \\\\\nCMD b")
    assert [type(each) for each in found.stages[0].instructions] == [Run, Cmd]


def test_directives_are_read_and_only_before_anything_else() -> None:
    found = parse(
        b"\xef\xbb\xbf# syntax = docker/dockerfile:1\n# escape=`\n"
        b"# check=skip=A,B;error=true\nFROM x\nRUN a `\n b"
    )
    assert found.syntax == "docker/dockerfile:1"
    assert found.escape == "`"
    assert found.check.skip == {"a", "b"}
    assert found.check.error
    assert found.stages[0].instructions[0].source.text == "RUN a  b"
    assert parse(b"# plain\n# escape=`\nFROM x").escape == "\\"


def test_here_documents_are_read() -> None:
    run, copy, again = (
        parse(
            b'FROM x\nRUN <<EOF\na $b\nEOF\nCOPY <<-"A" <<B /d/\n\tone\n\tA\ntwo\nB\n'
            b"RUN cat <<1 3<<2 && x\n1\n2\n"
        )
        .stages[0]
        .instructions
    )
    assert isinstance(run, Run)
    assert [(each.name, each.content, each.expand) for each in run.documents] == [
        ("EOF", "a $b\n", True)
    ]
    assert isinstance(copy, Copy)
    assert [(each.name, each.content, each.expand) for each in copy.documents] == [
        ("A", "one\n", False),
        ("B", "two\n", True),
    ]
    assert copy.sources == ()
    assert copy.target == "/d/"
    assert isinstance(again, Run)
    assert [each.descriptor for each in again.documents] == [0, 3]


def test_a_shift_in_a_quoted_word_is_no_here_document() -> None:
    found = one("RUN echo '<<EOF'")
    assert found.documents == ()
    assert one("RUN echo $((1<<2)) a").documents == ()


def test_stages_have_names_and_numbers() -> None:
    found = parse(b"ARG v=1\nFROM a:$v AS One\nRUN x\nFROM --platform=linux/arm64 one")
    assert [(stage.number, stage.base.name) for stage in found.stages] == [(0, "one"), (1, "")]
    assert found.stages[1].base.platform == "linux/arm64"
    assert found.arguments[0].pairs == (("v", "1"),)


@pytest.mark.parametrize(
    ("text", "reason", "span"),
    [
        ("", "file with no instructions", Span(1, 1)),
        ("# only\n", "file with no instructions", Span(1, 1)),
        ("RUN x", "no build stage in current context", Span(1, 1)),
        ("ARG x", "no build stage in current context", Span(1, 1)),
        ("FROM x\nRUNN y", "unknown instruction: RUNN (did you mean RUN?)", Span(2, 2, 1, 5)),
        ("FROM x\n  FOO y", "unknown instruction: FOO", Span(2, 2, 3, 6)),
        ("FROM a b", "FROM requires either one or three arguments", Span(1, 1)),
        ("FROM", "FROM requires either one or three arguments", Span(1, 1)),
        ("FROM a AS 1b", "invalid name for build stage", Span(1, 1, 11, 13)),
        (
            "FROM x\nCOPY --form=y a b",
            "unknown flag: --form (did you mean --from?)",
            Span(2, 2, 6, 14),
        ),
        (
            "FROM x\nCOPY --from=y \\\n  --from=z a b",
            "duplicate flag specified: from",
            Span(3, 3, 3, 11),
        ),
        ("FROM x\nCOPY --from a b", "missing a value on flag: from", Span(2, 2, 6, 12)),
        ("FROM x\nCOPY --link=2 a b", "expecting boolean value", Span(2, 2, 6, 14)),
        ("FROM x\nCOPY a", "COPY requires at least two arguments", Span(2, 2)),
        ("FROM x\nENV a=1 b", "can't find = in", Span(2, 2, 9, 10)),
        ("FROM x\nENV =1", "names can not be blank", Span(2, 2, 5, 7)),
        ("FROM x\nRUN <<A\nx\n", "unterminated heredoc", Span(2, 2)),
        ("FROM x\nSHELL a", "SHELL requires the arguments to be in JSON form", Span(2, 2)),
        ("FROM x\nRUN [1]", "arrays must be comprised of strings only", Span(2, 2)),
        ("FROM x\nONBUILD ONBUILD RUN x", "Chaining ONBUILD", Span(2, 2)),
        ("FROM x\nONBUILD FROM y", "FROM isn't allowed as an ONBUILD trigger", Span(2, 2)),
        ("FROM x\nHEALTHCHECK MAYBE", "Unknown type", Span(2, 2)),
        ("FROM x\nHEALTHCHECK --interval=1x CMD y", "invalid duration", Span(2, 2)),
        ("FROM x\nUSER", "USER requires exactly one argument", Span(2, 2)),
        ("# escape=x\nFROM y", "invalid escape token", Span(1, 1)),
        ("# escape=`\n# escape=`\nFROM y", "only one escape parser directive", Span(2, 2)),
        ("FROM x\nRUN --network=moon y", "invalid network mode", Span(2, 2, 5, 19)),
    ],
)
def test_a_fault_has_its_place(text: str, reason: str, span: Span) -> None:
    found = fault(text)
    assert reason in found.reason
    assert found.span == span
    assert found.message.startswith(f"dockerfile parse error on line {span.line}")


def test_the_source_around_a_fault_is_shown_and_cannot_drive_a_terminal() -> None:
    found = fault("FROM x\nRUN \x1b[2J\nCOPPY a b\nRUN y")
    assert found.excerpt.splitlines() == [
        "Dockerfile:3:1",
        "-" * 20,
        "   1 |     FROM x",
        "   2 |     RUN ?[2J",
        "   3 | >>> COPPY a b",
        "           ^^^^^",
        "   4 |     RUN y",
        "-" * 20,
    ]


def test_limits_hold() -> None:
    for data in (
        b"FROM x\n" + b"#" * lines.MAX_BYTES,
        b"\n" * (lines.MAX_LINES + 1),
        b"FROM x\nRUN " + b"a" * (lines.MAX_LOGICAL + 1),
        b"FROM x\n" * 1001,
    ):
        with pytest.raises(InvalidInput):
            parse(data)


def test_a_file_of_ten_megabytes_is_read() -> None:
    data = b"FROM x\n" + b"RUN echo something long enough to fill a line\n" * 230_000
    assert len(data) > 10 << 20
    assert len(parse(data).stages[0].instructions) == 230_000


def test_triggers_are_instructions() -> None:
    (found,) = parse_trigger("RUN <<EOF\na\nEOF")
    assert isinstance(found, Run)
    assert found.documents[0].content == "a\n"
    with pytest.raises(DockerfileFault, match="trigger"):
        parse_trigger("FROM x")


WORDS = st.sampled_from(
    [
        *KEYWORDS,
        "AS",
        "x",
        "$a",
        "--from=b",
        "--",
        "<<E",
        "E",
        '["a"]',
        "\\",
        "#",
        "'",
        '"',
        "=",
        "a=b",
    ]
)
LINES = st.lists(st.lists(WORDS, max_size=6).map(" ".join), max_size=8).map("\n".join)


@given(st.one_of(st.binary(max_size=200), LINES.map(lambda text: ("FROM x\n" + text).encode())))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        found = parse(data)
    except InvalidInput:
        return
    assert found.stages
    for stage in found.stages:
        for each in stage.instructions:
            assert 1 <= each.source.span.line <= each.source.span.end_line <= len(found.lines)
