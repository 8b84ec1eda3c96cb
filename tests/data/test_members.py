import io
import re
import tarfile
import zipfile

import pytest

from amodal.data.members import is_archive, read_members
from amodal.errors import DataError

WANTED = re.compile(r"\d+\.txt")
FILES = {"set/2.txt": b"two", "set/1.txt": b"one" * 5000, "set/notes.md": b"no", "set/deep/3.txt": b""}


def _tar(path, mode):
    with tarfile.open(path, mode) as archive:
        for name, content in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("set/9.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)


@pytest.fixture(params=["tar.xz", "tar.gz", "tar.bz2", "tar", "tgz", "zip"])
def archive(request, tmp_path):
    path = tmp_path / f"set.{request.param}"
    if request.param == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, content in FILES.items():
                opened.writestr(name, content)
    else:
        _tar(path, {"tgz": "w:gz", "tar": "w"}.get(request.param, f"w:{request.param.removeprefix('tar.')}"))
    return path


def test_an_archive_gives_its_files_in_order_and_no_links(archive):
    assert is_archive(archive)
    members = list(read_members(archive, WANTED))
    assert [str(member.path) for member in members] == [
        f"{archive.name}/set/2.txt",
        f"{archive.name}/set/1.txt",
        f"{archive.name}/set/deep/3.txt",
    ]
    assert [member.content for member in members] == [b"two", b"one" * 5000, b""]


def test_a_folder_gives_them_sorted(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    members = list(read_members(tmp_path / "set", WANTED))
    assert [str(member.path) for member in members] == ["set/1.txt", "set/2.txt", "set/deep/3.txt"]
    assert members[1].content == b"two"


def test_a_truncated_archive_names_itself(archive):
    content = archive.read_bytes()
    archive.write_bytes(content[: 1000 if archive.suffix == ".tar" else len(content) // 2])
    with pytest.raises(DataError, match=rf"{archive.name} cannot be read.*It may be truncated"):
        list(read_members(archive, WANTED))


def test_what_is_no_archive_or_not_there(tmp_path):
    with pytest.raises(DataError, match=r"there is no .*nowhere \(expected a folder or an archive\)"):
        list(read_members(tmp_path / "nowhere", WANTED))
    (tmp_path / "set.rar").write_bytes(b"Rar!")
    with pytest.raises(DataError, match=r"set\.rar is neither a folder nor an archive .*\.tar\.xz"):
        list(read_members(tmp_path / "set.rar", WANTED))
    (tmp_path / "set.zip").write_bytes(b"this is text")
    with pytest.raises(DataError, match=r"set\.zip cannot be read"):
        list(read_members(tmp_path / "set.zip", WANTED))


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archives_that_unpack_to_too_much_are_refused_before_they_do(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("amodal.data.limits.LARGEST_MEMBER", 5000)
    monkeypatch.setattr("amodal.data.limits._SMALL_ARCHIVE", 8000)

    def refused(*sizes):
        path = tmp_path / f"{len(sizes)}.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
                for i, size in enumerate(sizes):
                    opened.writestr(f"{i}.txt", bytes(size))
        else:
            with tarfile.open(path, "w:gz") as opened:
                for i, size in enumerate(sizes):
                    entry = tarfile.TarInfo(f"{i}.txt")
                    entry.size = size
                    opened.addfile(entry, io.BytesIO(bytes(size)))
        return list(read_members(path, WANTED))

    assert len(refused(4000, 3000)) == 2
    with pytest.raises(DataError, match=r"0\.txt of 1\..* unpacks to .* MB.*decompression bomb"):
        refused(6000)
    monkeypatch.setattr("amodal.data.limits._ARCHIVE_RATIO", 2)
    with pytest.raises(DataError, match=r"times its size.*decompression bomb"):
        refused(4000, 4000, 4000)


def test_an_encrypted_archive_says_so(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("1.txt", b"secret")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the bit that says encrypted, in the directory …
    content[6] |= 1  # … and at the file
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip cannot be read.*encrypted"):
        list(read_members(tmp_path / "a.zip", WANTED))
