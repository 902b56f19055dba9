"""The thresholds: the one list for the causes, the alerts and the dashboards.

Shares are 0 to 1, rates are per second.
"""

RUNQUEUE_SHARE = 0.3
"""Run-queue wait, as a share of the time in which tasks wait or run."""
RUNQUEUE_TASKS = 0.1
"""Average number of tasks in the run queue. If fewer wait, the share above means nothing."""
THROTTLED_SHARE = 0.25
"""Share of the periods of a CPU limit in which it throttled tasks."""
THROTTLED_SHARE_WAITING = 0.1
"""The same for a pod whose run-queue wait is above its threshold: from here on the CPU limit causes that wait."""
MIN_PERIODS = 0.5
"""Rate of the periods of a CPU limit. With fewer, the share of throttled ones means nothing."""
MIN_BUSY_TASKS = 0.01
"""Average number of tasks that run or wait. With fewer, the share of run-queue wait means nothing."""
MEMORY_OF_LIMIT = 0.9
"""Memory that cannot be reclaimed from the page cache, as a share of the memory limit."""
MEMORY_TREND_OF_LIMIT = 0.5
"""The same, from where on its growth is extrapolated."""
MEMORY_WAIT_SHARE = 0.2
"""Share of the time in which at least one task waits for memory."""
IO_STALL_SHARE = 0.5
"""Share of the time in which all tasks wait for I/O."""
MAJOR_FAULTS = 100.0
"""Rate of major page faults."""
SPACE_LOW, SPACE_FULL, NODE_SPACE_LOW = 0.1, 0.03, 0.15
"""Share of a file system that is left; the last one for the file system of the containers' root directories."""
RETRANSMITS, RETRANSMIT_SHARE = 1.0, 0.02
"""Rate of TCP retransmits, and their share of all sent segments."""
RTT_SECONDS, RTT_RISE = 0.01, 2.0
"""Mean TCP round trip, and its ratio to the mean of the hours before."""
CONNECT_FAILURES, CONNECT_FAILURE_RATIO = 0.1, 0.1
"""Rate of failed TCP connects, and their ratio to successful ones."""
LOST_PACKETS, LOST_PACKET_SHARE = 1.0, 0.01
"""Rate of packets that an interface drops or that have errors, and their share of all packets."""
SYSCALLS, SYSCALL_ERROR_SHARE = 1.0, 0.5
"""Rate of the calls of a syscall, and the share of them that fails. With fewer calls the share means nothing."""
SLOW_SYSCALL_SECONDS, SLOW_SYSCALL_TASKS = 0.5, 0.02
"""99th percentile of a syscall whose purpose is not to wait, and the average number of tasks in it."""
SYSCALL_TASKS = 0.1
"""Average number of tasks in syscalls whose purpose is not to wait. No alert has this threshold."""
RESTARTS = 3
"""Restarts of a container within half an hour."""

NOTABLE = 0.5
"""Share of a threshold from which on a cause is reported, although no alert is pending for it."""
NOTABLE_FAULTS = 10.0
"""Rate of major page faults that is reported: a fault waits some milliseconds for the disk, so this is a tenth of the
time of one task."""
