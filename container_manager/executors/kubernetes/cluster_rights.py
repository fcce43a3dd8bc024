"""What a worker must be allowed to do in its namespace, and whether it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Right(NamedTuple):
    """A verb on a kind of object, as a Role grants it."""

    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}"


# Those of `deploy/kubernetes/role.yaml`, which a test compares. A Secret is only created: the cluster deletes it with
# its Job, and no worker reads one. A pod is deleted where its Job was deleted by hand and has left it behind.
RIGHTS: Sequence[Right] = (
    *(Right("batch", "jobs", verb) for verb in ("create", "get", "list", "watch", "patch", "delete")),
    *(Right("", "pods", verb) for verb in ("get", "list", "watch", "delete")),
    Right("", "pods/log", "get"),
    Right("", "events", "list"),
    Right("", "secrets", "create"),
)


def review(right: Right, namespace: str) -> dict[str, Any]:
    """Return the ``SelfSubjectAccessReview`` that asks the API server for a right; everybody may ask."""
    resource, _, subresource = right.resource.partition("/")
    attributes = {"namespace": namespace, "group": right.group, "resource": resource, "verb": right.verb}
    if subresource:
        attributes["subresource"] = subresource
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }


def missing_rights(ask: Callable[[Mapping[str, Any]], bool], namespace: str) -> list[Right]:
    """Return the rights that a worker lacks; ``ask`` sends a review and returns its ``status.allowed``."""
    return [right for right in RIGHTS if not ask(review(right, namespace))]


def said_of(missing: Sequence[Right], namespace: str) -> str:
    """Return in words which rights are missing and what to do; "" where none is."""
    if not missing:
        return ""
    return (
        f"The worker may not {', '.join(map(str, missing))} in the namespace {namespace!r}: bind its account to the "
        "Role of deploy/kubernetes/role.yaml there."
    )
