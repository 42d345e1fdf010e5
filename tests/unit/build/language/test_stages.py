"""The graph of stages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.build.language import stages
from skerry.build.language.faults import DockerfileFault
from skerry.build.language.lexer import Lexer
from skerry.build.language.parser import parse
from skerry.build.language.scope import Globals, Scope, platform_arguments

PLATFORMS = platform_arguments("linux/amd64", "linux/arm/v7")


def graph(text: str, target: str = "", *contexts: str, **given: str) -> stages.StageGraph:
    found = parse(text.encode())
    outer = Globals(found.arguments, given, PLATFORMS, Lexer())
    return stages.plan(found, target, outer, contexts)


def test_only_what_the_target_needs_is_ordered_dependencies_first() -> None:
    found = graph(
        "FROM a AS one\nFROM b AS unused\nFROM one AS two\nFROM c\nCOPY --from=two / /\n"
        "RUN --mount=type=bind,from=one,target=/x y"
    )
    assert found.order == (0, 2, 3)
    assert found.target == 3
    assert found.nodes[3].needs == (2, 0)
    assert graph("FROM a AS one\nFROM b", "ONE").order == (0,)
    assert graph("FROM a\nFROM b", "0").order == (0,)


def test_a_later_stage_may_be_copied_from_but_not_be_a_base() -> None:
    assert graph("FROM a AS one\nCOPY --from=two / /\nFROM b AS two", "one").order == (1, 0)
    assert graph("FROM two AS one\nFROM b AS two", "one").nodes[0].base_stage is None


def test_a_further_name_stands_for_a_stage_and_circles_are_still_found() -> None:
    def with_alias(text: str) -> stages.StageGraph:
        found = parse(text.encode())
        outer = Globals(found.arguments, {}, PLATFORMS, Lexer())
        return stages.plan(found, "", outer, ["Base"], {"Base": "two"})

    found = with_alias("FROM x AS one\nFROM y AS two\nFROM base\nCOPY --from=BASE / /")
    assert (found.order, found.nodes[2].base_stage, found.names["base"]) == ((1, 2), 1, 1)
    # Also for a stage further down, and where a stage has that name itself.
    assert with_alias("FROM x AS base\nFROM y AS two\nFROM base").order == (1, 2)
    assert with_alias("FROM y AS two\nFROM base AS one\nFROM one").order == (0, 1, 2)
    with pytest.raises(DockerfileFault, match="circular"):
        with_alias("FROM y AS one\nFROM base AS two")


def test_bases_are_expanded_with_global_arguments() -> None:
    text = "ARG v=1\nARG w=$v-x\nFROM a:$w AS one\nFROM --platform=$BUILDPLATFORM b:${none:-2}"
    assert [node.base for node in graph(text, "one").nodes] == ["a:1-x", "b:2"]
    assert graph(text, "", v="9").nodes[0].base == "a:9-x"
    assert graph(text).nodes[1].platform == "linux/amd64"


def test_a_named_context_replaces_a_stage() -> None:
    found = graph("FROM a AS one\nFROM one\nCOPY --from=one / /", "", "one")
    assert found.order == (1,)
    assert found.nodes[1].base_stage is None


@pytest.mark.parametrize(
    ("text", "target", "reason", "hint"),
    [
        ("FROM a AS x\nCOPY --from=y / /\nFROM x AS y", "", "circular dependency", "y -> x -> y"),
        ("FROM a AS x\nCOPY --from=x / /", "", "circular dependency", "x -> x"),
        ("FROM a\nCOPY --from=7 / /", "", "invalid stage index 7", "0 to 0"),
        ("FROM a AS build", "biuld", 'target stage "biuld" could not be found', "build"),
        ("FROM $none", "", "should not be blank", "none"),
    ],
)
def test_a_graph_that_cannot_be_built_is_told(
    text: str, target: str, reason: str, hint: str
) -> None:
    with pytest.raises(DockerfileFault) as caught:
        graph(text, target)
    assert reason in caught.value.reason
    assert hint in caught.value.hint


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=9))
def test_an_order_has_every_need_before_its_user(edges: list[tuple[int, int]]) -> None:
    count = len(edges)
    text = "".join(
        f"FROM base AS s{number}\nCOPY --from=s{one} / /\nCOPY --from=s{two} / /\n"
        for number, (one, two) in enumerate(edges)
    )
    try:
        found = graph(text)
    except DockerfileFault as fault:
        assert "circular" in fault.reason
        return
    assert found.order[-1] == count - 1
    for place, number in enumerate(found.order):
        assert set(found.nodes[number].needs) <= set(found.order[:place])


class TestScope:
    def outer(self, text: str = "", **given: str) -> Globals:
        found = parse(f"{text}\nFROM x".encode())
        return Globals(found.arguments, given, PLATFORMS, Lexer())

    def test_a_global_argument_is_seen_once_declared(self) -> None:
        scope = Scope(self.outer("ARG v=1"), Lexer())
        assert scope.variables({}) == {}
        assert scope.declare("v", None, {}) == "1"
        assert scope.declare("TARGETVARIANT", None, {}) == "v7"
        assert scope.run_arguments({}) == {"v": "1", "TARGETVARIANT": "v7"}

    def test_the_build_s_own_value_wins_over_defaults_and_env_over_both(self) -> None:
        scope = Scope(self.outer("ARG v=1", v="2"), Lexer())
        assert scope.declare("v", "3", {}) == "2"
        assert scope.variables({"v": "4"}) == {"v": "4"}
        assert scope.run_arguments({"v": "4"}) == {}

    def test_an_argument_without_a_value_is_none(self) -> None:
        scope = Scope(self.outer(), Lexer())
        assert scope.declare("v", None, {}) is None
        assert scope.run_arguments({}) == {}
        assert scope.declare("w", "$e-1", {"e": "x"}) == "x-1"

    def test_proxies_are_hidden_unless_declared(self) -> None:
        scope = Scope(self.outer(http_proxy="p", v="1"), Lexer())
        assert scope.hidden() == {"http_proxy": "p"}
        scope.declare("http_proxy", None, {})
        assert scope.hidden() == {}
        assert scope.run_arguments({}) == {"http_proxy": "p"}
