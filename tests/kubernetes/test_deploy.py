"""The shipped manifests: the API server itself takes each (server-side dry run), and they say what the code needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from container_manager.cli import worker_command
from container_manager.executors.kubernetes.cluster_rights import RIGHTS, Right
from container_manager.executors.kubernetes.labels import NETWORK_LABEL
from container_manager.management.commands.container import Command

from . import deployment
from .cluster_under_test import ClusterUnderTest
from .deployment import FOLDER, JOBS_NAMESPACE, create, manifest, manifests, resources


@pytest.fixture
def namespaces(cluster: ClusterUnderTest) -> Iterator[None]:
    """The namespaces of the deployment, for real: nothing can be created, even as a trial, in one that is not there."""
    with deployment.namespaces(cluster):
        yield


@pytest.mark.usefixtures("namespaces")
def test_the_api_server_takes_each_manifest_without_a_warning(cluster: ClusterUnderTest) -> None:
    warnings = {
        f"{found['kind']} {found['metadata']['name']}": create(cluster, found, dry_run="All")
        for found in manifests()
        if found["kind"] != "Namespace"
    }
    # The Pod Security Standard of their namespace warns of what it would not let in.
    assert {name: warning for name, warning in warnings.items() if warning} == {}
    assert len(warnings) == 9


@pytest.mark.without_database
def test_the_kustomization_lists_every_manifest() -> None:
    assert {*resources(), "kustomization.yaml"} == {path.name for path in FOLDER.glob("*.yaml")}


@pytest.mark.without_database
def test_the_role_grants_the_rights_that_a_worker_needs_and_no_other() -> None:
    granted = {
        Right(group, resource, verb)
        for rule in manifest("Role")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == set(RIGHTS)


@pytest.mark.without_database
def test_the_role_is_bound_to_the_workers_account_where_jobs_run() -> None:
    binding, role, account = manifest("RoleBinding"), manifest("Role"), manifest("ServiceAccount")
    assert binding["metadata"]["namespace"] == role["metadata"]["namespace"] == JOBS_NAMESPACE
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    [subject] = binding["subjects"]
    assert {name: subject[name] for name in ("name", "namespace")} == {
        name: account["metadata"][name] for name in ("name", "namespace")
    }
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    assert manifest("ConfigMap")["data"]["EXAMPLE_NAMESPACE"] == JOBS_NAMESPACE


@pytest.mark.without_database
def test_the_worker_s_arguments_are_those_of_the_command_and_its_probes_look_at_its_file() -> None:
    [container] = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    words = container["command"]
    assert words[:4] == ["python", "-m", "django", "container"]
    options = vars(Command().create_parser("manage.py", "container").parse_args(words[4:]))
    assert options["verb"] == "worker"
    assert options["log_format"] in worker_command.LINE_FORMATS
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert f"find {options['alive_file']} -mmin" in container[probe]["exec"]["command"][-1]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(options["alive_file"].parent) in mounted


@pytest.mark.without_database
def test_jobs_are_cut_off_and_a_network_of_the_settings_opens_what_it_names() -> None:
    policies = {found["metadata"]["name"]: found["spec"] for found in manifests() if found["kind"] == "NetworkPolicy"}
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert policies["internet"]["podSelector"]["matchLabels"] == {NETWORK_LABEL: "internet"}


@pytest.mark.without_database
def test_the_worker_s_image_runs_as_the_user_of_the_manifests() -> None:
    lines = (FOLDER / "Dockerfile").read_text(encoding="utf-8").splitlines()
    [user] = [line.split()[1] for line in lines if line.startswith("USER ")]
    for kind in ("Deployment", "Job"):
        context = manifest(kind)["spec"]["template"]["spec"]["securityContext"]
        assert f"{context['runAsUser']}:{context['runAsGroup']}" == user


@pytest.mark.without_database
def test_no_manifest_names_a_key_twice() -> None:
    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        keys = [loader.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{keys} at {node.start_mark}"
        return dict(loader.construct_pairs(node, deep=True))

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    for path in FOLDER.glob("*.yaml"):
        list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=Strict))  # derived from SafeLoader
