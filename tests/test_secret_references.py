"""What a reference to a secret can name: variables with its prefix, and files in the secrets' own folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from container_manager.jobs.secret_references import JOB_VARIABLES, REGISTRY_VARIABLES, read_secret

pytestmark = pytest.mark.without_database
_VALUE = "never told"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of secrets, beside and below which there are other files."""
    folder = tmp_path / "secrets"
    (folder / "registries").mkdir(parents=True)
    for path in (tmp_path / "beside", folder / "registries" / "a"):
        path.write_text(_VALUE)
    return folder


def test_a_secret_variable_with_the_prefix_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CM_SECRET_TOKEN", "two\nlines")
    assert read_secret("env:CM_SECRET_TOKEN", directory=folder) == "two\nlines"


def test_a_secret_variable_that_is_not_set_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CM_SECRET_NONE", raising=False)
    with pytest.raises(LookupError, match="no variable 'CM_SECRET_NONE'"):
        read_secret("env:CM_SECRET_NONE", directory=folder)


@pytest.mark.parametrize(
    "name", ["DJANGO_KEY", "CM_REGISTRY_TOKEN", "CM_SECRET", "cm_secret_token", " CM_SECRET_TOKEN"]
)
def test_a_variable_without_the_prefix_of_jobs_is_never_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, _VALUE)
    with pytest.raises(LookupError, match="neither env:CM_SECRET_NAME nor file:NAME") as error:
        read_secret(f"env:{name}", directory=folder)
    assert _VALUE not in str(error.value)


@pytest.mark.parametrize(
    ("prefix", "name"), [(JOB_VARIABLES, "CM_REGISTRY_TOKEN"), (REGISTRY_VARIABLES, "CM_SECRET_TOKEN")]
)
def test_jobs_and_registries_cannot_name_each_others_variables(
    folder: Path, monkeypatch: pytest.MonkeyPatch, prefix: str, name: str
) -> None:
    monkeypatch.setenv(name, _VALUE)
    with pytest.raises(LookupError, match=f"neither env:{prefix}NAME"):
        read_secret(f"env:{name}", directory=folder, variables=prefix)


def test_a_secret_file_is_read_without_the_newline_at_its_end(folder: Path) -> None:
    (folder / "token").write_text("two\nlines\n\n")
    assert read_secret("file:token", directory=folder) == "two\nlines\n"


@pytest.mark.parametrize("name", ["", ".", "..", "../beside", "registries/a", "./registries/a"])
def test_a_secret_file_is_named_by_a_bare_name_only(folder: Path, name: str) -> None:
    with pytest.raises(LookupError, match="neither env:CM_SECRET_NAME nor file:NAME") as error:
        read_secret(f"file:{name}", directory=folder)
    assert _VALUE not in str(error.value)


@pytest.mark.parametrize("name", ["registries", "none", "a\0b", "x" * 5000])
def test_a_missing_secret_file_is_named(folder: Path, name: str) -> None:
    with pytest.raises(LookupError, match="cannot be read"):
        read_secret(f"file:{name}", directory=folder)


def test_an_absolute_path_is_never_read_as_a_secret(folder: Path) -> None:
    with pytest.raises(LookupError, match="neither"):
        read_secret(f"file:{folder.parent / 'beside'}", directory=folder)


def test_a_secret_file_that_is_not_text_is_named_without_its_content(folder: Path) -> None:
    (folder / "key").write_bytes(b"\xff" + _VALUE.encode())
    with pytest.raises(LookupError, match="'file:key' cannot be read") as error:
        read_secret("file:key", directory=folder)
    assert _VALUE not in str(error.value)


@pytest.mark.parametrize(
    "reference", ["", "CM_SECRET_TOKEN", "vault:CM_SECRET_TOKEN", "ENV:CM_SECRET_TOKEN", "/etc/passwd"]
)
def test_a_secret_reference_of_another_kind_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    monkeypatch.setenv("CM_SECRET_TOKEN", _VALUE)
    with pytest.raises(LookupError, match="neither"):
        read_secret(reference, directory=folder)
