"""What in a Dockerfile is allowed but worth a word. Pure: instructions in, warnings out.

`rules` says what there is, the other modules find it. `# check=skip=NAME,…;error=true` in the file
chooses.
"""

from skerry.build.language.lint.findings import Surroundings
from skerry.build.language.lint.linter import Warned, lint, violation
from skerry.build.language.lint.rules import RULES, Rule

__all__ = ["RULES", "Rule", "Surroundings", "Warned", "lint", "violation"]
