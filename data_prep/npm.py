"""Packages of the npm registry, downloaded with ``npm pack`` and never installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from data_prep.errors import DataError


def pack(package: str, folder: Path) -> tuple[str, Path]:
    """Download ``name`` or ``name@version`` into ``folder``; returns its version and file.

    Raises:
        DataError: npm is missing or refuses.
    """
    if shutil.which("npm") is None:
        raise DataError("the program npm is missing")
    command = ["npm", "pack", package, "--json", "--ignore-scripts", "--pack-destination", str(folder.resolve())]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace")
    try:
        entry = json.loads(result.stdout)[0]
        version, file = str(entry["version"]), folder / Path(str(entry["filename"]).replace("/", "-").lstrip("@")).name
    except (ValueError, LookupError, TypeError):
        errors = [line for line in result.stderr.splitlines() if "error" in line.lower()] or ["no answer"]
        raise DataError(f"npm pack {package}: {errors[0]}") from None
    if result.returncode or not file.is_file():
        raise DataError(f"npm pack {package} wrote no {file.name}")
    return version, file
