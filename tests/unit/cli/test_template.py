"""Go templates: what Docker's users write, Go's own rules, and clear errors."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.cli.inspected import typed
from skerry.cli.template import Row, TemplateError, parse

CONTAINER: dict[str, Any] = {
    "Id": "abc",
    "Name": "/web",
    "State": {"Status": "running", "Pid": 42, "OOMKilled": False, "Error": ""},
    "Config": {"Env": ["A=1", "B=2"], "Labels": {"k": "v", "a.b": "c"}, "Cmd": None},
    "Mounts": [{"Source": "/a", "RW": True}, {"Source": "/b", "RW": False}],
    "Float": 1.5,
    "Empty": [],
}


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ("{{.Id}}", "abc"),
        ("{{ .State.Status }}!", "running!"),
        ("{{.State.OOMKilled}} {{.Float}} {{.Config.Cmd}}", "false 1.5 <no value>"),
        ("{{json .Config.Labels}}", '{"k":"v","a.b":"c"}'),
        ("{{json .State.Error}}{{json .Config.Cmd}}", '""null'),
        ("{{.Config.Env}} {{.Config.Labels}}", "[A=1 B=2] map[a.b:c k:v]"),
        ('{{index .Config.Labels "a.b"}}', "c"),
        ('{{index .Config.Labels "nope"}}|{{index .State "nope"}}', "|<no value>"),
        ("{{index .Config.Env 1}}", "B=2"),
        ("{{(index .Mounts 0).Source}}", "/a"),
        ("{{range .Mounts}}{{.Source}};{{end}}", "/a;/b;"),
        ("{{range $i, $m := .Mounts}}{{$i}}={{$m.Source}} {{end}}", "0=/a 1=/b "),
        ("<{{.Config.Labels.nope}}{{.Config.Labels.k}}>", "<v>"),
        ("{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}},{{end}}", "a.b:c,k:v,"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range .Mounts}}{{if .RW}}{{continue}}{{end}}{{.Source}}{{break}}{{end}}", "/b"),
        ("{{if .State.Pid}}up{{else}}down{{end}}", "up"),
        ("{{if .State.Error}}a{{else if .Empty}}b{{else}}c{{end}}", "c"),
        ('{{if eq .State.Status "running" "paused"}}yes{{end}}', "yes"),
        ('{{if and .Id (not .Empty) (ne .Name "x")}}yes{{end}}', "yes"),
        ('{{or .State.Error "fine"}} {{and .Id .Name}}', "fine /web"),
        ("{{lt 1 2}} {{le 2 2}} {{gt 1 2}} {{ge 2 1.5}}", "true true false true"),
        ("{{with .State}}{{.Status}} {{$.Id}}{{end}}", "running abc"),
        ("{{with .Empty}}a{{else}}b{{end}}", "b"),
        ("{{$x := .Id}}{{$x}}{{$x = .Name}}{{$x}}", "abc/web"),
        ("{{if true}}{{$x := 1}}{{$x}}{{end}}", "1"),
        ("{{.Id | upper | printf \"%s-%s\" .Name}}", "/web-ABC"),
        ('{{join .Config.Env ","}} {{split "a,b" ","}}', "A=1,B=2 [a b]"),
        ("{{upper .Id}} {{lower \"ABC\"}} {{title \"ab cd\"}} {{len .Mounts}}", "ABC abc Ab Cd 2"),
        ("{{println .Id .State.Pid}}", "abc 42\n"),
        ("{{print 1 2 \"x\" 3}}", "1 2x3"),
        ('{{printf "%-5s|%5s|%05d|%x|%q|%v|%t|%.2f|%%" "a" "b" 42 255 "q" .Empty true .Float}}',
         'a    |    b|00042|ff|"q"|[]|true|1.50|%'),
        ('{{printf "%d %s" "x"}}', "%!d(string=x) %!s(MISSING)"),
        ('{{printf "a" 1}}', "a%!(EXTRA int=1)"),
        ('{{slice .Id 1}} {{slice .Id 0 2}} {{truncate "abcdef" 3}}', "bc ab abc"),
        ("{{pad \"x\" 1 2}}|", " x  |"),
        ("{{html \"<a>\"}} {{urlquery \"a b\"}}", "&lt;a&gt; a+b"),
        ("a {{- .Id -}} b", "aabcb"),
        ("a{{/* nothing */}}b {{- /* trim */ -}} c", "ab" + "c"),
        ('{{"a\\tb"}}{{`raw\\n`}}{{"\\u00e9"}}', "a\tbraw\\né"),
        ("{{'a'}} {{0x10}} {{-3}} {{1.5e3}} {{true}}", "97 16 -3 1500 true"),
        ("no actions", "no actions"),
        ("", ""),
    ],
)  # fmt: skip
def test_renders_as_go_does(form: str, shown: str) -> None:
    assert parse(form).render(CONTAINER) == shown


@pytest.mark.parametrize(
    ("form", "place", "why"),
    [
        ("{{.Id", "1:1", "unclosed action"),
        ("ab{{.Id}} {{nope .}}", "1:13", 'function "nope" not defined'),
        ("x\n  {{.Id | }}", "2:11", "missing value"),
        ("{{}}", "1:3", "missing value"),
        ("{{if .Id}}x", "1:3", "unclosed {{if}}"),
        ("{{end}}", "1:6", "unexpected {{end}}"),
        ("{{else}}", "1:3", "unexpected {{else}}"),
        ("{{range .Id}}{{else}}{{else}}{{end}}", "1:24", "expected {{end}}"),
        ("{{break}}", "1:3", "outside"),
        ("{{$x}}", "1:3", "undefined variable"),
        ("{{$x = 1}}", "1:3", "undefined variable"),
        ("{{.Id.}}", "1:6", "unexpected"),
        ("{{(.Id}}", "1:3", "unclosed left paren"),
        ("{{.Id)}}", "1:6", "unexpected"),
        ('{{"abc}}', "1:3", "unterminated"),
        ('{{"\\q"}}', "1:5", "unknown escape"),
        ("{{/* x }}", "1:1", "unclosed comment"),
        ('{{template "x"}}', "1:3", "not supported"),
        ("{{1a}}", "1:3", "bad number"),
        ("{{.Id | 3}}", "1:10", "non executable"),
        ("{{nil}}", "1:3", "nil is not a command"),
        ("{{.Nope}}", "1:3", 'no field or key "Nope"'),
        ("{{.State.Nope}}", "1:3", 'no field or key "Nope"'),
        ("{{.Id.Nope}}", "1:3", "can't evaluate field Nope in type string"),
        ("{{.Config.Cmd.X}}", "1:3", "nil data"),
        ("{{range .Id}}{{end}}", "1:3", "range can't iterate"),
        ("{{index .Config.Env 9}}", "1:3", "out of range"),
        ('{{index .Id "x"}}', "1:3", "cannot index"),
        ("{{len 3}}", "1:3", "error calling len"),
        ("{{len}}", "1:3", "wrong number"),
        ('{{lt 1 "a"}}', "1:3", "incompatible types"),
        ("{{.Id 3}}", "1:3", "is not a method"),
        ("{{eq 1}}", "1:3", "missing argument"),
    ],
)
def test_errors_name_the_place(form: str, place: str, why: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse(form).render(CONTAINER)
    assert caught.value.place == place
    assert why in caught.value.message


def test_what_an_object_lacks_is_nil_and_no_error() -> None:
    shown = typed(
        {"Id": "abc", "State": {}, "Config": {"Entrypoint": None}, "HostConfig": {"Sysctls": None}}
    )
    for form, text in (
        ("{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}", "none"),
        ("{{.State.Health}} {{.Config.Entrypoint}} {{.HostConfig.Sysctls}}", "<nil> [] map[]"),
        ("{{len .Config.Entrypoint}}{{range .Config.Entrypoint}}x{{end}}", "0"),
        ('{{join .Config.Entrypoint " "}}{{json .Config.Entrypoint}} {{.ID}}', "null abc"),
        ("{{json .State}}", "{}"),
    ):
        assert parse(form).render(shown) == text
    with pytest.raises(TemplateError):
        parse("{{.State.Health.Status}}").render(shown)


def test_rows_have_fields_and_methods() -> None:
    row = Row({"ID": "x"}, {"Label": lambda name: f"<{name}>"})
    assert parse('{{.ID}} {{.Label "k"}} {{json .}}').render(row) == 'x <k> {"ID":"x"}'
    with pytest.raises(TemplateError, match="wrong number of args"):
        parse("{{.Label}}").render(row)


def test_a_heading_leaves_words_as_they_are() -> None:
    form = parse("{{upper .ID}} {{json .ID}} {{truncate .ID 2}}")
    assert form.render(Row({"ID": "Id"}), heading=True) == "Id Id Id"


def test_limits() -> None:
    with pytest.raises(TemplateError, match="nested deeper"):
        parse("{{if .}}" * 100 + "{{end}}" * 100)
    with pytest.raises(TemplateError, match="nested deeper"):
        parse("{{" + "(" * 100 + "." + ")" * 100 + "}}")
    with pytest.raises(TemplateError, match="longer than"):
        parse("x" * 100_000)
    assert len(parse('{{printf "%99999999999d" 1}}').render(None)) == 4096


PIECES = st.lists(
    st.sampled_from(
        ["{{", "}}", "{{-", " -}}", ".", ".A", ".State.Status", "$", "$x", ":=", "=", "|", "(", ")",
         " ", ",", "if", "else", "end", "range", "with", "break", "json", "index", "printf", "eq",
         "len", "and", "nil", "true", '"a"', '"%d"', "`b`", "'c'", "1", "-2", "0x", "1e9", "text",
         "/*", "*/", "\n", "\\", '"', "é"]
    ),
    max_size=25,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(PIECES.map("".join) | st.text(max_size=60))
def test_any_text_renders_or_is_a_template_error(form: str) -> None:
    try:
        shown = parse(form).render({"A": 1, "State": {"Status": ["x", None, {"k": 1.5}]}})
    except TemplateError as error:
        assert error.message.startswith("template: ")
        assert error.place.count(":") == 1
    else:
        assert isinstance(shown, str)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="%vsdqtfxXobce0123456789.-+# T", max_size=20),
       st.lists(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                max_size=3))  # fmt: skip
def test_printf_takes_anything(form: str, values: list[Any]) -> None:
    from skerry.cli.template.printing import printf

    assert isinstance(printf(form, *values), str)
