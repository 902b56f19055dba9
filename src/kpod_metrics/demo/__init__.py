"""`kpod-metrics demo`: the agent beside a few workloads, each in a cgroup of its own, so that every signal moves.

`catalogue` says what each workload does and which metrics it moves, `work` does it, `groups` starts and ends them all,
`command` runs the agent beside them. Nothing here is imported by `run`.
"""
