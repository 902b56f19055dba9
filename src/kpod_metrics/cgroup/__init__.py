"""Readers of cgroup v2 and /proc files: functions of a root path, with no state and no knowledge of pods."""
