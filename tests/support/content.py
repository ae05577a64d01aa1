"""Folders and files that authors hand in, for the tests of the content store."""

from pathlib import Path

from mer.core.specs import VersionSpec

PYTHON = VersionSpec(runner="python", options={"entrypoint_package": "model", "entrypoint_fn": "load"})

CARTON_TOML = """\
spec_version = 1
model_name = "small"

[runner]
runner_name = "python"
required_framework_version = "*"
runner_compat_version = 1
"""


def write_folder(folder: Path, files: dict[str, str | bytes]) -> Path:
    """Write files by path under `folder`, and return it."""
    for path, content in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder
