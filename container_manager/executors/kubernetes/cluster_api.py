"""Calls to one namespace's API server: the official client's connection, plain JSON, errors as the contract's."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any
from urllib.parse import urlencode

import urllib3
from django.core.exceptions import ImproperlyConfigured
from kubernetes import client, config

from ... import __version__
from ..base import ExecutorError, Unavailable
from .api_fields import event_time
from .cluster_answers import (
    BROKEN,
    MESSAGE_CHARACTERS,
    Absent,
    ApiRefusal,
    ApiStream,
    NameTaken,
    Outdated,
    Overloaded,
    error_words,
)
from .kubernetes_options import KubernetesOptions

_CONNECT_SECONDS = 5.0
_USER_AGENT = f"django-container-manager/{__version__}"
# More than there are threads that call: the client opens more connections, and closes those that do not fit back.
_POOL_SIZE = 48
_MOST_RETRY_AFTER_SECONDS = 300.0
# How many objects a list brings at once.
_PAGE = 500
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_JOBS, _PODS = "apis/batch/v1", "api/v1"
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _CONFLICT, _GONE, _TOO_MANY, _SERVER_ERRORS = 401, 403, 404, 409, 410, 429, 500
# Whom a server takes for nobody, where it lets such in at all.
_NOBODY = 'User "system:anonymous"'


class ClusterApi:
    """The API of one namespace. Any thread may call it.

    Objects are the API's JSON, so that fields which the client's classes do not know pass, too. Each call raises
    Unavailable where there is no answer, `Overloaded` for one that says to come again, `Absent`, `NameTaken` or
    `ApiRefusal`.
    """

    def __init__(self, options: KubernetesOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._client: client.ApiClient | None = None
        self._namespace = options.namespace

    @property
    def namespace(self) -> str:
        self._connected()
        return self._namespace

    @property
    def host(self) -> str:
        return str(self._connected().configuration.host)

    # -- Jobs and their Secrets ----------------------------------------------------------------------------------

    def create_job(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        return self._known(self._call("POST", self._path(_JOBS, "jobs"), body=manifest))

    def job(self, name: str) -> dict[str, Any]:
        return self._known(self._call("GET", self._path(_JOBS, "jobs", name)))

    def annotate_job(self, name: str, uid: str, annotations: Mapping[str, str]) -> dict[str, Any]:
        """Add annotations to a Job. Raises `NameTaken` where the name is another Job's by now."""
        body = {"metadata": {"uid": uid, "annotations": dict(annotations)}}
        path = self._path(_JOBS, "jobs", name)
        return self._known(self._call("PATCH", path, body=body, kind="application/merge-patch+json"))

    def drop_finalizer(self, name: str, uid: str, finalizer: str) -> dict[str, Any]:
        """Take one finalizer off a Job, whatever others come or go meanwhile."""
        body = {"metadata": {"uid": uid, "$deleteFromPrimitiveList/finalizers": [finalizer]}}
        kind = "application/strategic-merge-patch+json"
        return self._call("PATCH", self._path(_JOBS, "jobs", name), body=body, kind=kind)

    def delete_job(self, name: str, uid: str) -> None:
        """Delete a Job after its pods: the API's default would leave these."""
        body = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        self._call("DELETE", self._path(_JOBS, "jobs", name), body=body)

    def create_secret(self, manifest: Mapping[str, Any]) -> None:
        self._call("POST", self._path(_PODS, "secrets"), body=manifest)

    # -- pods ----------------------------------------------------------------------------------------------------

    def delete_pod(self, name: str, uid: str, *, grace_seconds: int) -> None:
        """Have a pod end: TERM, and KILL after the grace period.

        At least a second: with 0 the server forgets the pod, whether its node has ended it or not.
        """
        body = {"gracePeriodSeconds": max(1, grace_seconds), "preconditions": {"uid": uid}}
        self._call("DELETE", self._path(_PODS, "pods", name), body=body)

    def log(
        self, pod: str, container: str, *, follow: bool, since: str | None, silence_seconds: float | None
    ) -> ApiStream:
        """Return a container's log with a timestamp before each line; ``since``: RFC 3339, in whole seconds."""
        query = {"container": container, "timestamps": "true", "follow": str(follow).lower()}
        if since is not None:
            query["sinceTime"] = since
        path = self._path(_PODS, "pods", pod, "log")
        return ApiStream(self._send("GET", path, query, None, read_seconds=silence_seconds))

    def warnings(self, uid: str) -> list[dict[str, Any]]:
        """Return the events of type Warning about an object, in the order of their last times."""
        selector = f"involvedObject.uid={uid},type=Warning"
        found = self._call("GET", self._path(_PODS, "events"), {"fieldSelector": selector, "limit": str(_PAGE)})
        return sorted(found.get("items") or (), key=event_time)

    # -- lists and watches ---------------------------------------------------------------------------------------

    def list(self, kind: str, selector: str) -> tuple[list[dict[str, Any]], str]:
        """Return all ``jobs`` or ``pods`` with a label, as they are now, and the version to watch from."""
        found: list[dict[str, Any]] = []
        query = {"labelSelector": selector, "limit": str(_PAGE)}
        while True:
            page = self._call("GET", self._kind_path(kind), query)
            items, metadata = page.get("items", ()), page.get("metadata")
            if not (
                isinstance(items, list | NoneType) and isinstance(metadata, Mapping) and "resourceVersion" in metadata
            ):
                # A proxy's own page: that nothing is listed there says nothing.
                raise Unavailable(f"The API server at {self.host} answers with something else than a list of {kind}.")
            found += items or ()
            if not (more := metadata.get("continue")):
                return found, str(metadata["resourceVersion"])
            query = {**query, "continue": more}

    def watch(self, kind: str, selector: str, version: str, *, seconds: float) -> ApiStream:
        """Return the stream of changes after a version; the server ends it after ``seconds``."""
        query = {
            "labelSelector": selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(max(1, round(seconds))),
        }
        # The server's own timeout says nothing on a connection that is dead.
        return ApiStream(self._send("GET", self._kind_path(kind), query, None, read_seconds=seconds + 3.0))

    # -- the server ----------------------------------------------------------------------------------------------

    def version(self) -> str:
        return str(self._call("GET", "/version").get("gitVersion", "unknown"))

    def review(self, body: Mapping[str, Any]) -> bool:
        """Ask whether this client may do something: a ``SelfSubjectAccessReview``."""
        answer = self._call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=body)
        return bool((answer.get("status") or {}).get("allowed"))

    def close(self) -> None:
        with self._lock:
            found, self._client = self._client, None
        if found is not None:
            found.rest_client.pool_manager.clear()

    # ------------------------------------------------------------------------------------------------------------

    def _known(self, found: dict[str, Any]) -> dict[str, Any]:
        """Return an object; raise Unavailable where the answer is none, such as a proxy's own page."""
        metadata = found.get("metadata")
        if not (isinstance(metadata, Mapping) and metadata.get("uid")):
            raise Unavailable(f"The API server at {self.host} answers with something else than the object.")
        return found

    def _path(self, group: str, *parts: str) -> str:
        return "/".join(["", group, "namespaces", self.namespace, *parts])

    def _kind_path(self, kind: str) -> str:
        return self._path(_JOBS if kind == "jobs" else _PODS, kind)

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        kind: str = "application/json",
    ) -> dict[str, Any]:
        answer = self._send(method, path, query, body, kind=kind, read_seconds=self._options.timeout_seconds)
        try:
            found = json.loads(answer.data)
        except (*BROKEN, UnicodeDecodeError) as error:
            # What was asked for may have been done.
            raise Unavailable(f"The API server's answer broke off: {error_words(error)}") from error
        return found if isinstance(found, dict) else {}

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        *,
        kind: str = "application/json",
        read_seconds: float | None,
    ) -> Any:
        """Return the answer, whose body is not read yet."""
        api = self._connected()
        headers = {"Accept": "application/json, */*", "User-Agent": _USER_AGENT}
        if body is not None:
            headers["Content-Type"] = kind
        # An object is serialized here: the client would take some patches for what they are not.
        data = None if body is None else json.dumps(body)
        try:
            # Refreshes a token that has expired, or is read from a file.
            for setting in api.configuration.auth_settings().values():
                if setting["value"]:
                    headers[setting["key"]] = setting["value"]
            answer = api.rest_client.pool_manager.request(
                method,
                f"{api.configuration.host}{path}{'?' if query else ''}{urlencode(query or {})}",
                headers=headers,
                body=data,
                preload_content=False,
                timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=read_seconds),
                retries=False,
            )
        except (*BROKEN, config.ConfigException) as error:
            raise Unavailable(f"The API server at {self.host} does not answer: {error_words(error)}") from error
        if answer.status >= 300:
            raise self._error(answer)
        return answer

    def _error(self, answer: Any) -> ExecutorError:
        try:
            data = answer.data
        except BROKEN:
            data = b""
        status, headers = int(answer.status), answer.headers
        try:
            said = json.loads(data)
            reason, message = str(said.get("reason") or answer.reason), str(said.get("message") or "")
            details = said.get("details") or {}
        except (ValueError, AttributeError):
            # A proxy's own words.
            reason, message, details = str(answer.reason), data[:MESSAGE_CHARACTERS].decode(errors="replace"), {}
        message = message[:MESSAGE_CHARACTERS]
        if status == _UNAUTHORIZED or (status == _FORBIDDEN and _NOBODY in message):
            # Its files may have changed since they were read, or a plugin may have given it no credentials.
            self.close()
            return Unavailable(f"The API server at {self.host} does not know this client ({status}): {message}")
        if status == _TOO_MANY or status >= _SERVER_ERRORS:
            text = f"The API server answers {status} ({reason}): {message}"
            undone = status == _TOO_MANY
            return Overloaded(text, retry_after=_seconds(headers.get("Retry-After"), details), is_undone=undone)
        by_status = {_NOT_FOUND: Absent, _CONFLICT: NameTaken, _GONE: Outdated}
        if status in by_status and not (status == _NOT_FOUND and details.get("kind") == "namespaces"):
            return by_status[status](message)
        return ApiRefusal(status, reason, message)

    def _connected(self) -> client.ApiClient:
        with self._lock:
            if self._client is None:
                self._client = self._new_client()
            return self._client

    def _new_client(self) -> client.ApiClient:
        options, settings = self._options, client.Configuration()
        settings.connection_pool_maxsize = _POOL_SIZE
        namespace = ""
        try:
            if options.kubeconfig or options.context or not _NAMESPACE_FILE.exists():
                config.load_kube_config(  # type: ignore[no-untyped-call]  # the client has no types there
                    options.kubeconfig or None,
                    options.context or None,
                    client_configuration=settings,
                    persist_config=False,
                )
                namespace = _context_namespace(options)
            else:
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]  # as above
                namespace = _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
        except (config.ConfigException, OSError, ValueError) as error:
            raise Unavailable(f"There is no way to a cluster: {error_words(error)}") from error
        self._namespace = options.namespace or namespace or "default"
        return client.ApiClient(settings)


def _context_namespace(options: KubernetesOptions) -> str:
    listed = config.list_kube_config_contexts(options.kubeconfig or None)  # type: ignore[no-untyped-call]  # as above
    contexts, current = listed
    chosen = next((each for each in contexts if each["name"] == options.context), None) if options.context else current
    return str(((chosen or {}).get("context") or {}).get("namespace") or "")


def check_connection_options(options: KubernetesOptions) -> None:
    """Raise ImproperlyConfigured for a kubeconfig that is named and not there, without connecting to anything."""
    if options.kubeconfig and not Path(options.kubeconfig).exists():
        raise ImproperlyConfigured(f"The option 'kubeconfig' names a file that is not there: {options.kubeconfig!r}.")


def _seconds(header: str | None, details: Mapping[str, Any]) -> float | None:
    try:
        found = float(header if header is not None else details["retryAfterSeconds"])
    except (ValueError, KeyError, TypeError):
        return None
    return min(max(0.0, found), _MOST_RETRY_AFTER_SECONDS)
