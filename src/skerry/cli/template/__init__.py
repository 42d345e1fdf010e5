"""`--format`: the part of Go's text/template that Docker's users write.

    {{.Field}} {{.State.Status}} {{json .}} {{range .Mounts}}…{{else}}…{{end}} {{with .A}}…{{end}}
    {{if eq .A "x"}}…{{else if .B}}…{{end}} {{index .Labels "k"}}
    {{$x := .Id}} {{.A | upper | printf "%-10s"}} {{- trim -}} {{/* comment */}}

`parse(text)` gives a Template; `Template.render(value)` a string. Both raise TemplateError, which
names the place as line:column. Not offered: define, template, block, call.

Source: https://pkg.go.dev/text/template
"""

from skerry.cli.template.errors import TemplateError
from skerry.cli.template.evaluate import Row, Template, Typed
from skerry.cli.template.parser import parse_nodes
from skerry.cli.template.printing import Nil

__all__ = ["Nil", "Row", "Template", "TemplateError", "Typed", "parse"]


def parse(text: str) -> Template:
    """The template that `text` writes."""
    return Template(parse_nodes(text))
