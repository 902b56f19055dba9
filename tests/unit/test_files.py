"""Files that are read again and again."""

import os
from pathlib import Path

import pytest

from kpod_metrics.files import RECORD_BYTES, KeptFiles, read_bytes, read_lines, read_short_lines


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("most", [0, 1, 10])
def test_content_is_always_the_newest(tmp_path: Path, most: int) -> None:
    files = KeptFiles(most)
    one, two = tmp_path / "one", tmp_path / "two"
    before = descriptors()
    for content in (b"", b"1\n", b"x" * 200_000, b"short"):
        one.write_bytes(content)
        two.write_bytes(content + b"!")
        assert files.read(str(tmp_path), "one") == content == read_bytes(str(one))
        assert files.read(str(tmp_path), "two") == content + b"!"
        assert descriptors() - before == min(most, 2)
    files.close()
    assert descriptors() == before


class Piece(bytes):
    """One that may be joined, but not added: to add piece after piece copies a long file as often as it has pieces."""

    def __add__(self, other: object) -> bytes:
        raise AssertionError("added")


def test_long_content_is_copied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "long").write_bytes(content)
    real_read, real_pread = os.read, os.pread
    monkeypatch.setattr("kpod_metrics.files.os.read", lambda fd, size: Piece(real_read(fd, size)))
    monkeypatch.setattr("kpod_metrics.files.os.pread", lambda fd, size, at: Piece(real_pread(fd, size, at)))
    assert read_bytes(str(tmp_path / "long")) == content
    files = KeptFiles(1)
    assert files.read(str(tmp_path), "long") == content
    files.close()


def test_what_is_in_other_folders_is_closed(tmp_path: Path) -> None:
    files = KeptFiles(10)
    before = descriptors()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
        files.read(str(tmp_path / name), "file")
    files.sweep({str(tmp_path / "a"), str(tmp_path / "b")})
    assert descriptors() - before == 2
    files.sweep({str(tmp_path / "b")})
    assert descriptors() - before == 1
    assert files.read(str(tmp_path / "b"), "file") == b""
    assert descriptors() - before == 1
    files.sweep(set())
    assert descriptors() == before


def test_missing_file_is_an_error_each_time(tmp_path: Path) -> None:
    files = KeptFiles(10)
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            files.read(str(tmp_path), "none")


def test_lines_up_to_a_limit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    content = b"".join(b"%d\n" % number for number in range(100_000))
    file.write_bytes(content)
    assert read_lines(str(file), len(content)) == (content, True)
    assert read_lines(str(file), len(content) - 1) == (content[: -len("99999\n")], False)
    assert read_lines(str(file), 5) == (b"0\n1\n", False)
    assert read_lines(str(file), 1) == (b"", False)
    assert read_short_lines(str(file), len(content)) == (content, True)
    assert read_short_lines(str(file), 5) == (b"0\n1\n", False)
    file.write_bytes(b"")
    assert read_lines(str(file), 5) == (b"", True)


@pytest.mark.parametrize("kept", [0, 1])
def test_only_the_first_records(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "cgroup.procs"
    lines = [b"%d\n" % number for number in range(100_000, 200_000)]
    files = KeptFiles(kept)
    fit = RECORD_BYTES // len(lines[0])
    try:
        for number in (fit, fit + 1, len(lines)):
            file.write_bytes(b"".join(lines[:number]))
            assert files.read(str(tmp_path), file.name, records=True) == b"".join(lines[: min(number, fit)])
            assert files.read(str(tmp_path), file.name) == b"".join(lines[:number])
    finally:
        files.close()


def test_short_lines_of_a_kernel_file() -> None:
    """Its last read is known as such."""
    content, complete = read_short_lines("/proc/self/net/dev", 1 << 20)
    assert (content.count(b"\n"), complete) == (read_bytes("/proc/self/net/dev").count(b"\n"), True)
