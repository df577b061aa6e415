"""Packages are read in memory, and refused if a member points outside."""

import gzip
import lzma
import random
import shutil
from pathlib import Path

import pytest

from data_prep.archives import read_members
from data_prep.errors import DataError
from tests.data_prep.helpers import deb_package, tar_bytes

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs the program dpkg-deb")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x"])
def test_member_that_points_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "bad.tar.gz"
    archive.write_bytes(tar_bytes({"good": b"1", name: b"2"}))

    with pytest.raises(DataError, match=f"bad.tar.gz: refused, its member '{name}' points outside"):
        list(read_members(archive, lambda _: True))


@needs_dpkg
def test_debian_package_is_read_without_installing_it(tmp_path: Path) -> None:
    archive = tmp_path / "tiny.deb"
    archive.write_bytes(deb_package({"./usr/a.mo": b"one", "./usr/b.txt": b"two", "./usr/c.mo": b"three" * 5000}))

    assert list(read_members(archive, lambda n: n.endswith(".mo"))) == [
        ("usr/a.mo", b"one"),
        ("usr/c.mo", b"three" * 5000),
    ]


@needs_dpkg
def test_debian_package_with_a_member_outside_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "tiny.deb"
    archive.write_bytes(deb_package({"../../x": b"1"}))

    with pytest.raises(DataError, match="points outside"):
        list(read_members(archive, lambda _: True))


def test_damaged_archive_is_an_error_that_names_it(tmp_path: Path) -> None:
    archive = tmp_path / "cut.tgz"
    archive.write_bytes(tar_bytes({"a": bytes(100_000)})[:60])

    with pytest.raises(DataError, match="cut.tgz: damaged or not an archive"):
        list(read_members(archive, lambda _: True))


@pytest.mark.parametrize("name", ["cut.tar.xz", "cut.tar.gz"])
def test_archive_with_damaged_compression_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    tar = gzip.decompress(tar_bytes({"a": random.Random(1).randbytes(100_000)}))
    packed = bytearray(lzma.compress(tar) if name.endswith("xz") else gzip.compress(tar))
    packed[40_000:60_000] = bytes(20_000)
    (tmp_path / name).write_bytes(packed)

    with pytest.raises(DataError, match=f"{name}: damaged or not an archive"):
        list(read_members(tmp_path / name, lambda _: True))


@needs_dpkg
def test_debian_package_that_dpkg_finds_damaged_only_at_its_end_is_an_error(tmp_path: Path) -> None:
    whole = deb_package({"./usr/a.mo": b"one"})
    archive = tmp_path / "checksum.deb"
    archive.write_bytes(whole[:-9] + bytes(byte ^ 255 for byte in whole[-9:]))

    with pytest.raises(DataError, match="checksum.deb: damaged or not a .deb package: dpkg-deb"):
        list(read_members(archive, lambda _: True))


@needs_dpkg
def test_damaged_debian_package_is_an_error_that_names_it(tmp_path: Path) -> None:
    archive = tmp_path / "cut.deb"
    archive.write_bytes(b"!<arch>\nno package")

    with pytest.raises(DataError, match="cut.deb: damaged or not a .deb package"):
        list(read_members(archive, lambda _: True))
