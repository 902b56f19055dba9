"""Network interfaces of a namespace: `/proc/PID/net/dev` (net/core/net-procfs.c, dev_seq_printf_stats)."""

from typing import NamedTuple

from kpod_metrics.cgroup.keyed import number


class Interface(NamedTuple):
    """Running totals of one interface, in the order of the file."""

    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_drops: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_drops: int


def interfaces(data: bytes) -> dict[str, Interface]:
    """Return the interfaces by name; lines that are none (the two of the heading) are left out."""
    found = {}
    for line in data.split(b"\n")[:-1]:
        # No space follows the colon of old kernels once the first number is wide.
        name, _, rest = line.partition(b":")
        columns = rest.split()
        if len(columns) >= 16:
            values = [number(column) for column in (*columns[0:4], *columns[8:12])]
            numbers = [value for value in values if value is not None]
            if len(numbers) == len(Interface._fields):
                found[name.strip().decode(errors="replace")] = Interface(*numbers)
    return found
