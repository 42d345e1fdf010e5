"""Reading what the kernel says of a tracked flow."""

from hypothesis import given
from hypothesis import strategies as st

from skerry.kernel.conntrack import destination
from skerry.kernel.netlink import attribute, nested


def flow(address: bytes, protocol: int, port: int) -> bytes:
    kind = 2 if len(address) == 4 else 4
    tuple_ = nested(
        1,
        nested(1, attribute(kind, address)),
        nested(2, attribute(1, bytes((protocol,))), attribute(3, port.to_bytes(2, "big"))),
    )
    return b"\x02\0\0\0" + tuple_


@given(
    st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16),
    st.integers(0, 255),
    st.integers(0, 65535),
)
def test_reads_the_first_destination(address: bytes, protocol: int, port: int) -> None:
    assert destination(flow(address, protocol, port)) == (protocol, address, port)


@given(st.binary(max_size=200))
def test_takes_any_bytes(data: bytes) -> None:
    got = destination(data)
    assert got is None or len(got[1]) in (4, 16)
