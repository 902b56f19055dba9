import errno
from pathlib import Path

import pytest

from kpod_metrics.cgroup.keyed import by_device, flat, is_absent, read_if_there, single

CPU_STAT = b"usage_usec 369335142\nuser_usec 309510272\nsystem_usec 59824869\nnr_periods 12\n"


def test_flat_gives_values_in_the_order_of_the_keys() -> None:
    assert flat(CPU_STAT, b"nr_periods", b"usage_usec") == [12, 369335142]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"inactive_file 4096\n", "another key ends like it"),
        (b"file_mapped 4096\n", "another key begins like it"),
        (b"file\n", "no value"),
        (b"file \n", "empty value"),
        (b"file 40", "cut off in its number"),
        (b"file max\n", "no number"),
        (b"file -1\n", "negative"),
        (b"file 1 2\n", "two values"),
        (b"file " + b"9" * 5000 + b"\n", "longer than any number of 64 bits"),
    ],
)
def test_flat_leaves_out_what_is_no_whole_number(data: bytes, why: str) -> None:
    assert flat(data, b"file") == [None], why
    assert flat(data + b"\nfile 7\n", b"anon") == [None]


def test_single() -> None:
    assert single(b"4096\n") == 4096
    assert [single(data) for data in (b"", b"\n", b"40", b"max\n", b"1\n2\n")] == [None] * 5


def test_by_device_gives_the_wanted_values_of_each_name() -> None:
    data = (
        b"254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n"
        b"8:16 wios=9 rios=3 rbytes=5 wbytes=7 cost.usage=12\n"
    )
    wanted = by_device(data, b"rbytes", b"wbytes", b"rios", b"wios")
    assert wanted == {"254:0": [4096, 8192, 1, 2], "8:16": [5, 7, 3, 9]}


def test_by_device_leaves_out_names_without_their_values() -> None:
    data = b"7:0 \n7:1\n254:0 rbytes=1\n8:0 rbytes=x rios=1\n8:16 rbytes=1 rios=2\n8:32 rbytes=1 rios=23"
    assert by_device(data, b"rbytes", b"rios") == {"8:16": [1, 2]}
    assert by_device(b"", b"rbytes") == {}


def test_by_device_where_devices_without_statistics_end_no_line() -> None:
    data = b"7:1 7:0 8:0 rbytes=1 rios=2\n11:0 253:0 rbytes=3 rios=4\n"
    assert by_device(data, b"rbytes", b"rios") == {"8:0": [1, 2], "253:0": [3, 4]}


def test_by_device_leaves_out_what_has_no_number() -> None:
    data = b"(unknown) rbytes=1 rios=2\n8:0 rbytes=3 rios=4\n(unknown) rbytes=5 rios=6\n8:x rbytes=7 rios=8\n"
    assert by_device(data + b"\xff rbytes=9 rios=9\n: rbytes=9 rios=9\n", b"rbytes", b"rios") == {"8:0": [3, 4]}


def test_by_device_takes_the_larger_counts_of_one_that_is_there_twice() -> None:
    data = b"8:0 rbytes=3 rios=4\n8:0 rbytes=1 rios=9\n"
    assert by_device(data, b"rbytes", b"rios") == {"8:0": [3, 9]}


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EINVAL, errno.EOPNOTSUPP])
def test_absent_are_files_that_are_not_there_or_no_more(number: int) -> None:
    assert is_absent(OSError(number, ""))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE])
def test_refused_is_not_absent(number: int) -> None:
    assert not is_absent(OSError(number, ""))


def test_read_if_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x\n")
    assert read_if_there(f"{tmp_path}/file") == b"x\n"
    assert read_if_there(f"{tmp_path}/none") == b""
    assert read_if_there(f"{tmp_path}/file/below") == b""
    with pytest.raises(IsADirectoryError):
        read_if_there(f"{tmp_path}")
