"""Calls to the daemon: connect at the first one, and translate the SDK's errors into the contract's."""

from __future__ import annotations

import contextlib
import hashlib
import json
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
from .daemon_answers import CONFLICT, Answer, Failed, Gone, Silent, error_message, explanation, refusal
from .flavours import DOCKER, Flavour, flavour_of
from .held_limits import missing_limits
from .options import DockerOptions

T = TypeVar("T")
# The pause before a daemon that did not answer is tried again.
RETRY_SECONDS = 0.5
_IDENTITY_CHARACTERS = 32
# How the time of something begins that has not happened.
_NEVER = "0001-"
# More than there are threads that call: the SDK warns of connections that do not fit back into its pool.
_POOL_SIZE = 32


class Daemon:
    """One Docker daemon. Any thread may call it."""

    def __init__(self, options: DockerOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        # One client for plain answers and one for streams: a connection that may be interrupted must not come back
        # into the pool of the plain calls.
        self._clients: tuple[docker.APIClient, docker.APIClient] | None = None
        self._missing_limits: dict[str, str] | None = None
        self._cores: int | None = None
        self._flavour = DOCKER

    @property
    def answer_seconds(self) -> float:
        """How long an answer may take."""
        return self._options.timeout_seconds

    @contextmanager
    def client(self) -> Iterator[docker.APIClient]:
        """Yield the SDK's client, and translate its errors: Gone for a missing container, Unavailable for all else.

        A caller that expects another error of the daemon catches APIError inside.
        """
        with self._translated_errors():
            yield self._connected()[0]

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except APIError as error:
            raise refusal(explanation(error), error.status_code or 0) from error
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
        silence_seconds: float | None = None,
    ) -> Iterator[Answer]:
        """Yield a streamed answer; raise Gone, Failed and Unavailable.

        ``silence_seconds``: how long nothing may come, neither its beginning nor more of it, before Silent is raised;
        None: the beginning must come in the options' time, and any pause is allowed. (A client of ssh waits for ever.)
        """
        with self._translated_errors():
            api = self._connected()[1]
            url = f"{api.base_url}/v{api.api_version}{path}"
            seconds = silence_seconds or self._options.timeout_seconds
            try:
                response = api.request(method, url, params=parameters, headers=headers, stream=True, timeout=seconds)
            except requests.ReadTimeout as error:
                raise Silent(f"The Docker daemon said nothing for {seconds:g} s.") from error
            if response.status_code != requests.codes.ok:
                text, status = error_message(response), response.status_code
                response.close()
                raise refusal(text, status)
        answer = Answer(response)
        answer.keep_alive()
        answer.allow_pauses(silence_seconds)
        try:
            yield answer
        finally:
            answer.close()

    def on_container(self, key: str, call: Callable[[docker.APIClient, str], T]) -> T:
        """Call the daemon for an attempt's container, by its name, or by its label where somebody renamed it."""
        try:
            with self.client() as api:
                return call(api, key)
        except Gone:
            found = self.containers(f"{KEY_LABEL}={key}")
            if not found:
                raise
        with self.client() as api:
            return call(api, found[0]["Id"])

    def containers(self, label: str | None = None) -> list[dict[str, Any]]:
        """Return the list of all containers, or of those with a label."""
        filters = {} if label is None else {"label": label}
        try:
            with self.client() as api:
                found: list[dict[str, Any]] = api.containers(all=True, filters=filters)
        except Gone as error:
            # It says nothing of any one of them.
            raise Failed(str(error)) from error
        return found

    def inspect(self, key: str) -> dict[str, Any]:
        """Return the daemon's description of an attempt's container."""
        found: dict[str, Any] = self.on_container(key, lambda api, container: api.inspect_container(container))
        return found

    def stop(self, key: str, grace_seconds: int) -> None:
        """Stop an attempt's container: TERM, and KILL after the grace period. Returns when it has ended."""

        def stop(api: docker.APIClient, container: str) -> None:
            try:
                api.stop(container, timeout=grace_seconds)
            except APIError:
                # Podman stops none that is paused.
                if api.inspect_container(container)["State"]["Status"] != "paused":
                    raise
                api.unpause(container)
                api.stop(container, timeout=grace_seconds)

        self.on_container(key, stop)

    def remove(self, key: str) -> None:
        """Kill and remove an attempt's container, if it is there."""

        def remove(api: docker.APIClient, container: str) -> None:
            try:
                api.remove_container(container, v=True, force=True)
            except APIError as error:
                # Another call is removing it.
                if error.status_code != CONFLICT:
                    raise

        with contextlib.suppress(Gone):
            self.on_container(key, remove)

    def flavour(self) -> Flavour:
        """Return what kind of engine this is."""
        with self._translated_errors():
            self._connected()
        return self._flavour

    def now(self) -> float:
        """Return the daemon's own time, in seconds since 1970: its clock may differ from this machine's."""
        with self.client() as api:
            return seconds(api.info()["SystemTime"])

    def identity(self) -> str:
        """Return what tells this daemon from all others, whatever its address."""
        return identity(self.info(), self.flavour())

    def info(self) -> dict[str, Any]:
        """Return what the daemon says of itself."""
        with self.client() as api:
            found: dict[str, Any] = api.info()
        self._missing_limits, self._cores = missing_limits(found), int(found["NCPU"])
        return found

    def missing_limits(self) -> Mapping[str, str]:
        """Return the limits that the daemon cannot hold, as when it was asked last, each with the reason."""
        if self._missing_limits is None:
            self.info()
        return self._missing_limits or {}

    def cores(self) -> int:
        """Return how many cores the daemon's host has, as when it was asked last."""
        if self._cores is None:
            self.info()
        return self._cores or 1

    def answers(self) -> bool:
        """Return whether the daemon answers at all."""
        try:
            with self.client() as api:
                return bool(api.ping())
        except (Gone, Unavailable):
            return False

    def remembers_creation(self, found: Mapping[str, Any]) -> bool:
        """Return whether a container, given as inspected, was certainly never started.

        A daemon that crashes during `start` reports `created` afterwards. Docker forgets its events when it restarts;
        it also keeps only the last 256, so this may be False without a restart. Podman (4.3) reports `created` also of
        one whose process waits for its start, and, after a restart of the machine, of one that ran before it.
        """
        state = found["State"]
        if not state["StartedAt"].startswith(_NEVER):
            return False
        if not self.flavour().forgets_events:
            return not state["Pid"]
        return self._remembers("create", found, found["Created"])

    def knows_end(self, found: Mapping[str, Any]) -> bool:
        """Return whether the exit code of a container, given as inspected after its end, is certainly its own.

        A container that has ended when its daemon starts gets the code that containerd has kept, if it has: an earlier
        start may have taken it away and crashed before it was stored, and a crash of the machine leaves none. Where the
        daemon was there at the end, it has taken the container off its networks, or remembers the end.
        """
        state, networks = found["State"], found["NetworkSettings"]["Networks"] or {}
        return (
            state["ExitCode"] not in self.flavour().unlearnt_codes
            or not any(network["EndpointID"] for network in networks.values())
            or self._remembers("die", found, state["StartedAt"])
        )

    def _remembers(self, action: str, found: Mapping[str, Any], since: str) -> bool:
        """Return whether the daemon remembers an event of a container, given as inspected."""
        until = int(self.now()) + 1
        filters = json.dumps({"type": ["container"], "event": [action], "container": [found["Id"]]})
        parameters: dict[str, str | int] = {"since": int(seconds(since)), "until": until, "filters": filters}
        with self.stream("/events", parameters, silence_seconds=self.answer_seconds) as answer:
            return any(True for _ in answer.lines())

    def renegotiate(self) -> None:
        """Ask for the API's version before the next call: after a break another release may answer.

        An older one answers 400 to every request of a newer version, as it does to a request that is wrong.
        """
        with self._lock:
            self._clients = None

    def _connected(self) -> tuple[docker.APIClient, docker.APIClient]:
        with self._lock:
            if self._clients is None:
                told = self._connect(DEFAULT_DOCKER_API_VERSION).version(api_version=False)
                self._flavour, version = flavour_of(told), told["ApiVersion"]
                self._clients = self._connect(version), self._connect(version)
                _share_connections(self._clients[0])
            return self._clients

    def _connect(self, version: str) -> docker.APIClient:
        """Return a client that has not connected yet."""
        api = docker.APIClient(
            self._options.base_url,
            version=version,
            timeout=self._options.timeout_seconds,
            tls=_tls(self._options),
            max_pool_size=_POOL_SIZE,
            # The SDK's own ssh ignores the user's ssh configuration.
            use_ssh_client=True,
        )
        # Proxies and certificate authorities in the worker's environment are not meant for its daemon, and would
        # override the options.
        api.trust_env = False
        return api


def _share_connections(api: docker.APIClient) -> None:
    """Make all calls through a socket use one connection pool.

    The SDK makes a pool per path, that is per container: no connection would ever be reused.
    """
    adapter = api.get_adapter(api.base_url)
    if isinstance(adapter, UnixHTTPAdapter):
        connections = adapter.get_connection
        adapter.get_connection = lambda _url, proxies=None: connections(api.base_url, proxies)


def identity(info: Mapping[str, Any], flavour: Flavour) -> str:
    """Return a daemon's identity from what it says of itself.

    Its own ID is not enough: machines that were cloned from one image share it, and so do several daemons of one
    machine in older releases of Docker (seen with 20.10).
    """
    parts = json.dumps([info["ID"] if flavour.has_identity else flavour.name, info["Name"], info["DockerRootDir"]])
    return hashlib.sha256(parts.encode()).hexdigest()[:_IDENTITY_CHARACTERS]


def seconds(text: str) -> float:
    """Return a timestamp of the daemon, in any time zone, as seconds since 1970."""
    time = parse_datetime(text)
    if time is None:
        raise Unavailable(f"The Docker daemon's time is no time: {text!r}")
    return time.timestamp()


def _tls(options: DockerOptions) -> TLSConfig | bool:
    if options.tls is None:
        return False
    return TLSConfig(client_cert=(options.tls["cert"], options.tls["key"]), ca_cert=options.tls["ca"], verify=True)
