"""Talk to the daemon: connect when first asked, and turn what the SDK raises into the contract's errors."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import docker
import requests
import urllib3
from django.utils.dateparse import parse_datetime
from docker.constants import DEFAULT_DOCKER_API_VERSION
from docker.errors import APIError, DockerException
from docker.tls import TLSConfig
from docker.transport import UnixHTTPAdapter

from ..base import Unavailable
from .configuration import KEY_LABEL
from .options import DockerOptions

T = TypeVar("T")
CONFLICT = 409
# The pause before a daemon that did not answer is asked again.
RETRY_SECONDS = 0.5
_READ_BYTES = 65536
# More than there are threads that ask: the SDK complains of connections that it cannot put back into their pool.
_POOL_SIZE = 32
_BROKEN = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    DockerException,
    OSError,
    # The SDK's, of a connection that another thread broke off.
    ValueError,
    AttributeError,
)


class Gone(Exception):
    """The daemon answers, and has no such container."""


class Failed(Unavailable):
    """The daemon answers that it could not do it. The text is its own."""


class Daemon:
    """One Docker daemon. Any thread may ask it."""

    def __init__(self, options: DockerOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        # For answers that come at once, and for those that come bit by bit: a connection that may be broken off is
        # not to be another call's by then.
        self._clients: tuple[docker.APIClient, docker.APIClient] | None = None

    @contextmanager
    def asked(self) -> Iterator[docker.APIClient]:
        """Give the SDK's client, and turn its errors: Gone for a container that is not there, Unavailable for all else.

        A caller that expects another refusal catches APIError inside.
        """
        with self._understood():
            yield self._connected()[0]

    @contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except docker.errors.NotFound as error:
            raise Gone(explanation(error)) from error
        except APIError as error:
            raise Failed(explanation(error)) from error
        except (requests.RequestException, DockerException, urllib3.exceptions.HTTPError, OSError) as error:
            raise Unavailable(f"The Docker daemon at {self._options.base_url} does not answer: {error}") from error

    @contextmanager
    def stream(
        self,
        path: str,
        parameters: Mapping[str, str | int],
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[Answer]:
        """Give an answer that comes bit by bit; raise Gone, Failed and Unavailable."""
        with self._understood():
            api = self._connected()[1]
            url = f"{api.base_url}/v{api.api_version}{path}"
            seconds = self._options.timeout_seconds
            response = api.request(method, url, params=parameters, headers=headers, stream=True, timeout=seconds)
            if response.status_code != requests.codes.ok:
                text = _message(response)
                response.close()
                raise Gone(text) if response.status_code == requests.codes.not_found else Failed(text)
        answer = Answer(response)
        answer.allow_pauses()
        try:
            yield answer
        finally:
            answer.close()

    def about(self, key: str, ask: Callable[[docker.APIClient, str], T]) -> T:
        """Ask something about the container of an attempt, by its name, or by its label where somebody renamed it."""
        try:
            with self.asked() as api:
                return ask(api, key)
        except Gone:
            with self.asked() as api:
                found = api.containers(all=True, filters={"label": f"{KEY_LABEL}={key}"})
            if not found:
                raise
        with self.asked() as api:
            return ask(api, found[0]["Id"])

    def inspect(self, key: str) -> dict[str, Any]:
        """Return all that the daemon knows of an attempt's container."""
        found: dict[str, Any] = self.about(key, lambda api, container: api.inspect_container(container))
        return found

    def remove(self, key: str) -> None:
        """Kill and remove an attempt's container, if it is there."""

        def remove(api: docker.APIClient, container: str) -> None:
            try:
                api.remove_container(container, v=True, force=True)
            except APIError as error:
                # Somebody else is removing it.
                if error.status_code != CONFLICT:
                    raise

        with contextlib.suppress(Gone):
            self.about(key, remove)

    def now(self) -> float:
        """Return the daemon's own time, in seconds since 1970: its clock need not go as this machine's."""
        with self.asked() as api:
            return seconds(api.info()["SystemTime"])

    def saw_created(self, found: Mapping[str, Any]) -> bool:
        """Tell whether the daemon has run on since it created a container, here as it was inspected.

        Then its word that the container has not been started is true. It says the same of one that it had just started
        when it died, but remembers nothing of what it did before. (Nor what is 256 events ago: then this is False too.)
        """
        now = self.now()
        filters = json.dumps({"type": ["container"], "event": ["create"], "container": [found["Id"]]})
        since, until = int(seconds(found["Created"])), int(now) + 1
        parameters: dict[str, str | int] = {"since": since, "until": until, "filters": filters}
        with self.stream("/events", parameters) as answer:
            return any(True for _ in answer.lines())

    def _connected(self) -> tuple[docker.APIClient, docker.APIClient]:
        with self._lock:
            if self._clients is None:
                version = self._connect(DEFAULT_DOCKER_API_VERSION).version(api_version=False)["ApiVersion"]
                self._clients = self._connect(version), self._connect(version)
                _share_connections(self._clients[0])
            return self._clients

    def _connect(self, version: str) -> docker.APIClient:
        """Return a client that has not asked anything yet."""
        api = docker.APIClient(
            self._options.base_url,
            version=version,
            timeout=self._options.timeout_seconds,
            tls=_tls(self._options),
            max_pool_size=_POOL_SIZE,
            # The SDK's other way does not heed the user's ssh configuration.
            use_ssh_client=True,
        )
        # Proxies and certificate authorities in the worker's environment are not meant for its daemon, and would take
        # precedence over the options'.
        api.trust_env = False
        return api


class Answer:
    """An answer that comes bit by bit. One thread reads it; any thread may break it off."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response

    def pieces(self) -> Iterator[bytes]:
        """Yield what comes, until it ends well. Raises Unavailable where it is cut or broken off."""
        try:
            yield from self._response.raw.stream(_READ_BYTES, decode_content=False)
        except _BROKEN as error:
            raise Unavailable(f"The Docker daemon's answer was cut: {error}") from error

    def lines(self) -> Iterator[Any]:
        """Yield the JSON values of an answer that has one a line."""
        rest = b""
        for piece in self.pieces():
            *lines, rest = (rest + piece).split(b"\n")
            for line in filter(None, lines):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise Unavailable(f"The Docker daemon's answer is no JSON: {line[:100]!r}") from error

    def allow_pauses(self) -> None:
        """Wait as long as it takes from one piece to the next. (Only the beginning had to come in time.)"""
        if (own := self._socket()) is not None:
            own.settimeout(None)

    def break_off(self) -> None:
        """Have the reader's next read fail."""
        own = self._socket()
        if (process := getattr(own, "proc", None)) is not None:
            # An ssh client stands between.
            process.kill()
        elif own is not None:
            with contextlib.suppress(OSError):
                own.shutdown(socket.SHUT_RDWR)

    def _socket(self) -> Any:
        return getattr(self._response.raw.connection, "sock", None)

    def close(self) -> None:
        self.break_off()
        with contextlib.suppress(*_BROKEN):
            self._response.close()


def _share_connections(api: docker.APIClient) -> None:
    """Have all calls through a socket use one pool.

    The SDK makes one for each path, so for each container: no connection would ever be used twice.
    """
    adapter = api.get_adapter(api.base_url)
    if isinstance(adapter, UnixHTTPAdapter):
        connections = adapter.get_connection
        adapter.get_connection = lambda _url, proxies=None: connections(api.base_url, proxies)


def explanation(error: APIError) -> str:
    """Return the daemon's own words."""
    return str(error.explanation or error)


def seconds(text: str) -> float:
    """Return a time that the daemon tells, in whatever zone it lives, as seconds since 1970."""
    time = parse_datetime(text)
    if time is None:
        raise Unavailable(f"The Docker daemon's time is no time: {text!r}")
    return time.timestamp()


def _message(response: requests.Response) -> str:
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return response.text


def _tls(options: DockerOptions) -> TLSConfig | bool:
    if options.tls is None:
        return False
    return TLSConfig(client_cert=(options.tls["cert"], options.tls["key"]), ca_cert=options.tls["ca"], verify=True)
