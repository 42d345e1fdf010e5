"""What a Dockerfile says, as frozen data: one type an instruction (Dockerfile reference).

Values are as written: variables are not expanded yet, quotes not taken away. `lexer.Lexer` does
both, at the time and with the variables that the builder knows.
"""

from typing import NamedTuple

from skerry.build.language.position import Span


class HereDocument(NamedTuple):
    """`<<NAME`: `expand` unless the name was quoted; `content` lacks its leading tabs for `<<-`."""

    name: str
    content: str
    expand: bool = True
    chomp: bool = False
    descriptor: int = 0


class Flag(NamedTuple):
    """`--name=value`; `value` is empty and `bare` set for `--name`."""

    name: str
    value: str
    span: Span
    bare: bool = False


class Source(NamedTuple):
    """How an instruction stands in the file."""

    text: str
    """The logical line as written, continuation lines joined, without here-documents."""
    span: Span
    flags: tuple[Flag, ...] = ()
    comments: tuple[str, ...] = ()
    """The comment lines right above."""
    keyword: str = ""
    """The instruction's word in the file's own case."""


class Command(NamedTuple):
    """What is to run: `args` of the exec (JSON) form, or one string for the shell form."""

    args: tuple[str, ...]
    shell: bool


class From(NamedTuple):
    source: Source
    base: str
    name: str = ""
    platform: str = ""


class Arg(NamedTuple):
    source: Source
    pairs: tuple[tuple[str, str | None], ...]
    """Name and default; None where there is none."""


class Env(NamedTuple):
    source: Source
    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False
    """`ENV NAME value` without an equals sign."""


class Label(NamedTuple):
    source: Source
    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False


class Run(NamedTuple):
    source: Source
    command: Command
    documents: tuple[HereDocument, ...] = ()
    mounts: tuple[str, ...] = ()
    """Each `--mount`'s value: comma-separated `key=value`."""
    network: str = ""
    security: str = ""


class Copy(NamedTuple):
    """COPY, or ADD when `add`."""

    source: Source
    sources: tuple[str, ...]
    target: str
    documents: tuple[HereDocument, ...] = ()
    add: bool = False
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None


class Cmd(NamedTuple):
    source: Source
    command: Command


class Entrypoint(NamedTuple):
    source: Source
    command: Command


class Shell(NamedTuple):
    source: Source
    args: tuple[str, ...]


class HealthCheck(NamedTuple):
    """`command` is None for HEALTHCHECK NONE. Times in nanoseconds; 0 inherits."""

    source: Source
    command: Command | None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Expose(NamedTuple):
    source: Source
    ports: tuple[str, ...]


class Volume(NamedTuple):
    source: Source
    paths: tuple[str, ...]


class User(NamedTuple):
    source: Source
    user: str


class Workdir(NamedTuple):
    source: Source
    path: str


class StopSignal(NamedTuple):
    source: Source
    signal: str


class Maintainer(NamedTuple):
    source: Source
    name: str


class OnBuild(NamedTuple):
    """`trigger` is the instruction as text, kept in the image."""

    source: Source
    trigger: str


Instruction = (
    Arg
    | Env
    | Label
    | Run
    | Copy
    | Cmd
    | Entrypoint
    | Shell
    | HealthCheck
    | Expose
    | Volume
    | User
    | Workdir
    | StopSignal
    | Maintainer
    | OnBuild
)
"""Everything but FROM, which begins a stage."""


class Stage(NamedTuple):
    """From one FROM to the next. `number` counts from 0."""

    number: int
    base: From
    instructions: tuple[Instruction, ...]

    @property
    def label(self) -> str:
        """Its name, or its number."""
        return self.base.name or str(self.number)


class Check(NamedTuple):
    """`# check=`: rules to leave out or to add, and whether warnings are errors. Names are in lower
    case."""

    skip: frozenset[str] = frozenset()
    error: bool = False
    skip_all: bool = False
    experimental: frozenset[str] = frozenset()


class Remark(NamedTuple):
    """What the reader saw that is allowed but worth a word: a rule's name and the place."""

    rule: str
    detail: str
    span: Span


class Dockerfile(NamedTuple):
    """The whole file. `arguments` are the ARGs before the first FROM."""

    stages: tuple[Stage, ...]
    arguments: tuple[Arg, ...]
    escape: str
    syntax: str
    check: Check
    lines: tuple[str, ...]
    remarks: tuple[Remark, ...] = ()
