"""What one build gives git on its way: the client's agent, the hosts that it knows, its tokens.

Nothing of the engine's own user goes along: no key, no configuration. `GIT_AUTH_TOKEN` and
`GIT_AUTH_HEADER` are secrets, as with BuildKit; with `.HOST` behind the name they are for one host.
"""

import contextlib
import os
import shlex
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import urlsplit

from skerry.base.errors import InvalidInput
from skerry.build.agents import Agents
from skerry.build.request import Options
from skerry.build.workplace import Workplace

AGENT: Final = "default"
TOKEN: Final = "GIT_AUTH_TOKEN"
HEADER: Final = "GIT_AUTH_HEADER"
_SSH: Final = (
    "ssh -F /dev/null -o BatchMode=yes -o IdentityFile=none -o PasswordAuthentication=no "
    "-o StrictHostKeyChecking=accept-new -o UpdateHostKeys=no"
)
_PASSED: Final = (
    *("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
    *("no_proxy", "NO_PROXY", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH"),
)


class Access:
    """For all repositories of one build."""

    def __init__(self, options: Options, place: Workplace, agents: Agents | None) -> None:
        self._options = options
        self._place = place
        self._agents = agents

    @contextlib.asynccontextmanager
    async def environment(self, url: str) -> AsyncIterator[dict[str, str]]:
        """The variables for git while it works on one repository."""
        found = {name: os.environ[name] for name in _PASSED if name in os.environ}
        if "SSL_CERT_FILE" in os.environ:
            found.setdefault("GIT_SSL_CAINFO", os.environ["SSL_CERT_FILE"])
        found |= self._header(url)
        known = self._place.file("known-hosts", self._options.known_hosts, 0o600)
        found["GIT_SSH_COMMAND"] = f"{_SSH} -o UserKnownHostsFile={shlex.quote(known)}"
        if self._agents is None or AGENT not in self._options.ssh:
            yield found
            return
        path = self._place.fresh("agent")
        owner = (os.geteuid(), os.getegid())
        async with self._agents.listen(AGENT, path, 0o600, owner):
            yield found | {"SSH_AUTH_SOCK": path}

    def _header(self, url: str) -> dict[str, str]:
        """Git's configuration by variables (git-config(1), GIT_CONFIG_COUNT): an argument would
        show in the list of processes."""
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            return {}
        value = self._authorization(parts.hostname)
        if not value:
            return {}
        where = f"https://{parts.netloc.rpartition('@')[2]}/"
        return {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"http.{where}.extraHeader",
            "GIT_CONFIG_VALUE_0": f"Authorization: {value}",
        }

    def _authorization(self, host: str) -> str:
        secrets = self._options.secrets
        for suffix in (f".{host}", ""):
            if header := secrets.get(HEADER + suffix):
                return _text(header.data, HEADER)
            if token := secrets.get(TOKEN + suffix):
                pair = f"x-access-token:{_text(token.data, TOKEN)}"
                return f"basic {b64encode(pair.encode()).decode()}"
        return ""


def _text(data: bytes, what: str) -> str:
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        text = "\n"
    if any(ord(character) < 32 for character in text):
        raise InvalidInput(f"secret {what}: not a line of text")
    return text
