"""Networks on a real kernel: an engine in a network namespace of its own, a second namespace that
stands for the world outside."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bench.network import Island, IslandSkerry
from tests.kernel import machine_kit

from skerry.network.firewall import guests_of, table_of, tag

pytestmark = pytest.mark.root
DEADLINE = 120.0

# Greets with the address that the client comes from.
SERVER = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.create_server((sys.argv[1], int(sys.argv[2])), family=family) as server:
    print("ready", flush=True)
    while True:
        client, peer = server.accept()
        client.sendall(peer[0].encode())
        client.close()
"""
# The address it was greeted with, or what went wrong within so many seconds.
CLIENT = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), int(sys.argv[3])) as sock:
        print(sock.recv(100).decode())
except OSError as error:
    print(type(error).__name__)
"""
# Answers each datagram with where it came from.
ECHO = (
    "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
    "s.bind(('', 53)); print('ready', flush=True);"
    "\nwhile True:\n d, p = s.recvfrom(99); s.sendto(p[0].encode(), p)"
)
# For each line that it reads, a number of seconds: sends a datagram, from one socket, waits so long
# and prints the answer.
ECHO_CLIENT = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 0))
for line in sys.stdin:
    sock.settimeout(float(line))
    try:
        sock.sendto(b"x", (sys.argv[1], int(sys.argv[2])))
        print(sock.recv(99).decode(), flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""
# Answers every A question with 192.0.2.77, over UDP and TCP.
DNS = """
import dns.message, dns.rrset, socket, struct, sys, threading
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind((sys.argv[1], 53))
tcp = socket.create_server((sys.argv[1], 53))
def answer(data):
    reply = dns.message.make_response(dns.message.from_wire(data))
    reply.answer.append(dns.rrset.from_text(reply.question[0].name, 60, "IN", "A", "192.0.2.77"))
    return reply.to_wire()
def streams():
    while True:
        client, _ = tcp.accept()
        size = struct.unpack(">H", client.recv(2, socket.MSG_WAITALL))[0]
        wire = answer(client.recv(size, socket.MSG_WAITALL))
        client.sendall(struct.pack(">H", len(wire)) + wire)
threading.Thread(target=streams, daemon=True).start()
print("ready", flush=True)
while True:
    data, peer = udp.recvfrom(4096)
    udp.sendto(answer(data), peer)
"""
# Asks 127.0.0.11 and prints the answers' last fields in order.
ASK = """
import dns.exception, dns.message, dns.query, dns.rcode, dns.rdatatype, dns.reversename, sys
name, kind, how = sys.argv[1:4]
name = dns.reversename.from_address(name) if kind == "PTR" else name
ask = dns.query.tcp if how == "tcp" else dns.query.udp
try:
    reply = ask(dns.message.make_query(name, kind), "127.0.0.11", timeout=30)
except (dns.exception.Timeout, OSError) as error:
    print(type(error).__name__)
else:
    found = [rd.to_text() for rrset in reply.answer for rd in rrset]
    print(" ".join(found) or dns.rcode.to_text(reply.rcode()))
"""
# Prints the first word of each datagram to port 99 over IPv4 and IPv6, and each frame's with
# ethertype 0x88B5 (for experiments, IEEE 802). "end" ends it.
EARS = """
import select, socket, sys
four, six = (socket.socket(each, socket.SOCK_DGRAM) for each in (socket.AF_INET, socket.AF_INET6))
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
four.bind(("", 99)); six.bind(("::", 99))
raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x88B5))
raw.bind((sys.argv[1], 0x88B5))
print("ready", flush=True)
heard = set()
while "end" not in heard:
    for sock in select.select([four, six, raw], [], [])[0]:
        heard.add(sock.recv(200).split(b" ")[0].decode(errors="replace"))
print(*sorted(heard))
"""
# From a guest's namespace, below its kernel: frames with the words "WHAT …" to everything of the
# host, past addresses, routes and neighbours.
SENDER = """
import json, socket, struct, sys
mac, own4, own6, *targets = sys.argv[1:]
mac = bytes.fromhex(mac.replace(":", ""))
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sock.bind(("eth0", 0))
mine = sock.getsockname()[4]
ip4, ip6 = socket.inet_aton, lambda text: socket.inet_pton(socket.AF_INET6, text)
def total(data):
    data += b"\\0" * (len(data) % 2)
    number = sum(struct.unpack(f">{len(data) // 2}H", data))
    while number >> 16: number = (number & 0xFFFF) + (number >> 16)
    return ~number & 0xFFFF
def udp(source, target, text, size):
    body = struct.pack(">HHHH", 7, 99, 8 + len(text), 0) + text
    pseudo = source + target + struct.pack(">IHBB", len(body), 0, 0, 17)
    return body[:6] + struct.pack(">H", total(pseudo + body) if size == 6 else 0) + text
def four(source, target, text):
    body = udp(source, target, text, 4)
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0, source, target)
    return head[:10] + struct.pack(">H", total(head)) + head[12:] + body
def six(source, target, text):
    body = udp(source, target, text, 6)
    return struct.pack(">IHBB", 6 << 28, len(body), 17, 64) + source + target + body
for number, target in enumerate(targets):
    text = f"guest:{target} ".encode()
    if ":" in target:
        kind, packet = b"\\x86\\xdd", six(ip6(own6), ip6(target), text)
    else:
        kind, packet = b"\\x08\\0", four(ip4(own4), ip4(target), text)
    for tag in (b"", b"\\x81\\0\\0\\0", b"\\x88\\xa8\\0\\0"):
        for to in (mac, b"\\xff" * 6):
            sock.send(to + mine + tag + kind + packet)
    if ":" not in target:
        sock.send(mac + mine + kind + four(ip4("192.0.2.77"), ip4(target), text))
sock.send(mac + mine + b"\\x88\\xb5" + b"guest:raw ")
"""
# The same by sockets.
WORDS = """
import socket, sys
for each in sys.argv[2:]:
    family = socket.AF_INET6 if ":" in each else socket.AF_INET
    where = (each, 99, 0, socket.if_nametoindex("eth0")) if each.startswith("fe80") else (each, 99)
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.sendto(f"{sys.argv[1].replace('TARGET', each)} ".encode(), where)
"""
FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=120).read())"


class Net:
    """An engine on an island, and programs in its namespaces."""

    def __init__(self, island: Island, engine: IslandSkerry) -> None:
        self.island = island
        self.engine = engine
        self._started: list[subprocess.Popen[str]] = []

    def docker(self, *words: str, code: int = 0) -> str:
        """stdout, or with another code stderr."""
        done = self.engine.docker(*words, check=False, timeout=180.0)
        assert done.returncode == code, done.stderr
        return (done.stderr if code else done.stdout).strip()

    def run(self, name: str, *options: str) -> str:
        """A container that sleeps."""
        self.docker("run", "-d", "--init", "--name", name, *options, "busybox", "sleep", "1000")
        return name

    def inspect(self, name: str, form: str) -> str:
        """`docker inspect --format`."""
        return self.docker("inspect", "--format", form, name)

    def address(self, name: str, network: str = "bridge") -> str:
        """A container's IPv4 address."""
        return self.inspect(
            name, f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}'
        )

    def enter(self, where: str) -> list[str]:
        """Command line prefix: `host`, `outside` or a container."""
        if where in ("host", "outside"):
            return self.island.enter(outside=where == "outside")
        return ["nsenter", f"--net={self.inspect(where, '{{.NetworkSettings.SandboxKey}}')}"]

    def python(self, where: str, code: str, *words: object) -> str:
        """Run a piece of Python somewhere."""
        command = [*self.enter(where), sys.executable, "-c", code, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def serve(self, where: str, port: int, address: str = "0.0.0.0", code: str = SERVER) -> None:
        """Start a server somewhere and wait until it listens."""
        command = [*self.enter(where), sys.executable, "-c", code, address, str(port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def reach(self, where: str, address: str, port: int, seconds: int = 30) -> str:
        """What a client there is greeted with."""
        return self.python(where, CLIENT, address, port, seconds)

    def silent(self, *places: tuple[str, str, int]) -> None:
        """None of these (where, address, port) gives an answer; asked all at once, twice each."""
        with ThreadPoolExecutor() as pool:
            said = list(pool.map(lambda place: self.reach(*place, seconds=2), places))
        assert said == ["TimeoutError"] * len(places), places

    def ask(self, where: str, name: str, kind: str = "A", how: str = "udp") -> str:
        """What the resolver says there."""
        return self.python(where, ASK, name, kind, how)

    def sh(self, *words: str) -> str:
        """A program in the engine's namespace."""
        command = [*self.enter("host"), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def links(self) -> set[str]:
        """Names of the bridges that are marked as this engine's."""
        mark = f"skerry {tag(str(self.engine.root))}"
        found = json.loads(self.sh("ip", "-j", "-d", "link"))
        return {link["ifname"] for link in found if link.get("ifalias") == mark}

    def pairs(self) -> list[str]:
        """Names of the host's ends of containers' links."""
        names = [link["ifname"] for link in json.loads(self.sh("ip", "-j", "link"))]
        return [name for name in names if name.startswith("ve")]

    def tables(self) -> str:
        """nftables' tables."""
        return self.sh("nft", "list", "tables")

    def helper(self) -> int:
        """The helper's pid, 0 when there is none."""
        mark = str(self.engine.run_root / "net/helper.sock").encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if mark in words:
                        return int(entry.name)
        return 0

    def kill(self) -> None:
        """kill -9 of the engine."""
        self.engine.stop(signal.SIGKILL)

    def end_servers(self) -> None:
        """Their sockets hold a container's network namespace."""
        for process in self._started:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        self._started.clear()

    def clean(self) -> None:
        """End servers, remove containers and networks."""
        self.end_servers()
        if self.engine.process is None:
            self.engine.start()
        self.engine.remove_containers()
        self.engine.docker("network", "prune", "-f")


def until(condition: Callable[[], object], what: str) -> None:
    """Poll until it is true."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def islanders() -> Iterator[Net]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with Island("t") as island, IslandSkerry(island) as engine:
        yield Net(island, engine)


@pytest.fixture
def net(islanders: Net) -> Iterator[Net]:
    yield islanders
    islanders.clean()


class TestPorts:
    def test_from_everywhere(self, net: Net) -> None:
        net.docker("network", "create", "other")
        net.run("web", "-p", "8080:80", "-p", "127.0.0.1:8081:80", "-p", "0.0.0.0:8083:80")
        net.run("near")
        net.run("far", "--network", "other")
        net.serve("web", 80)
        gateway = net.inspect("web", "{{.NetworkSettings.Gateway}}")
        assert net.reach("outside", "10.99.0.1", 8080) == "10.99.0.2", "the source is kept"
        assert net.reach("host", "127.0.0.1", 8080) == gateway
        assert net.reach("host", "10.99.0.1", 8080) == "10.99.0.1"
        assert net.reach("host", "127.0.0.1", 8081) == gateway
        assert net.reach("host", "::1", 8080) == gateway
        assert net.reach("host", "::1", 8081) == "ConnectionRefusedError"
        assert net.reach("host", "127.0.0.1", 8083) == gateway
        assert net.reach("host", "::1", 8083) == "ConnectionRefusedError", "IPv4 was said"
        for where in ("near", "far", "web"):
            assert net.reach(where, "10.99.0.1", 8080).count(".") == 3, where
        assert net.reach("host", "127.0.0.1", 8082) == "ConnectionRefusedError"
        assert net.reach("outside", "10.99.0.1", 8081) == "ConnectionRefusedError"

    def test_udp_and_ipv6(self, net: Net) -> None:
        net.docker("network", "create", "--ipv6", "six")
        net.run("web", "--network", "six", "-p", "8080:80", "-p", "5353:53/udp")
        net.serve("web", 80, "::")
        net.sh("ip", "address", "replace", "fd99::1/64", "dev", "up0", "nodad")
        outside = [
            *net.enter("outside"),
            "ip",
            "address",
            "replace",
            "fd99::2/64",
            "dev",
            "up0",
            "nodad",
        ]
        subprocess.run(outside, check=True)
        assert net.reach("outside", "fd99::1", 8080) == "fd99::2"
        assert net.reach("host", "fd99::1", 8080) == "fd99::1"
        gateway = net.inspect("web", "{{.NetworkSettings.Networks.six.IPv6Gateway}}")
        assert net.reach("host", "::1", 8080) == gateway
        net.serve("web", 0, code=ECHO)
        ping = (
            "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
            "s.settimeout(60); s.sendto(b'x', (sys.argv[1], 5353)); print(s.recv(99).decode())"
        )
        assert net.python("outside", ping, "10.99.0.1") == "10.99.0.2"
        assert net.python("host", ping, "127.0.0.1").count(".") == 3
        ping6 = ping.replace("AF_INET", "AF_INET6")
        net.run("four", "-p", "5454:53/udp", "-p", "[fd99::1]:8181:80")
        net.serve("four", 0, code=ECHO)
        net.serve("four", 80)
        assert net.python("host", ping6.replace("5353", "5454"), "::1").count(".") == 3
        assert net.reach("outside", "fd99::1", 8181).count(".") == 3, "to a container without IPv6"
        assert net.reach("host", "::1", 8181) == "ConnectionRefusedError"

    def test_a_flow_that_was_there_before_the_port(self, net: Net) -> None:
        # One socket all along, so the kernel takes all it sends for one flow.
        client = [*net.enter("outside"), sys.executable, "-c", ECHO_CLIENT, "10.99.0.1", "5353"]
        with subprocess.Popen(
            client, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:

            def say(seconds: int = 60) -> str:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(f"{seconds}\n")
                process.stdin.flush()
                return process.stdout.readline().strip()

            try:
                assert say(1) != "10.99.0.2", "nobody there yet"
                for name in ("first", "second"):
                    net.run(name, "-p", "5353:53/udp")
                    net.serve(name, 0, code=ECHO)
                    assert say() == "10.99.0.2", name
                    net.end_servers()
                    net.docker("rm", "-f", name)
            finally:
                process.kill()

    def test_taken_ports(self, net: Net) -> None:
        net.run("one", "-p", "8080:80")
        said = net.docker("run", "-p", "8080:81", "busybox", "true", code=125)
        assert "driver failed programming external connectivity on endpoint" in said
        assert "Bind for 0.0.0.0:8080 failed: port is already allocated" in said
        net.serve("host", 8090)
        said = net.docker("run", "-p", "8090:81", "busybox", "true", code=125)
        assert "port is already allocated" in said
        bind = "import socket\ntry: socket.create_server(('', 8080))\nexcept OSError as e: print(e)"
        assert "Address already in use" in net.python("host", bind)
        net.docker("rm", "-f", "one")
        assert net.python("host", bind) == "", "free again"

    def test_random_and_ranges(self, net: Net) -> None:
        net.run("one", "-p", "80", "-p", "9000-9001:90", "-P", "--expose", "70")
        net.run("two", "-p", "9000-9001:90")
        ports = json.loads(net.inspect("one", "{{json .NetworkSettings.Ports}}"))
        assert set(ports) == {"80/tcp", "90/tcp", "70/tcp"}
        assert all(int(each[0]["HostPort"]) > 1024 for each in ports.values())
        got = {net.docker("port", name, "90") for name in ("one", "two")}
        assert got == {"0.0.0.0:9000", "0.0.0.0:9001"}

    def test_the_default_address_is_a_setting(self, net: Net) -> None:
        settings = net.engine.root / "engine.json"
        settings.write_text('{"publish-default-address": "127.0.0.1"}')
        try:
            net.engine.stop()
            net.engine.start()
            net.run("web", "-p", "8080:80", "-p", "0.0.0.0:8081:80")
            net.serve("web", 80)
            published = set(net.docker("port", "web", "80").splitlines())
            assert published == {"127.0.0.1:8080", "0.0.0.0:8081"}
            assert net.reach("outside", "10.99.0.1", 8080) == "ConnectionRefusedError"
            assert net.reach("outside", "10.99.0.1", 8081) == "10.99.0.2"
        finally:
            settings.unlink()
            net.engine.remove_containers()
            net.engine.stop()
            net.engine.start()


class TestWalls:
    def test_bridges_are_apart(self, net: Net) -> None:
        for name in ("red", "blue"):
            net.docker("network", "create", name)
            net.run(f"in-{name}", "--network", name)
            net.serve(f"in-{name}", 80)
        blue = net.address("in-blue", "blue")
        gateway = net.inspect("in-blue", "{{.NetworkSettings.Networks.blue.Gateway}}")
        net.serve("host", 99)
        net.silent(("in-red", blue, 80), ("in-red", gateway, 99))
        assert net.reach("in-blue", gateway, 99) == blue
        assert net.reach("host", blue, 80) == gateway

    def test_unpublished_ports_are_not_reached_from_outside(self, net: Net) -> None:
        net.run("web", "-p", "8080:80")
        net.serve("web", 80)
        net.serve("web", 81)
        address = net.address("web")
        route = ["ip", "route", "replace", "172.16.0.0/12", "via", "10.99.0.1"]
        subprocess.run([*net.enter("outside"), *route], check=True)
        net.silent(("outside", address, 81), ("outside", address, 80))
        assert net.reach("outside", "10.99.0.1", 8080) == "10.99.0.2"

    def test_internal_networks_lead_nowhere(self, net: Net) -> None:
        net.docker("network", "create", "--internal", "cell")
        net.run("one", "--network", "cell")
        net.run("two", "--network", "cell")
        net.run("web", "-p", "8080:80")
        net.serve("two", 80)
        net.serve("outside", 80)
        assert net.reach("one", net.address("two", "cell"), 80) == net.address("one", "cell")
        assert net.reach("one", "10.99.0.2", 80) == "OSError", "no route"
        gateway = json.loads(net.docker("network", "inspect", "cell"))[0]["IPAM"]["Config"][0]
        pin = net.inspect("one", "{{.NetworkSettings.SandboxKey}}")
        route = ["ip", "route", "add", "default", "via", gateway["Gateway"]]
        subprocess.run(["nsenter", f"--net={pin}", *route], check=True)
        net.silent(("one", "10.99.0.2", 80))  # a route of its own does not help
        assert net.ask("one", "example.org") == "SERVFAIL"

    def test_routed_addresses(self, net: Net) -> None:
        mode = "com.docker.network.bridge.gateway_mode_ipv"
        subnets = ("--ipv6", "--subnet", "172.29.77.0/24", "--subnet", "fd99:77::/64")
        modes = ("-o", f"{mode}4=routed", "-o", f"{mode}6=routed")
        net.docker("network", "create", *subnets, *modes, "plain")
        net.run("web", "--network", "plain", "-p", "8080:80")
        net.run("other")
        address = net.address("web", "plain")
        address6 = net.inspect("web", "{{.NetworkSettings.Networks.plain.GlobalIPv6Address}}")
        for port in (80, 81, 8080):
            net.serve("web", port, address)
        net.serve("web", 80, address6, code=SERVER)
        net.serve("outside", 90)
        net.sh("ip", "address", "replace", "fd99::1/64", "dev", "up0", "nodad")
        for words in (
            ("address", "replace", "fd99::2/64", "dev", "up0", "nodad"),
            ("route", "replace", "172.16.0.0/12", "via", "10.99.0.1"),
            ("-6", "route", "replace", "fd99:77::/64", "via", "fd99::1"),
        ):
            subprocess.run([*net.enter("outside"), "ip", *words], check=True)

        def check() -> None:
            assert net.reach("outside", address, 80) == "10.99.0.2"
            assert net.reach("outside", address6, 80) == "fd99::2"
            assert net.reach("web", "10.99.0.2", 90) == address, "nothing is translated"
            assert net.reach("other", address, 80), "from another network"
            assert net.reach("host", "127.0.0.1", 8080) == "ConnectionRefusedError"

        check()
        net.silent(("outside", address, 81), ("outside", address, 8080))
        said = json.loads(net.inspect("web", "{{json .NetworkSettings.Ports}}"))
        assert [each["HostPort"] for each in said["80/tcp"]] == ["", ""]
        net.kill()
        net.engine.start()
        check()

    def test_an_isolated_network_has_no_host(self, net: Net) -> None:
        mode = ("-o", "com.docker.network.bridge.gateway_mode_ipv4=isolated")
        refused = net.engine.docker("network", "create", *mode, "cell", check=False)
        assert "can only be used for an internal network" in refused.stderr
        named = ("-o", "com.docker.network.bridge.name=cell0")
        net.docker("network", "create", "--internal", *mode, *named, "cell")
        net.run("one", "--network", "cell", "--cap-add", "NET_ADMIN")
        net.run("two", "--network", "cell")
        net.serve("two", 80)
        net.serve("host", 99)
        assert net.reach("one", net.address("two", "cell"), 80) == net.address("one", "cell")
        assert net.ask("one", "two") == net.address("two", "cell")
        link = json.loads(net.sh("ip", "-j", "addr", "show", "cell0"))[0]
        assert link["addr_info"] == []
        for words in (
            ("route", "add", "10.99.0.1", "dev", "eth0"),
            ("neigh", "replace", "10.99.0.1", "lladdr", link["address"], "dev", "eth0"),
        ):
            subprocess.run([*net.enter("one"), "ip", *words], check=True)
        net.silent(("one", "10.99.0.1", 99))  # nor by the bridge's own door

    def test_without_icc_containers_do_not_talk(self, net: Net) -> None:
        net.docker("network", "create", "-o", "com.docker.network.bridge.enable_icc=false", "quiet")
        net.run("one", "--network", "quiet")
        net.run("two", "--network", "quiet")
        net.serve("two", 80)
        assert net.reach("one", net.address("two", "quiet"), 80, 2) in ("TimeoutError", "OSError")
        assert net.reach("host", net.address("two", "quiet"), 80).count(".") == 3

    def test_loopback_of_the_host_stays_the_hosts(self, net: Net) -> None:
        net.run("one")
        net.serve("host", 99, "127.0.0.1")
        pin = net.inspect("one", "{{.NetworkSettings.SandboxKey}}")
        gateway = net.inspect("one", "{{.NetworkSettings.Gateway}}")
        inside = ["nsenter", f"--net={pin}", "ip"]
        for words in (
            ["link", "set", "lo", "down"],
            ["route", "add", "127.0.0.0/8", "via", gateway],
        ):
            subprocess.run([*inside, *words], check=True)
        write = ["nsenter", f"--net={pin}", "sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1"]
        subprocess.run(write, check=True)
        assert net.reach("one", "127.0.0.1", 99, 2) in ("TimeoutError", "OSError")

    def test_the_administrators_chain(self, net: Net) -> None:
        net.run("web", "-p", "8080:80")
        net.serve("web", 80)
        name = table_of(str(net.engine.root)).name
        rule = ["add", "rule", "inet", name, "user", "ip", "saddr", "10.99.0.2", "drop"]
        net.sh("nft", *rule)
        try:
            net.silent(("outside", "10.99.0.1", 8080))
            net.kill()
            net.engine.start()
            net.silent(("outside", "10.99.0.1", 8080))  # kept by a restart
        finally:
            net.sh("nft", "flush", "chain", "inet", name, "user")
        assert net.reach("outside", "10.99.0.1", 8080) == "10.99.0.2"

    def test_the_hosts_own_filter_is_honoured(self, net: Net) -> None:
        net.run("web", "-p", "8080:80")
        net.serve("web", 80)
        net.sh("nft", "add", "table", "inet", "host")
        chain = "{ type filter hook forward priority 10; policy drop; }"
        net.sh("nft", f"add chain inet host forward {chain}")
        try:
            net.silent(("outside", "10.99.0.1", 8080))
        finally:
            net.sh("nft", "delete", "table", "inet", "host")


class TestNames:
    def test_the_resolver(self, net: Net) -> None:
        net.docker("network", "create", "mine")
        net.run("one", "--network", "mine", "--network-alias", "svc")
        net.run("two", "--network", "mine", "--network-alias", "svc")
        net.run("elsewhere")
        one, two = net.address("one", "mine"), net.address("two", "mine")
        for how in ("udp", "tcp"):
            assert net.ask("one", "two", how=how) == two
            assert net.ask("one", "TWO.mine", how=how) == two
            assert set(net.ask("one", "svc", how=how).split()) == {one, two}
            assert net.ask("one", two, "PTR", how=how) == "two.mine."
        assert net.ask("one", "two", "AAAA") == "NOERROR", "the name exists, the address does not"
        assert net.ask("one", "two", "MX") == "NOERROR"
        assert net.ask("one", net.inspect("two", "{{.Config.Hostname}}")) == two
        assert net.ask("one", "elsewhere") != net.address("elsewhere")
        net.docker("rename", "two", "three")
        until(lambda: net.ask("one", "three") == two, "the new name")
        net.docker("rm", "-f", "three")
        assert net.ask("one", "svc") == one

    def test_a_container_may_be_a_name_server(self, net: Net) -> None:
        net.docker("network", "create", "mine")
        net.run("one", "--network", "mine", "-p", "5353:53/udp")
        net.serve("one", 53, "0.0.0.0", DNS)
        assert net.ask("one", "one") == net.address("one", "mine")

    def test_forwards_to_given_servers(self, net: Net) -> None:
        net.serve("outside", 53, "10.99.0.2", DNS)
        net.docker("network", "create", "mine")
        net.run("one", "--network", "mine", "--dns", "10.99.0.2", "--dns-search", "lan")
        assert net.ask("one", "example.org") == "192.0.2.77"
        assert net.ask("one", "example.org", how="tcp") == "192.0.2.77"
        assert net.ask("one", "one") == net.address("one", "mine")
        text = net.docker("exec", "one", "cat", "/etc/resolv.conf")
        assert text.splitlines()[:2] == ["nameserver 127.0.0.11", "search lan"]

    def test_connect_and_disconnect(self, net: Net) -> None:
        net.docker("network", "create", "mine")
        net.run("old")
        net.run("peer", "--network", "mine", "-p", "8080:80")
        net.docker("network", "connect", "--alias", "fresh", "mine", "old")
        there = net.address("old", "mine")
        assert net.ask("peer", "fresh") == there
        assert net.ask("old", "peer") == net.address("peer", "mine")
        hosts = net.docker("exec", "old", "cat", "/etc/hosts")
        assert there in hosts
        assert "127.0.0.11" in net.docker("exec", "old", "cat", "/etc/resolv.conf")
        said = net.docker("network", "connect", "mine", "old", code=1)
        assert "endpoint with name old already exists in network mine" in said
        net.docker("network", "disconnect", "mine", "old")
        assert net.ask("peer", "fresh") != there
        assert there not in net.docker("exec", "old", "cat", "/etc/hosts")
        assert "eth1" not in net.docker("exec", "old", "ip", "link")
        # Out of its last network, and back.
        net.docker("network", "disconnect", "mine", "peer")
        assert "eth0" not in net.docker("exec", "peer", "ip", "link")
        net.docker("network", "connect", "mine", "peer")
        net.serve("peer", 80)
        assert net.reach("outside", "10.99.0.1", 8080) == "10.99.0.2"
        assert net.ask("peer", "peer") == net.address("peer", "mine")

    def test_the_mode_stays_when_the_last_network_is_left(self, net: Net) -> None:
        shown = (
            "{{.HostConfig.NetworkMode}}{{range $k, $_ := .NetworkSettings.Networks}} {{$k}}{{end}}"
        )
        net.docker("network", "create", "mine")
        net.run("one", "--network", "mine")
        net.docker("network", "disconnect", "mine", "one")
        assert net.inspect("one", shown) == "mine"
        net.docker("restart", "-t", "0", "one")
        assert "eth0" not in net.docker("exec", "one", "ip", "link")
        net.docker("network", "prune", "-f")
        net.docker("network", "connect", "bridge", "one")
        assert net.inspect("one", shown) == "mine bridge"
        assert net.address("one", "bridge") in net.docker("exec", "one", "ip", "addr")
        # `none` is left the same way, while it does not run.
        net.docker("network", "create", "mine")
        net.docker("create", "--name", "two", "--network", "none", "busybox", "sleep", "1000")
        said = net.docker("network", "connect", "mine", "two", code=1)
        assert "one of the networks in private (none) mode" in said
        net.docker("network", "disconnect", "none", "two")
        net.docker("network", "connect", "mine", "two")
        net.docker("network", "prune", "-f")
        assert "network mine not found" in net.docker("start", "two", code=1)
        net.docker("network", "create", "mine")
        net.docker("start", "two")
        assert net.inspect("two", shown) == "none mine"

    def test_the_gateway_follows_priority(self, net: Net) -> None:
        net.docker("network", "create", "aaa")
        net.docker("network", "create", "zzz")
        net.engine.skerry(
            *("run", "-d", "--name", "one", "--init", "--network", "aaa"),
            *("--network", "name=zzz,gw-priority=9", "-p", "8080:80", "busybox", "sleep", "1000"),
        )
        gateway = net.inspect("one", "{{.NetworkSettings.Networks.zzz.Gateway}}")
        assert f"default via {gateway}" in net.docker("exec", "one", "ip", "route")
        net.serve("one", 80)
        net.docker("network", "disconnect", "zzz", "one")
        gateway = net.inspect("one", "{{.NetworkSettings.Networks.aaa.Gateway}}")
        assert f"default via {gateway}" in net.docker("exec", "one", "ip", "route")
        assert net.reach("outside", "10.99.0.1", 8080) == "10.99.0.2", "the port follows"

    def test_configurations(self, net: Net) -> None:
        net.docker("network", "create", "--config-only", "--subnet", "10.98.7.0/24", "lent")
        net.docker("network", "create", "--config-from", "lent", "mine")
        net.run("one", "--network", "mine")
        assert net.address("one", "mine") == "10.98.7.2"
        said = net.docker("run", "--rm", "--network", "lent", "busybox", code=125)
        assert "cannot create endpoint on configuration-only network" in said
        assert 'network "lent" is in use' in net.docker("network", "rm", "lent", code=1)
        net.docker("rm", "-f", "one")
        assert "lent" not in net.docker("network", "prune", "-f")
        net.docker("network", "rm", "lent")

    def test_static_addresses(self, net: Net) -> None:
        net.docker(
            "network", "create", "--subnet", "10.7.0.0/24", "--ip-range", "10.7.0.64/30", "own"
        )
        options = ("--network", "own", "--ip", "10.7.0.9", "--mac-address", "02:42:00:00:00:99")
        options += ("--link-local-ip", "169.254.7.7", "--link-local-ip", "fe80::7:7")
        net.run("one", *options)
        assert net.address("one", "own") == "10.7.0.9"
        shown = net.docker("exec", "one", "ip", "address")
        for each in ("02:42:00:00:00:99", "169.254.7.7/16", "fe80::7:7/64"):
            assert each in shown
        said = net.docker(
            "run", "--network", "own", "--ip", "10.7.0.9", "busybox", "true", code=125
        )
        assert "Address already in use" in said
        net.run("two", "--network", "own")
        assert net.address("two", "own").startswith("10.7.0.6")


class TestMachines:
    """The host's own namespace is the island's here, so all that a guest could reach is known."""

    def test_a_guest_reaches_nothing_of_the_host_but_ports(self, net: Net) -> None:
        machine_kit.provide(net.engine.root)
        for name in ("mine", "other"):
            net.docker("network", "create", "--ipv6", name)
        serve = ("busybox", "sh", "-c", "hostname > /index.html; exec httpd -f -p 80 -h /")
        there = ("run", "-d", "--net", "mine")
        net.docker(*there, "--name", "thin", "-h", "thin", "-p", "8080:80", *serve)
        net.docker("run", "-d", "--name", "far", "--net", "other", *serve)
        machine = ("--runtime", "skerry-vm")
        for name, port in (("thick", "8081:80"), ("second", "80")):
            net.docker(*there, *machine, "--name", name, "-h", name, "-p", port, *serve)
        self._goes_on(net)
        enters = {name: net.enter(name) for name in ("host", "thin", "thick")}
        bridge = f"sk-{json.loads(net.docker('network', 'inspect', 'mine'))[0]['Id'][:12]}"
        self._is_far(net, bridge)
        net.kill()
        net.enter = lambda where: enters[where]  # type: ignore[method-assign]
        try:
            self._is_far(net, bridge)
        finally:
            del net.enter
        net.engine.start()
        self._is_far(net, bridge)
        self._goes_on(net)
        name = guests_of(str(net.engine.root)).name
        listed = ("nft", "list", "set", "bridge", name, "guests")
        assert net.sh(*listed).count('"ve') == 2
        net.docker("network", "connect", "other", "thick")
        assert net.sh(*listed).count('"ve') == 3
        net.docker("network", "disconnect", "other", "thick")
        assert net.sh(*listed).count('"ve') == 2
        net.docker("rm", "-f", "second")
        assert net.sh(*listed).count('"ve') == 1
        net.docker("rm", "-f", "thick")
        assert "elements" not in net.sh(*listed)

    def _goes_on(self, net: Net) -> None:
        """What a guest must reach: names, its neighbours, ports, the world; and who reaches it."""
        net.serve("outside", 90)
        gateway = net.inspect("thin", "{{.NetworkSettings.Networks.mine.Gateway}}")
        pages = {"thin": "thin", "second": "second", f"{gateway}:8080": "thin"}
        pages["10.99.0.1:8080"] = "thin"
        script = "".join(f"timeout 60 wget -qO- http://{each}/;" for each in pages)
        said = net.docker("exec", "thick", "sh", "-c", f"exec 2>&1; {script} nc 10.99.0.2 90")
        assert said.split() == [*pages.values(), "10.99.0.1"]
        assert net.docker("exec", "thin", "wget", "-qO-", "http://thick/") == "thick"
        for where, address in (("outside", "10.99.0.1"), ("host", "127.0.0.1")):
            assert "thick" in net.python(where, FETCH, f"http://{address}:8081/")
        net.end_servers()

    def _is_far(self, net: Net, bridge: str) -> None:
        """Frames of any kind to any address of the host do not arrive; a container's do."""
        links = {link["ifname"]: link for link in json.loads(net.sh("ip", "-j", "addr"))}
        found = [each["local"] for link in links.values() for each in link["addr_info"]]
        (near,) = (a["local"] for a in links[bridge]["addr_info"] if a["local"][:4] == "fe80")
        gateways = [a["local"] for a in links[bridge]["addr_info"] if a["local"] != near]
        net.serve("host", 99, bridge, EARS)
        shown = subprocess.run([*net.enter("thick"), "ip", "-j", "addr", "show", "eth0"],
                               capture_output=True, check=True).stdout  # fmt: skip
        own = [each["local"] for each in json.loads(shown)[0]["addr_info"]][:2]
        net.python("thick", SENDER, links[bridge]["address"], *own, *found)
        net.python("thick", WORDS, "guest:TARGET", *gateways, near)
        net.python("thin", WORDS, "thin:TARGET", *gateways, near)
        net.python("thin", WORDS, "end", gateways[0])
        ears = net._started[-1].stdout
        assert ears is not None
        assert set(ears.readline().split()) == {"end", *(f"thin:{a}" for a in (*gateways, near))}
        net.end_servers()


class TestCrashes:
    def test_everything_goes_on_without_the_engine(self, net: Net) -> None:
        net.docker("network", "create", "mine")
        net.run("one", "--network", "mine", "-p", "8080:80")
        net.run("two", "--network", "mine")
        net.serve("one", 80)
        one = net.address("one", "mine")
        enter = net.enter("two")
        helper = net.helper()
        net.kill()
        net.enter = lambda where: enter if where == "two" else Net.enter(net, where)  # type: ignore[method-assign]
        try:
            assert net.reach("outside", "10.99.0.1", 8080) == "10.99.0.2"
            assert net.reach("host", "::1", 8080).count(".") == 3
            assert net.ask("two", "one") == one
        finally:
            del net.enter
        net.engine.start()
        assert net.helper() == helper
        assert net.address("one", "mine") == one
        assert net.reach("outside", "10.99.0.1", 8080) == "10.99.0.2"
        assert net.ask("two", "one") == one
        net.run("three", "--network", "mine")
        assert net.address("three", "mine") not in (one, net.address("two", "mine"))
        said = net.docker("run", "-p", "8080:81", "busybox", "true", code=125)
        assert "port is already allocated" in said

    def test_half_a_connect_and_half_a_disconnect(self, net: Net) -> None:
        for name in ("mine", "more"):
            net.docker("network", "create", name)
        for name in ("one", "two"):
            net.run(name, "--network", "mine")
        net.docker("network", "connect", "more", "two")
        one, two = (
            net.engine.run_root / "net/sandboxes" / f"{net.inspect(each, '{{.Id}}')}.json"
            for each in ("one", "two")
        )
        net.kill()
        # As the file is before the link is made, and the link before the file forgets it.
        saved, (_, lost) = json.loads(one.read_text()), json.loads(two.read_text())["endpoints"]
        address = lost["ipv4"].replace(".2/", ".9/")
        saved["endpoints"].append(lost | {"outside": "venothing", "ipv4": address})
        one.write_text(json.dumps(saved))
        net.sh("ip", "link", "delete", lost["outside"])
        net.engine.start()
        networks = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}"
        assert (net.inspect("one", networks), net.inspect("two", networks)) == ("mine", "mine more")
        members = "{{range .Containers}}{{.Name}} {{end}}"
        assert net.docker("network", "inspect", "--format", members, "more") == "two"
        assert net.python("two", "import socket; print(socket.if_nametoindex('eth1'))")
        assert len(json.loads(one.read_text())["endpoints"]) == 1
        net.docker("network", "disconnect", "more", "two")
        net.docker("network", "rm", "more")

    def test_a_helper_that_was_killed_comes_back(self, net: Net) -> None:
        net.docker("network", "create", "mine")
        net.run("one", "--network", "mine", "-p", "8080:80")
        net.serve("one", 80)
        helper = net.helper()
        os.kill(helper, signal.SIGKILL)
        assert net.reach("outside", "10.99.0.1", 8080) == "10.99.0.2", "ports need no helper"
        net.run("two", "--network", "mine")
        assert net.helper() not in (0, helper)
        assert net.ask("one", "two") == net.address("two", "mine")
        assert net.ask("two", "one") == net.address("one", "mine")
        bind = "import socket\ntry: socket.create_server(('', 8080))\nexcept OSError as e: print(e)"
        assert "Address already in use" in net.python("host", bind)

    def test_rests_of_a_killed_engine_go(self, net: Net) -> None:
        net.docker("network", "create", "mine")
        net.run("gone", "--network", "mine", "-p", "8080:80")
        pid = int(net.inspect("gone", "{{.State.Pid}}"))
        bridges = net.links()
        net.kill()
        os.kill(pid, signal.SIGKILL)
        name = f"sk-{'f' * 12}"
        net.sh("ip", "link", "add", name, "type", "bridge")
        net.sh("ip", "link", "set", name, "alias", f"skerry {tag(str(net.engine.root))}")
        folder = net.engine.run_root / "net"
        (folder / "ns/orphan").touch()
        subprocess.run(["mount", "--bind", "/proc/self/ns/net", folder / "ns/orphan"], check=True)
        (folder / "sandboxes/orphan.json").write_text("{broken")
        net.engine.start()
        assert net.links() == bridges
        # Its keeper may not have written down yet that the program has ended.
        until(lambda: not list((folder / "ns").iterdir()), "the last namespace's end")
        until(lambda: not list((folder / "sandboxes").iterdir()), "the last sandbox's end")
        table = table_of(str(net.engine.root)).name
        assert "elements" not in net.sh("nft", "list", "map", "inet", table, "published4")
        net.serve("host", 8080)

    def test_a_reboot_brings_networks_back(self, net: Net) -> None:
        net.docker("network", "create", "--subnet", "10.8.0.0/24", "mine")
        net.docker("create", "--name", "one", "--network", "mine", "-p", "8080:80", "busybox",
                   "sleep", "1000")  # fmt: skip
        bridges = net.links()
        net.engine.stop()
        for path in net.engine.run_root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert net.links() == set(), "nothing ran, so nothing was left"
        net.engine.start()
        assert net.links() == bridges
        net.docker("start", "one")
        net.serve("one", 80)
        assert net.reach("outside", "10.99.0.1", 8080) == "10.99.0.2"

    def test_the_end_leaves_nothing(self, net: Net) -> None:
        net.engine.stop()
        net.sh("sysctl", "-qw", "net.ipv4.ip_forward=0")
        net.engine.start()
        net.docker("network", "create", "mine")
        net.docker("run", "--rm", "--network", "mine", "-p", "8080:80", "busybox", "true")
        assert net.links()
        net.engine.stop()
        try:
            assert net.links() == set()
            assert "skerry" not in net.tables()
            until(lambda: not net.helper(), "the helper's end")
            assert net.sh("sysctl", "-n", "net.ipv4.ip_forward").strip() == "0"
        finally:
            net.engine.start()

    @pytest.mark.parametrize("after", [0.01, 0.05, 0.09, 0.15])
    def test_killed_in_the_middle(self, net: Net, after: float) -> None:
        net.docker("network", "create", "mine")
        names = [f"c{number}" for number in range(3)]
        for name in names:
            options = ("--name", name, "--network", "mine", "-p", "80")
            net.docker("create", *options, "busybox", "sleep", "1000")
        api = [subprocess.Popen(["docker", "-H", net.engine.host, "start", name],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
               for name in names]  # fmt: skip
        time.sleep(after)
        net.kill()
        for each in api:
            each.wait()
        net.engine.start()
        for name in names:
            net.docker("start", name)
        addresses = {net.address(name, "mine") for name in names}
        assert len(addresses) == 3
        net.serve("c0", 80)
        port = int(net.docker("port", "c0", "80").rpartition(":")[2])
        assert net.reach("outside", "10.99.0.1", port) == "10.99.0.2"
        net.end_servers()
        net.engine.remove_containers()
        folder = net.engine.run_root / "net"
        assert list((folder / "ns").iterdir()) == []
        assert list((folder / "sandboxes").iterdir()) == []
        until(lambda: not net.pairs(), "the last veth's end")


def test_many_at_once(net: Net) -> None:
    net.docker("network", "create", "mine")

    def one(number: int) -> tuple[str, str]:
        net.run(f"c{number}", "--network", "mine", "-p", "80")
        return net.address(f"c{number}", "mine"), net.docker("port", f"c{number}", "80")

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(one, range(16)))
    assert len({address for address, _ in found}) == 16
    assert len({port for _, port in found}) == 16
    assert net.ask("c0", "c15") == found[15][0]


def test_two_engines_side_by_side(net: Net) -> None:
    with IslandSkerry(net.island) as second:
        other = Net(net.island, second)
        net.run("mine", "-p", "8080:80")
        other.run("theirs", "-p", "8081:80")
        assert net.inspect("mine", "{{.NetworkSettings.Gateway}}") != other.inspect(
            "theirs", "{{.NetworkSettings.Gateway}}"
        )
        net.serve("mine", 80)
        other.serve("theirs", 80)
        for port in (8080, 8081):
            assert net.reach("outside", "10.99.0.1", port) == "10.99.0.2"
        said = other.docker("run", "-p", "8080:80", "busybox", "true", code=125)
        assert "port is already allocated" in said
        other.clean()
    assert net.links()
    assert net.reach("outside", "10.99.0.1", 8080) == "10.99.0.2", "the other's end is not ours"


def test_what_the_kernel_lacks_is_said(net: Net) -> None:
    made = net.engine.docker("network", "create", "-d", "macvlan", "-o", "parent=up0", "mac",
                             check=False)  # fmt: skip
    if made.returncode == 0:
        net.run("one", "--network", "mac")
        assert "eth0" in net.docker("exec", "one", "ip", "link")
    else:
        assert "kernel" in made.stderr
        assert "mac" not in net.docker("network", "ls", "--format", "{{.Name}}").split()


def test_hostile_datagrams_do_not_stop_the_resolver(net: Net) -> None:
    net.docker("network", "create", "mine")
    net.run("one", "--network", "mine", "--dns", "10.99.0.3")
    flood = """
import os, socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("127.0.0.11", 53))
for n in range(3000):
    try: s.send(os.urandom(n % 600 + 1))
    except OSError: pass
s.settimeout(1)
while True:
    # Until it has got through what was thrown at it.
    s.send(struct.pack(">HHHHHH", 9999, 0, 1, 0, 0, 0) + b"\\x03one\\0\\0\\1\\0\\1")
    try:
        if s.recv(4096)[:2] == struct.pack(">H", 9999): break
    except OSError: pass
question = b"\\x07example\\x03org\\0\\0\\1\\0\\1"
for n in range(400):
    try: s.send(struct.pack(">HHHHHH", n, 0x100, 1, 0, 0, 0) + question)
    except OSError: pass
answers = []
try:
    while len(answers) < 400: answers.append(s.recv(4096))
except OSError: pass
longest = max((len(a) for a in answers), default=0)
idle = [socket.create_connection(("127.0.0.11", 53)) for _ in range(60)]
print(longest <= 512)
"""
    assert net.python("one", flood) == "True"
    assert net.ask("one", "one") == net.address("one", "mine")
