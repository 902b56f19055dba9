"""From where on a pod waits too much: one list for the page at `/`, the alerts and the dashboards.

Shares are 0 to 1, rates are a second.
"""

MUCH_WAIT = 0.3
"""Of the time in which tasks had something to run, the part in which they waited for a CPU."""
TASKS_WAITING = 0.1
"""Tasks that wait for a CPU, on average: below it the share above says nothing."""
THROTTLED = 0.25
"""Of the periods of a CPU limit, those in which it was used up."""
THROTTLED_AND_WAITING = 0.1
"""The same, where tasks wait much: from here on they wait for their limit."""
PERIODS = 0.5
"""Periods of a CPU limit: of fewer the share above says nothing."""
NEAR_LIMIT = 0.9
"""Of a memory limit, what is held."""
MEMORY_WAITING = 0.2
"""Of the time, that in which some task waited for memory."""
IO_STALLED = 0.5
"""Of the time, that in which all tasks waited for I/O."""
FAULTS = 100.0
"""Major page faults."""
SPACE_LOW, SPACE_FULL, NODE_SPACE_LOW = 0.1, 0.03, 0.15
"""Of a file system, what is left; the last of the one below containers' root directories."""
RETRANSMITS, RETRANSMITTED = 1.0, 0.02
"""TCP segments that are sent again, and their share of all."""
CONNECT_FAILURES, FAILURES_TO_CONNECTS = 0.1, 0.1
"""TCP connects that fail, and how many to one that succeeds."""
LOST_PACKETS, LOST = 1.0, 0.01
"""Packets that an interface drops or has errors in, and their share of all."""
CALLS, FAILED_CALLS = 1.0, 0.5
"""Calls of a syscall, and the share of them that fails: of fewer calls it says nothing."""
SLOW_CALL, IN_SLOW_CALLS = 0.5, 0.02
"""99th percentile of a syscall that should not wait, in seconds, and tasks that are in it on average."""
RESTARTS = 3
"""Times that a container is started again, within half an hour."""
