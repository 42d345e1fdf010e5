"""Completion scripts for bash, zsh and fish, made from the option tables.

Commands, options and fixed values stand in the script; names of containers and images are asked of
the engine as you type, if one runs.
"""

from __future__ import annotations

from skerry.cli.options import HELP, SWITCH, Command, Option
from skerry.cli.registry import COMMANDS, GROUPS, every, members

WORDS = {
    "bases": "busybox debian:bookworm debian:trixie alpine:latest",
    "kinds": "container image volume network",
    "pull": "always missing never",
    "restart": "no on-failure always unless-stopped",
    "shells": "bash zsh fish",
    "signals": "HUP INT QUIT KILL USR1 USR2 TERM CONT STOP WINCH",
    "streams": "stdin stdout stderr",
    "capabilities": "ALL AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_ADMIN "
    "NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_ADMIN SYS_CHROOT SYS_NICE "
    "SYS_PTRACE SYS_TIME",
    "commands": " ".join([*COMMANDS, *(group for group in GROUPS if " " not in group)]),
}
"""Values that are known beforehand, by the tables' `complete`."""
ASKED = ("containers", "running", "stopped", "paused", "images", "networks", "volumes", "machines")


def script(shell: str) -> str:
    """The script for `bash`, `zsh` or `fish`."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()


def _spellings(option: Option) -> list[str]:
    return [f"--{option.long}"] + ([f"-{option.short}"] if option.short else [])


def _tables() -> str:
    """Shell functions that both bash and zsh read: options, values and arguments by command."""
    options, values, arguments = [], [], []
    for path, command in every():
        words = [word for option in (*command.options, HELP) for word in _spellings(option)]
        options.append(f"    '{path}') echo '{' '.join(words)}' ;;")
        for option in command.options:
            if option.kind != SWITCH:
                pattern = "|".join(f"'{path} {word}'" for word in _spellings(option))
                values.append(f"    {pattern}) echo '{option.complete or 'any'}' ;;")
        if command.complete:
            arguments.append(f"    '{path}') echo '{command.complete}' ;;")
    words = [f"    {kind}) echo '{words}' ;;" for kind, words in WORDS.items()]
    groups = [f"    '{group}') echo '{' '.join(members(group))}' ;;" for group in GROUPS]
    parts = []
    for name, lines in (
        ("options", options),
        ("value", values),
        ("arguments", arguments),
        ("words", words),
        ("group", groups),
    ):
        parts += [f"_skerry_{name}() {{", '  case "$1" in', *lines, "  esac", "}"]
    asked = "|".join(ASKED)
    parts += [
        "_skerry_candidates() {",
        '  case "$1" in',
        f'    {asked}) skerry __names "$1" 2>/dev/null ;;',
        "    containers,images) skerry __names containers 2>/dev/null; "
        "skerry __names images 2>/dev/null ;;",
        '    *) _skerry_words "$1" ;;',
        "  esac",
        "}",
    ]
    return "\n".join(parts) + "\n"


_WALK = """\
  local place="" kind="" word="" index=$first count=0
  while [ $index -lt $current ]; do
    word="${words[$index]}"
    index=$((index + 1))
    case "$word" in
      -*=*) ;;
      -*)
        kind="$(_skerry_value "$place $word")"
        [ -z "$place" ] && case "$word" in -H|--host|--root|--run-root) kind=files ;; esac
        if [ -n "$kind" ]; then index=$((index + 1)); fi
        ;;
      *)
        if [ -z "$place" ]; then place="$word"
        elif [ -n "$(_skerry_group "$place")" ]; then place="$place $word"
        else count=$((count + 1)); fi
        ;;
    esac
  done
  kind=""
  if [ $index -gt $current ]; then
    kind="$(_skerry_value "$place $word")"
    [ -n "$kind" ] || kind=files
  elif [ -z "$place" ]; then kind=commands
  elif [ -n "$(_skerry_group "$place")" ]; then kind="group"
  else
    case "$cur" in
      -*) kind="options" ;;
      *)
        kind="$(_skerry_arguments "$place" | awk -v n=$((count + 1)) '{print $(n < NF ? n : NF)}')"
        ;;
    esac
  fi
  local list=""
  case "$kind" in
    commands) list="$(_skerry_words commands)" ;;
    group) list="$(_skerry_group "$place")" ;;
    options) list="$(_skerry_options "$place")" ;;
    copy) list="$(_skerry_candidates containers | sed 's/$/:/')"; files=1 ;;
    files|folders) files=1 ;;
    any|none) ;;
    "") files=1 ;;
    *) list="$(_skerry_candidates "$kind")" ;;
  esac
"""


def _bash() -> str:
    return (
        "# bash completion for skerry; made by `skerry completion bash`\n"
        + _tables()
        + """\
_skerry() {
  local cur="${COMP_WORDS[COMP_CWORD]}" words=("${COMP_WORDS[@]}")
  local first=1 current=$COMP_CWORD files=""
  if declare -F _get_comp_words_by_ref >/dev/null; then
    _get_comp_words_by_ref -n : -c cur -w words -i current
  fi
"""
        + _WALK
        + """\
  COMPREPLY=($(compgen -W "$list" -- "$cur"))
  if [ -n "$files" ]; then COMPREPLY+=($(compgen -f -- "$cur")); compopt -o filenames; fi
  case "${COMPREPLY[0]-}" in *:) compopt -o nospace ;; esac
  if declare -F __ltrim_colon_completions >/dev/null; then __ltrim_colon_completions "$cur"; fi
}
complete -F _skerry skerry
"""
    )


def _zsh() -> str:
    return (
        "#compdef skerry\n# zsh completion for skerry; made by `skerry completion zsh`\n"
        + _tables()
        + """\
_skerry() {
  local cur="${words[CURRENT]}" first=2 current=$CURRENT files=""
"""
        + _WALK
        + """\
  [ -n "$list" ] && compadd -- ${=list}
  [ -n "$files" ] && _files
  return 0
}
# Loaded by compinit, this file is the function itself, at its first call; read by `source`, not.
if [ "${funcstack[1]}" = _skerry ]; then _skerry "$@"; else compdef _skerry skerry; fi
"""
    )


_FISH_WORDS = """\
# fish completion for skerry; made by `skerry completion fish`
function __skerry_words
    # The words before the one that is typed, without options.
    set -l value no
    for word in (commandline -opc)[2..-1]
        if test $value = yes
            set value no
        else if contains -- $word -H --host --root --run-root
            set value yes
        else if not string match -q -- '-*' $word
            echo $word
        end
    end
end
function __skerry_just
    set -l words (__skerry_words)
    test "$words" = "$argv"
end
function __skerry_at
    set -l words (__skerry_words)
    set -l many (count $argv)
    test "$words[1..$many]" = "$argv"
end
complete -c skerry -f"""


def _fish() -> str:
    lines = [_FISH_WORDS]
    for path, command in every():
        above, _, name = path.rpartition(" ")
        where = _quote(f"__skerry_just {above}".rstrip())
        lines.append(f"complete -c skerry -n {where} -a {name} -d {_quote(command.summary)}")
        lines += _fish_options(path, command)
    for path in GROUPS:
        above, _, name = path.rpartition(" ")
        where = _quote(f"__skerry_just {above}".rstrip())
        lines.append(f"complete -c skerry -n {where} -a {name}")
    return "\n".join(lines) + "\n"


def _fish_options(path: str, command: Command) -> list[str]:
    here = f"-n {_quote(f'__skerry_at {path}')}"
    lines = []
    for option in (*command.options, HELP):
        line = f"complete -c skerry {here} -l {option.long}"
        if option.short:
            line += f" -s {option.short}"
        if option.kind != SWITCH:
            line += f" {_fish_values(option.complete) or '-x'}"
        lines.append(f"{line.rstrip()} -d {_quote(option.help)}")
    if command.complete:
        kind = command.complete.split()[0]
        lines.append(f"complete -c skerry {here} {_fish_values(kind)}")
    return lines


def _fish_values(kind: str) -> str:
    if kind in ("files", "folders"):
        return "-r -F"
    if kind == "copy":
        return "-F -a '(skerry __names containers 2>/dev/null | string replace -r \"\\$\" :)'"
    if kind == "containers,images":
        return "-x -a '(skerry __names containers 2>/dev/null; skerry __names images 2>/dev/null)'"
    if kind in ASKED:
        return f"-x -a '(skerry __names {kind} 2>/dev/null)'"
    return f"-x -a {_quote(WORDS[kind])}" if kind in WORDS else ""


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
