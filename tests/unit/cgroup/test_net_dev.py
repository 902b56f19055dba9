from kpod_metrics.cgroup.net_dev import Interface, interfaces

HEADING = (
    b"Inter-|   Receive                                                |  Transmit\n"
    b" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls "
    b"carrier compressed\n"
)


def test_columns() -> None:
    data = HEADING + (
        b"    lo:   11704      61    0    0    0     0          0         0    11704      61    0    0    0     0"
        b"       0          0\n"
        b"  eth0:       1       2    3    4    5     6          7         8        9      10   11   12   13    14"
        b"      15         16\n"
    )
    assert interfaces(data) == {
        "lo": Interface(11704, 61, 0, 0, 11704, 61, 0, 0),
        "eth0": Interface(
            rx_bytes=1, rx_packets=2, rx_errors=3, rx_drops=4, tx_bytes=9, tx_packets=10, tx_errors=11, tx_drops=12
        ),
    }


def test_no_space_after_the_colon() -> None:
    data = HEADING + b"eth0:1234567890 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
    assert interfaces(data)["eth0"].rx_bytes == 1234567890


def test_odd_content() -> None:
    whole = b"eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
    assert interfaces(b"") == {}
    assert interfaces(HEADING) == {}
    assert interfaces(b"eth0: 1 2 3\neth1\n:\n") == {}
    assert interfaces(whole.replace(b" 9 ", b" x ")) == {}
    assert interfaces(whole[:-2]) == {}  # cut off in its last number


def test_names_that_are_no_utf8_stay_apart() -> None:
    line = b": 1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n"
    found = interfaces(HEADING + b"l\xff" + line + b"l\xfe" + line)
    assert list(found) == ["l\udcff", "l\udcfe"]
