"""TLS and proxies."""

import asyncio
import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from skerry.base.digests import sha256
from skerry.base.errors import RegistryUnreachable
from skerry.registry import wire
from skerry.registry.auth import Credential
from skerry.registry.config import RegistrySettings

MANIFEST = b'{"schemaVersion":2}'
KIND = "application/vnd.oci.image.manifest.v1+json"


class Authority:
    """Makes certificates for 127.0.0.1 in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.ca = self._write("ca", self._sign(self._name, self._key, ca=True))

    def issue(self, name: str) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        path = self.folder / f"{name}.key"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return self._write(name, self._sign(subject, key)), str(path)

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, ca: bool = False
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, name: str, certificate: x509.Certificate) -> str:
        path = self.folder / f"{name}.pem"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return str(path)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def server_context(authority: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server"))
    return context


async def manifest(request: web.BaseRequest) -> web.Response:
    return web.Response(body=MANIFEST, content_type=KIND)


async def test_an_authority_of_ones_own(servers, authority: Authority) -> None:
    name = await servers.web(manifest, server_context(authority))
    client = await servers.client(name, plain_http=False, ca=authority.ca)
    assert (await client.manifest("app", "v1")).data == MANIFEST


async def test_an_unknown_authority(servers, authority: Authority) -> None:
    name = await servers.web(manifest, server_context(authority))
    client = await servers.client(name, plain_http=False)
    with pytest.raises(RegistryUnreachable, match="certificate is not trusted") as caught:
        await client.manifest("app", "v1")
    assert f'[registry."{name}"] ca' in caught.value.hint


async def test_insecure_takes_any_certificate(servers, authority: Authority) -> None:
    name = await servers.web(manifest, server_context(authority))
    client = await servers.client(name, plain_http=False, insecure=True)
    assert (await client.manifest("app", "v1")).data == MANIFEST


async def test_a_client_certificate(servers, authority: Authority) -> None:
    context = server_context(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.ca)
    name = await servers.web(manifest, context)
    cert, key = authority.issue("client")
    known = await servers.client(name, plain_http=False, ca=authority.ca, cert=cert, key=key)
    assert (await known.manifest("app", "v1")).data == MANIFEST
    unknown = await servers.client(name, plain_http=False, ca=authority.ca)
    with pytest.raises(RegistryUnreachable):
        await unknown.manifest("app", "v1")


async def test_a_certificate_file_that_is_none(servers, tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pem", tmp_path / "bad.pem"):
        client = await servers.client("127.0.0.1:1", plain_http=False, ca=str(path))
        with pytest.raises(RegistryUnreachable, match=f"cannot use {path}"):
            await client.manifest("app", "v1")
        (tmp_path / "bad.pem").write_text("no certificate")


async def test_a_redirect_out_of_tls_is_not_followed(servers, authority: Authority) -> None:
    seen: list[str] = []

    async def plain(request: web.BaseRequest) -> web.Response:
        seen.append(request.path)
        return web.Response(body=MANIFEST, content_type=KIND)

    other = await servers.web(plain)

    async def handler(request: web.BaseRequest) -> web.Response:
        return web.Response(status=302, headers={"Location": f"http://{other}/"})

    name = await servers.web(handler, server_context(authority))
    client = await servers.client(name, plain_http=False, ca=authority.ca)
    with pytest.raises(RegistryUnreachable, match="without encryption"):
        await client.manifest("app", "v1")
    assert seen == []


async def test_a_realm_out_of_tls_gets_no_credentials(servers, authority: Authority) -> None:
    seen: list[str] = []

    async def token(request: web.BaseRequest) -> web.Response:
        seen.append(request.headers.get("Authorization", ""))
        return web.json_response({"token": "x"})

    realm = await servers.web(token)

    async def handler(request: web.BaseRequest) -> web.Response:
        challenge = f'Bearer realm="http://{realm}/"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    name = await servers.web(handler, server_context(authority))
    user = Credential("user", "secret")
    client = await servers.client(name, user, plain_http=False, ca=authority.ca)
    with pytest.raises(RegistryUnreachable, match="without encryption"):
        await client.manifest("app", "v1")
    assert seen == []


class TestProxies:
    @pytest.fixture
    async def proxy(self, servers):
        """An HTTP proxy that answers by itself, and what it was asked for."""
        asked: list[str] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            asked.append(head.partition(b"\r\n")[0].decode())
            writer.write(
                f"HTTP/1.1 200 OK\r\nContent-Type: {KIND}\r\nConnection: close\r\n"
                f"Content-Length: {len(MANIFEST)}\r\n\r\n".encode()
                + MANIFEST
            )
            await writer.drain()

        return f"http://{await servers.raw(talk)}", asked

    async def test_of_the_settings(self, servers, proxy) -> None:
        client = await servers.client("registry.test", proxy=proxy[0])
        await client.manifest("app", "v1")
        assert proxy[1] == ["GET http://registry.test/v2/app/manifests/v1 HTTP/1.1"]

    async def test_of_the_environment(
        self, servers, proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", proxy[0])
        monkeypatch.setenv("no_proxy", "direct.test")
        client = await servers.client("registry.test")
        await client.manifest("app", "v1")
        assert len(proxy[1]) == 1
        local = await servers.client(await servers.web(manifest))
        await local.manifest("app", "v1")
        assert len(proxy[1]) == 1

    async def test_none(self, servers, proxy, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", proxy[0])
        client = await servers.client(await servers.web(manifest), proxy="")
        assert (await client.manifest("app", "v1")).digest == sha256(MANIFEST)
        assert proxy[1] == []


def test_authorities_are_read_once_and_only_where_they_are_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []
    system = wire._system_tls

    def noted(stamps: tuple[object, ...]) -> ssl.SSLContext:
        read.append("system")
        return system(stamps)

    monkeypatch.setattr(wire, "_system_tls", noted)
    plain = wire._tls(RegistrySettings("a", "a"))
    assert wire._tls(RegistrySettings("b", "b")) is plain
    assert plain.verify_mode == ssl.CERT_REQUIRED and plain.check_hostname
    loose = wire._tls(RegistrySettings("127.0.0.1:5", "127.0.0.1:5", insecure=True))
    assert loose.verify_mode == ssl.CERT_NONE and not loose.get_ca_certs()
    assert read == ["system", "system"]
    assert {plain.minimum_version, loose.minimum_version} == {ssl.TLSVersion.TLSv1_2}
