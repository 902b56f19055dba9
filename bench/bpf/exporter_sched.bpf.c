// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Bench-only: run-queue latency of each cgroup as a user of cloudflare's ebpf_exporter would
 * ask for it, with the helpers of its examples; its map is bench/peers/ebpf_exporter's metric.
 * The time of a wakeup, or of a preemption, goes to a hash by pid; the switch to that task
 * takes it out and adds the difference to the histogram of the task's cgroup.
 */
#include <vmlinux.h>
#include <bpf/bpf_tracing.h>
#include "maps.bpf.h"

#define LAST_SLOT 36 /* up to 69 s, in nanoseconds */

struct slot_key {
	u64 cgroup_id;
	u64 bucket;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 10240);
	__type(key, u32);
	__type(value, u64);
} starts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024 * (LAST_SLOT + 2));
	__type(key, struct slot_key);
	__type(value, u64);
} run_queue_latency_seconds SEC(".maps");

static __always_inline void waits(u32 pid)
{
	u64 now = bpf_ktime_get_ns();

	bpf_map_update_elem(&starts, &pid, &now, BPF_ANY);
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(wakeup, struct task_struct *task)
{
	waits(task->pid);
	return 0;
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(wakeup_new, struct task_struct *task)
{
	waits(task->pid);
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(switched, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	struct slot_key key = {};
	u64 *start, waited;
	u32 pid = next->pid;

	if (prev->pid && !prev->__state)
		waits(prev->pid); /* it still runs, but for the other */
	start = bpf_map_lookup_elem(&starts, &pid);
	if (!start)
		return 0;
	waited = bpf_ktime_get_ns() - *start;
	bpf_map_delete_elem(&starts, &pid);
	key.cgroup_id = next->cgroups->dfl_cgrp->kn->id;
	increment_exp2_histogram(&run_queue_latency_seconds, key, waited, LAST_SLOT);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
