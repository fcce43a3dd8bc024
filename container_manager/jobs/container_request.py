"""What a job requests of its container beyond image, command and memory: the field ``container``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from .command import split_command
from .option import Option
from .printable import LINES, check_printable
from .rules import is_count, is_flag, is_list, is_mapping, is_object_name, is_path, is_text, matches
from .sizes import check_sizes

# No system has longer names.
_USER = re.compile(r"[A-Za-z0-9_.-]{1,255}(:[A-Za-z0-9_.-]{1,255})?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_ULIMIT = re.compile(r"[a-z]+")
# Each costs the daemon's host something.
_MOST_ENTRIES = 64
# Of a wrong value, in a message.
_SHOWN_CHARACTERS = 200
_PLATFORM = re.compile(r"[a-z0-9]+(/[a-z0-9]+){1,2}")
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]+")


@dataclass(frozen=True, slots=True)
class RequestRule:
    """What one entry must be (as a test and in words), its command-line option, and whether only a cluster has it."""

    is_right: Callable[[Any], bool]
    expected: str | Promise
    option: Option
    of_cluster: bool = False


def _is_command(value: object) -> bool:
    try:
        check_printable(str(value), allowed=LINES)
        return is_text(value) and bool(split_command(str(value)))
    except ValueError:
        return False


def _rule(is_right: Callable[[Any], bool], expected: str | Promise, option: Option, **default: Any) -> Any:
    return field(metadata={"rule": RequestRule(is_right, expected, option)}, **default)


def _cluster_rule(is_right: Callable[[Any], bool], expected: str | Promise, option: Option, **default: Any) -> Any:
    return field(metadata={"rule": RequestRule(is_right, expected, option, of_cluster=True)}, **default)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRequest:
    """What a job requests. The executor's settings decide what it gets.

    ``user``: name or id, with a group after a colon; "": the image's. ``pids``: processes and threads at most.
    ``read_only``: whether the image's files cannot be changed; None: the executor's default. ``tmpfs``: absolute path →
    bytes of memory. ``ulimits``: name as in getrlimit, in small letters → value. ``volumes``: name in the executor's
    settings → absolute path. ``network``: one of the executor's settings; "": its default. ``gpus``: how many; -1: all.
    ``entrypoint``: what is run instead of the image's own, shell-quoted as ``command``, whose words follow it; "": the
    image's. ``platform``: as "linux/arm64"; "": the daemon's. ``shm_bytes``: the size of /dev/shm. ``extra_hosts``:
    names in the executor's settings, for which the container then has an address. ``dns``: addresses of servers.

    Of a cluster, each one of the executor's settings; "": its default. ``service_account``, ``node_pool`` (which
    nodes), ``priority_class``, ``kueue_queue`` and ``kueue_priority_class``. ``storage_bytes``: files that it writes
    outside of volumes, and its log. ``retry_after_proven_stop``: an attempt whose node is lost ends only when it is
    proven that it has stopped, so that it never runs beside its own retry.
    """

    user: str = _rule(
        matches(_USER),
        _('a user such as "1000" or "app:app"'),
        Option("--user", "NAME[:GROUP]", help="Run as this user."),
        default="",
    )
    pids: int | None = _rule(
        is_count,
        _("a positive number"),
        Option("--pids-limit", "N", kind="integer", help="Processes and threads at most."),
        default=None,
    )
    read_only: bool | None = _rule(
        is_flag,
        _("true or false"),
        Option("--read-only", kind="flag", help="Whether the image's files cannot be changed."),
        default=None,
    )
    tmpfs: Mapping[str, int] = _rule(
        is_mapping(is_path, is_count, most=_MOST_ENTRIES),
        _("an object of absolute paths and sizes in bytes"),
        Option("--tmpfs", "PATH:SIZE", kind="sizes", help="Files in memory. Repeatable."),
        default_factory=dict,
    )
    ulimits: Mapping[str, int] = _rule(
        is_mapping(matches(_ULIMIT), is_count),
        _('an object of limits, such as {"nofile": 1024}'),
        Option("--ulimit", "NAME=VALUE", kind="integers", help="A limit, as nofile=1024. Repeatable."),
        default_factory=dict,
    )
    volumes: Mapping[str, str] = _rule(
        is_mapping(matches(_NAME), is_path),
        _("an object of the settings' volume names and absolute paths"),
        Option("--volume", "NAME:PATH", kind="texts", help="Mount a volume of the executor's settings. Repeatable."),
        default_factory=dict,
    )
    network: str = _rule(
        matches(_NAME),
        _("the name of a network"),
        Option("--network", "NAME", help="One of the networks that the executor allows."),
        default="",
    )
    gpus: int = _rule(
        lambda value: is_count(value) or value == -1,
        _("a positive number, or -1 for all"),
        Option("--gpus", "N", kind="count", help='How many GPUs, or "all".'),
        default=0,
    )
    entrypoint: str = _rule(
        _is_command,
        _("a program, with arguments if need be, quoted as for a shell"),
        Option("--entrypoint", "PROGRAM", help="Run this instead of the image's entrypoint."),
        default="",
    )
    platform: str = _rule(
        matches(_PLATFORM),
        _("a platform such as linux/arm64"),
        Option("--platform", "OS/ARCH", help="One of the platforms that the executor allows."),
        default="",
    )
    shm_bytes: int | None = _rule(
        is_count,
        _("a positive number"),
        Option("--shm-size", "BYTES", kind="size", help="The size of /dev/shm; k, m, g are understood."),
        default=None,
    )
    extra_hosts: Sequence[str] = _rule(
        is_list(matches(_NAME), most=_MOST_ENTRIES),
        _("a list of the settings' names of hosts"),
        Option("--add-host", "NAME", kind="list", help="Know a host of the executor's settings. Repeatable."),
        default=(),
    )
    dns: Sequence[str] = _rule(
        is_list(matches(_ADDRESS), most=_MOST_ENTRIES),
        _("a list of addresses"),
        Option("--dns", "ADDRESS", kind="list", help="Ask a DNS server that the executor allows. Repeatable."),
        default=(),
    )
    storage_bytes: int | None = _cluster_rule(
        is_count,
        _("a positive number"),
        Option("--storage", "BYTES", kind="size", help="Files outside of volumes at most; k, m, g are understood."),
        default=None,
    )
    service_account: str = _cluster_rule(
        is_object_name,
        _("the name of a service account"),
        Option("--service-account", "NAME", help="One of the service accounts that the executor allows."),
        default="",
    )
    node_pool: str = _cluster_rule(
        matches(_NAME),
        _("the name of a pool of nodes"),
        Option("--node-pool", "NAME", help="One of the node pools that the executor allows."),
        default="",
    )
    priority_class: str = _cluster_rule(
        is_object_name,
        _("the name of a priority class"),
        Option("--priority-class", "NAME", help="One of the cluster's priority classes that the executor allows."),
        default="",
    )
    kueue_queue: str = _cluster_rule(
        is_object_name,
        _("the name of a local queue of Kueue"),
        Option("--kueue-queue", "NAME", help="One of Kueue's queues that the executor allows."),
        default="",
    )
    kueue_priority_class: str = _cluster_rule(
        is_object_name,
        _("the name of a workload priority class of Kueue"),
        Option("--kueue-priority-class", "NAME", help="One of Kueue's priority classes that the executor allows."),
        default="",
    )
    retry_after_proven_stop: bool = _cluster_rule(
        is_flag,
        _("true or false"),
        Option("--retry-after-proven-stop", kind="flag", help="Retry after a lost node only once it surely stopped."),
        default=False,
    )

    @property
    def entrypoint_words(self) -> list[str]:
        """The words of ``entrypoint``; none where the image's own is run."""
        return split_command(self.entrypoint) if self.entrypoint else []


# Name of the entry → its rule.
REQUEST_RULES: Mapping[str, RequestRule] = {each.name: each.metadata["rule"] for each in fields(ContainerRequest)}
# What no engine but a cluster can give.
CLUSTER_REQUESTS = tuple(name for name, rule in REQUEST_RULES.items() if rule.of_cluster)
_NOTHING = ContainerRequest()


def container_request(value: object) -> ContainerRequest:
    """Parse the field ``container`` of a job.

    Raises ValueError that names what is wrong, and what it may be.
    """
    # An abstract class is asked last, which takes longer.
    if not isinstance(value, (dict, Mapping)):
        raise ValueError(_("It must be a JSON object, not %(type)s.") % {"type": type(value).__name__})
    for name, given in value.items():
        if name not in REQUEST_RULES:
            known = ", ".join(REQUEST_RULES)
            raise ValueError(_("%(name)r is not known. Known: %(known)s.") % {"name": name, "known": known})
        rule = REQUEST_RULES[name]
        if not rule.is_right(given):
            shown = repr(given)
            shown = shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]} …"
            text = _("%(name)r must be %(expected)s, not %(value)s.")
            raise ValueError(text % {"name": name, "expected": rule.expected, "value": shown})
    if not value:
        return _NOTHING
    request = ContainerRequest(**value)
    check_sizes(request.entrypoint_words, {})
    return request
