"""Network interfaces of a namespace: `/proc/PID/net/dev` (net/core/net-procfs.c, dev_seq_printf_stats)."""

import os
from typing import NamedTuple

_LINE = 16 * 24
"""An upper limit for the length of sixteen 64-bit numbers with spaces."""


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
    """Return the interfaces by name; other lines (the two of the heading) are ignored."""
    found = {}
    for line in data.split(b"\n")[:-1]:
        # Old kernels write no space after the colon if the first number is wide.
        name, _, rest = line.partition(b":")
        columns = rest.split()
        if len(columns) >= 16:
            wanted = columns[0:4] + columns[8:12]
            if b"".join(wanted).isdigit() and len(rest) < _LINE:
                found[os.fsdecode(name.strip())] = Interface(*map(int, wanted))
    return found
