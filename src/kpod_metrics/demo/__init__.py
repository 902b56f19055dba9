"""`kpod-metrics demo`: the agent beside a few workloads, each in its own cgroup, so that every signal moves.

`catalogue` declares what each workload does and which metrics it moves, `work` does it, `groups` starts and ends all of
them, `command` runs the agent. `run` imports nothing of this.
"""
