from kpod_metrics.cgroup import pressure

SOME = b"some avg10=27.75 avg60=9.55 avg300=3.09 total=31456787\n"
FULL = b"full avg10=0.00 avg60=0.00 avg300=0.00 total=42\n"


def test_totals_of_both_lines() -> None:
    assert pressure.totals(SOME + FULL) == (31456787, 42)


def test_cpu_before_5_13_has_no_full_line() -> None:
    assert pressure.totals(SOME) == (31456787, None)


def test_odd_content() -> None:
    assert pressure.totals(b"") == (None, None)
    assert pressure.totals(b"some avg10=0.00\nfull total\n") == (None, None)
    assert pressure.totals(b"some avg10=0.00 total=x\n" + FULL) == (None, 42)
    assert pressure.totals(SOME + FULL[:-2]) == (31456787, None)  # cut off in its number
