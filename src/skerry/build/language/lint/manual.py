"""The page about the rules, docs/build-lint.md: `python -m skerry.build.language.lint.manual`."""

import sys

from skerry.build.language.lint.rules import RULES, Rule

_HEAD = """# Lint rules

`skerry build --check` reads a Dockerfile, warns and builds nothing; a build warns on the way.
In the file, `# check=skip=NAME,NAME` (or `skip=all`) silences rules, `# check=error=true` makes
warnings by Docker's rules end the build, `# check=experimental=NAME` (or `all`) adds rules that
are marked as experimental; joined by `;`.

The names of the first group are those of Docker's build checks. This page is made from the rules.
"""


def manual() -> str:
    """The whole page."""
    rules = list(RULES.values())
    parts = [_HEAD, "## Docker's rules\n"]
    parts += [_section(rule) for rule in rules if not rule.own]
    parts.append("## Skerry's own\n")
    parts += [_section(rule) for rule in rules if rule.own]
    return "\n".join(parts)


def _section(rule: Rule) -> str:
    mark = " (experimental)" if rule.experimental else ""
    return (
        f"### {rule.name}{mark}\n{rule.summary.rstrip('.')}.\n\n"
        f"```dockerfile\n# warns\n{rule.bad}\n```\n\n```dockerfile\n# does not\n{rule.good}\n```\n"
    )


if __name__ == "__main__":
    sys.stdout.write(manual())
