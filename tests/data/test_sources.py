"""The image files of folders, ZIP archives and tars; the classes that folders tell; archives that mean harm."""

import io
import os
import struct
import tarfile
import zipfile
from contextlib import suppress

import pytest
from pictures import content, fill, fill_classes, zipped

from gan.data.sources import Sources, shown
from gan.errors import GANError

PNG = content(0)


def names(sources: Sources) -> list[str]:
    return [file.name for file in sources.files]


def contents(sources: Sources) -> dict[str, bytes]:
    found = {}
    for file in sources.files:
        with sources.open(file) as opened:
            found[file.name] = opened.read()
    return found


def tarred(path, members: dict[str, bytes], mode: str = "w"):
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def placed(path, members: dict[str, bytes]):
    for name, data in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


KINDS = {
    "folder": placed,
    "zip": zipped,
    "stored zip": lambda path, members: zipped(path, members, zipfile.ZIP_STORED),
    "tar": tarred,
}


@pytest.fixture(params=KINDS)
def make(request, tmp_path):
    """Builds a folder, a ZIP or a tar of the same files."""
    return lambda members: KINDS[request.param](tmp_path / "pictures", members)


LETTERS = {"猫/一.PNG": content(1), "café/naïve é.png": content(2), "café/deep/er/3.png": content(3)}


def test_what_is_in_it_is_read(make):
    sources = Sources(make({**LETTERS, ".DS_Store": b"", "__MACOSX/猫/._一.png": b"junk", "猫/notes.txt": b"x"}))
    assert contents(sources) == LETTERS
    assert names(sources) == sorted(LETTERS)
    assert sources.classes == ["café", "猫"]
    assert [sources.classes[label] for label in sources.labels] == [name.split("/")[0] for name in names(sources)]
    assert sources.told_of_others(", but ") == ", but 1 other file (.txt)"


@pytest.mark.parametrize(
    ("files", "classes", "labels"),
    [
        (["a.png", "b.png"], None, [0, 0]),
        (["x/a.png", "x/b.png"], None, [0, 0]),  # of one folder nothing can be told apart
        (["a/1.png", "b/1.png", "b/2.png"], ["a", "b"], [0, 1, 1]),
        (["top/within/a/1.png", "top/within/b/1.png"], ["a", "b"], [0, 1]),
        (["a/1.png", "b/1.png", "stray.png"], None, [0, 0, 0]),
        (["b/z/1.png", "a/y/1.png", "a/x/1.png"], ["a", "b"], [0, 0, 1]),
    ],
)
def test_classes_are_the_folders_that_hold_all(make, files, classes, labels):
    sources = Sources(make(dict.fromkeys(files, PNG)))
    assert (sources.classes, sources.labels) == (classes, labels)


def test_a_class_without_an_image_is_refused(make):
    with pytest.raises(ValueError, match=r"in dogs is no image: take it away, or put some there"):
        Sources(make({"cats/1.png": PNG, "birds/1.png": PNG, "dogs/readme.txt": b""}))


def test_an_empty_folder_beside_a_class_is_one(tmp_path):
    fill_classes(tmp_path, {"cats": 2})
    (tmp_path / "dogs").mkdir()
    with pytest.raises(ValueError, match=r"in dogs is no image"):
        Sources(tmp_path)


def test_what_has_no_image_is_refused(make):
    with pytest.raises(ValueError, match=r"has no image, but 3 other files \(\.csv, without an ending\): give the"):
        Sources(make({"a.csv": b"", "b.csv": b"", "c": b""}))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no image: give the folder, ZIP or tar"):
        Sources(tmp_path)


def test_what_is_not_there_or_is_none_of_the_three_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not there"):
        Sources(tmp_path / "nowhere")
    (tmp_path / "one.png").write_bytes(PNG)
    with pytest.raises(ValueError, match="is neither a folder, nor a ZIP, nor a tar"):
        Sources(tmp_path / "one.png")


# The fingerprint


def test_any_change_changes_the_fingerprint(tmp_path):
    fill_classes(tmp_path, {"a": 3, "b": 3})
    seen = {Sources(tmp_path).fingerprint()}
    assert Sources(tmp_path).fingerprint() in seen
    first = tmp_path / "a" / "00000.png"
    changes = [
        lambda: first.write_bytes(content(99)),
        lambda: first.rename(tmp_path / "a" / "x.png"),
        lambda: fill(tmp_path / "a", 1, 500),
        lambda: (tmp_path / "a").rename(tmp_path / "c"),
        lambda: (tmp_path / "c" / "x.png").unlink(),
    ]
    for number, change in enumerate(changes, start=2):
        change()
        seen.add(Sources(tmp_path).fingerprint())
        assert len(seen) == number


def test_a_change_of_the_same_size_within_a_zip_is_seen(tmp_path):
    one, other = (Sources(zipped(tmp_path / f"{n}.zip", {"a.bmp": content(n, "BMP")})) for n in (1, 2))
    assert one.files[0].size == other.files[0].size
    assert one.fingerprint() != other.fingerprint()


# Links and what cannot be read


def test_links_are_followed_and_circles_end(tmp_path):
    fill_classes(tmp_path / "there", {"a": 1})
    fill(tmp_path / "here" / "b", 1)
    (tmp_path / "here" / "a").symlink_to(tmp_path / "there" / "a")
    (tmp_path / "here" / "b" / "up").symlink_to(tmp_path / "here")
    (tmp_path / "here" / "b" / "self.png").symlink_to("self.png")
    (tmp_path / "here" / "b" / "nowhere.png").symlink_to("gone.png")
    sources = Sources(tmp_path / "here")
    assert names(sources) == ["a/00000.png", "b/00000.png", "b/nowhere.png", "b/self.png"]
    for file in sources.files[2:]:
        with pytest.raises(OSError, match=r"symbolic|No such file"), sources.open(file):
            pass


def test_a_pipe_is_no_file(tmp_path):
    fill(tmp_path, 1)
    os.mkfifo(tmp_path / "pipe.png")
    assert names(Sources(tmp_path)) == ["00000.png"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    fill_classes(tmp_path, {"a": 1, "b": 1})
    scan = os.scandir

    def refusing(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(ValueError, match=r"data.folder cannot be read, at .*/b: permission denied"):
        Sources(tmp_path)


def test_names_that_are_no_text_are_shown_as_one_line(tmp_path):
    for name in (b"\xff\xfe.png", b"two\nlines.png", b"\x1b[31mred.png"):
        (tmp_path / os.fsdecode(name)).write_bytes(PNG)
    sources = Sources(tmp_path)
    assert len(contents(sources)) == 3
    sources.fingerprint()
    for name in names(sources):
        assert shown(name).isprintable()
        shown(name).encode()


# Archives that are damaged, or mean harm


@pytest.mark.parametrize("name", ["/etc/x.png", "../x.png", "a/../../x.png", "..\\x.png", "C:\\x.png", "a/.."])
@pytest.mark.parametrize("build", [zipped, tarred])
def test_a_member_outside_of_its_archive_is_refused(tmp_path, name, build):
    with pytest.raises(ValueError, match="would lie outside of it"):
        Sources(build(tmp_path / "x", {"a.png": PNG, name: PNG}))


def test_names_with_dots_are_no_way_out(make):
    assert len(Sources(make({"a..b.png": PNG, "..c/d...png": PNG, "x/..y.png": PNG})).files) == 1  # two are hidden


def test_a_bomb_is_refused_unread(tmp_path):
    with pytest.raises(ValueError, match=r"is a ZIP bomb: b.png says that it has 100,000,000 bytes, of which 9"):
        Sources(zipped(tmp_path / "x.zip", {"a.png": PNG, "b.png": bytes(10**8)}))


def test_members_that_share_their_content_are_refused(tmp_path):
    """20,000 names for the same 100 kB: 2 GB, of an archive of 1 MB."""
    path = zipped(tmp_path / "x.zip", {"a.png": os.urandom(100_000)}, zipfile.ZIP_STORED)
    data = path.read_bytes()
    start = data.index(b"PK\1\2")
    many = data[start : data.index(b"PK\5\6")] * 20_000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 20_000, 20_000, len(many), start, 0)
    path.write_bytes(data[:start] + many + end)
    with pytest.raises(ValueError, match="is a ZIP bomb: its members share what is stored"):
        Sources(path)


def test_an_archive_with_a_password_says_so(tmp_path):
    path = zipped(tmp_path / "x.zip", {"a.png": PNG})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="needs a password: unpack it"):
        Sources(path)


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2"])
def test_a_compressed_tar_is_refused_with_the_way_out(tmp_path, mode):
    with pytest.raises(ValueError, match=r"compressed tar.*decompress it \(gunzip, bunzip2, unxz\)"):
        Sources(tarred(tmp_path / "x", {"a.png": PNG}, mode))


def test_what_a_tar_can_hold_besides_files_is_left_out(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind in {
            "link.png": tarfile.SYMTYPE,
            "hard.png": tarfile.LNKTYPE,
            "device.png": tarfile.CHRTYPE,
        }.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("./a.png")
        info.size = len(PNG)
        archive.addfile(info, io.BytesIO(PNG))
    assert contents(Sources(tmp_path / "x.tar")) == {"a.png": PNG}


@pytest.mark.parametrize("build", [zipped, tarred])
def test_an_archive_that_is_cut_off_is_refused_or_its_files_are(tmp_path, build):
    members = {f"{n}.png": content(n) for n in range(20)}
    whole = build(tmp_path / "whole", members).read_bytes()
    for part in range(1, 10):
        path = tmp_path / f"{part}"
        path.write_bytes(whole[: len(whole) * part // 10])
        with suppress(GANError):
            sources = Sources(path)
            for file in sources.files:
                with suppress(OSError, EOFError, zipfile.BadZipFile), sources.open(file) as opened:
                    assert opened.read() == members[file.name]
