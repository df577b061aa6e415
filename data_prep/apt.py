"""Debian packages and package descriptions, downloaded with apt, with a user's rights, never installed.

apt keeps its lists in a folder of ours, reads the system's sources, and checks all signatures and hashes itself.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import DataError

_SYSTEM_STATUS = "/var/lib/dpkg/status"


@dataclass(frozen=True)
class Offered:
    """A package as the registry offers it."""

    package: str
    version: str
    sha256: str


class Apt:
    """apt with a state of its own below ``folder``.

    Args:
        folder: where lists and settings are kept.
        locales: of which languages package descriptions are fetched; empty for none.
    """

    def __init__(self, folder: Path, locales: list[str]) -> None:
        for program in ("apt-get", "apt-cache"):
            if shutil.which(program) is None:
                raise DataError(
                    f"the program {program} is missing: this corpus is made from Debian packages and needs a Debian "
                    "or Ubuntu machine or container; --recipe software50 --preset sample, and your own text (--input), "
                    "work anywhere"
                )
        self.lists = folder / "lists"
        for part in (self.lists / "partial", folder / "cache" / "archives" / "partial"):
            part.mkdir(parents=True, exist_ok=True)
        self.not_fetched: list[str] = []
        self._config = folder / "apt.conf"
        status = _SYSTEM_STATUS if Path(_SYSTEM_STATUS).exists() else "/dev/null"
        languages = " ".join(f'"{locale}";' for locale in locales) or '"none";'
        root = folder.resolve()
        self._config.write_text(
            # The system's list of languages is often "none", and would come first.
            f"#clear Acquire::Languages;\nAcquire::Languages {{ {languages} }};\n"
            'Acquire::GzipIndexes "false";\nAcquire::Retries "3";\nAPT::Sandbox::User "";\n'
            f'Dir::State "{root}";\nDir::State::status "{status}";\nDir::Cache "{root / "cache"}";\n'
        )

    def _run(self, program: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [program, "-q", "-c", str(self._config.resolve()), *arguments]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, errors="replace")

    def update(self) -> None:
        """Fetch the lists of packages (and the descriptions).

        One that could not be fetched for the moment is no failure to apt: it is in ``not_fetched``, as apt says it.
        """
        result = self._run("apt-get", "update")
        if result.returncode or not any(self.lists.glob("*Packages*")):
            raise DataError(f"apt-get update failed: {_reason(result)}")
        self.not_fetched = re.findall(r"^W: (Failed to fetch .*)$", result.stderr, re.MULTILINE)

    def offered(self, packages: list[str]) -> dict[str, Offered]:
        """The newest version of every package that there is."""
        result = self._run("apt-cache", "show", "--no-all-versions", *packages)
        found: dict[str, Offered] = {}
        for record in result.stdout.split("\n\n"):
            fields = dict(re.findall(r"^(Package|Version|SHA256): (.+)$", record, re.MULTILINE))
            if len(fields) == 3:
                found.setdefault(fields["Package"], Offered(fields["Package"], fields["Version"], fields["SHA256"]))
        return found

    def download(self, packages: list[str], folder: Path) -> str:
        """Download packages into ``folder``; returns why not, if some failed."""
        result = self._run("apt-get", "download", *packages, cwd=folder)
        return _reason(result) if result.returncode else ""

    def descriptions(self) -> list[Path]:
        """The fetched indices of translated descriptions."""
        return sorted(p for p in self.lists.glob("*Translation-*") if p.is_file())


def _reason(result: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in result.stderr.splitlines() if line.startswith("E:")] or result.stderr.splitlines()
    return "; ".join(lines[:3]) or f"exit code {result.returncode}"
