"""Bytes and operations on block devices, from `io.stat`: one file per container, and one link per device.

A device appears with a container's first operation on it: most containers use few devices.
"""

import os
from collections.abc import Iterable, Sequence

from kpod_metrics.cgroup.keyed import by_device, is_absent
from kpod_metrics.collectors.kit import Environment, Question
from kpod_metrics.collectors.parts.per_group import FileCollector
from kpod_metrics.columns import Column
from kpod_metrics.metrics import Label, Metric, Profile, Row, Table, counter
from kpod_metrics.pods.model import Group

_CACHED = "Reads from the page cache do not count. Buffered writes count when the kernel writes them back."


_BYTES = "Near the device's maximum: use a faster volume, or move other pods (KpodDiskPressure)."
_OPERATIONS = (
    "Near the volume's IOPS limit: use larger operations, or a faster volume (KpodDiskPressure). Divide bytes by it to "
    "get the size of an operation."
)


def _counter(name: str, help: str, key: str, advice: str) -> Metric:  # noqa: A002
    return counter(name, f"{help} {_CACHED}", f"{key} of io.stat", profile=Profile.MINIMAL, advice=advice)


TABLE = Table(
    (
        _counter("kpod_disk_read_bytes_total", "Bytes read from the block device.", "rbytes", _BYTES),
        _counter("kpod_disk_written_bytes_total", "Bytes written to the block device.", "wbytes", _BYTES),
        _counter("kpod_disk_reads_total", "Read operations on the block device.", "rios", _OPERATIONS),
        _counter("kpod_disk_writes_total", "Write operations on the block device.", "wios", _OPERATIONS),
    ),
    labels=(Label("device", per="block device"),),
    preexisting=True,
)


class Disk(FileCollector):
    """Block input and output of each cgroup."""

    name = "disk"
    description = "bytes and operations on block devices"
    question = Question.DISK
    columns = (
        Column(
            "disk",
            "DISK B/s",
            "DISK_BYTES/S",
            "read from and written to disks",
            ("kpod_disk_read_bytes_total", "kpod_disk_written_bytes_total"),
            place=110,
        ),
    )
    controller = "io"

    @classmethod
    def declare(cls, environment: Environment) -> tuple[Table, ...]:
        """Return one table."""
        return (TABLE,)

    def collect(self, groups: Sequence[Group]) -> Iterable[Row]:
        """Yield one row per cgroup and device."""
        if not self.has_controller():
            return []
        # For this cycle only: the kernel can give the number of a removed device to another one.
        names: dict[str, str] = {}

        def read(group: Group) -> Iterable[Row]:
            devices = by_device(self.read(group.path, "io.stat"), b"rbytes", b"wbytes", b"rios", b"wios")
            for number, values in devices.items():
                if any(values):
                    if number not in names:
                        names[number] = self._name(number)
                    yield Row(TABLE, group.id, (names[number],), values)

        return self.each(groups, read)

    def _name(self, number: str) -> str:
        """Return the name of a device by its MAJ:MIN, or MAJ:MIN if sysfs does not have it."""
        try:
            path = os.readlink(f"{self.environment.sys_root}/dev/block/{number}")
        except OSError as error:
            if not is_absent(error):
                raise
            return number
        # sysfs has "!" where a device's name has a slash (cciss!c0d0).
        return os.path.basename(path).replace("!", "/")
