"""Where our executors put the secret files of a launch."""

from __future__ import annotations

from pathlib import Path

from container_manager.conf import AppSettings


def secret_folders(key: str) -> list[Path]:
    return [*Path(AppSettings().secret_files_directory).glob(f"container-manager-*/*/{key}")]
