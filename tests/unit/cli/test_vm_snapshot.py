"""The tree of snapshots as it is drawn."""

from skerry.cli.commands.vm_snapshot import draw


def node(
    id_: str, parent: str = "", *, full: bool = True, current: bool = False
) -> dict[str, object]:
    return {"id": id_, "name": id_, "parent": parent, "full": full, "current": current}


def test_nothing_but_the_present() -> None:
    assert draw([]) == "└─ (now)\n"


def test_branches() -> None:
    tree = [node("a"), node("b", "a"), node("c", "b", full=False), node("d", "a", current=True)]
    assert draw(tree).splitlines() == [
        "└─ a (full)",
        "   ├─ b (full)",
        "   │  └─ c (disk)",
        "   └─ d (full)",
        "      └─ (now)",
    ]


def test_a_present_that_descends_from_no_snapshot() -> None:
    assert draw([node("a")]).splitlines() == ["├─ a (full)", "└─ (now)"]
