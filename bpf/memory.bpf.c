// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* OOM kills and major page faults, charged to the process that died or waited. */
#include "kpod.bpf.h"

struct memory_key {
	__u64 cgroup_id;
};

struct memory_value {
	__u64 born_ns;
	__u64 oom_kills;
	__u64 major_faults;
};

KPOD_METRIC_MAP(memory, struct memory_key, struct memory_value)

struct victim {
	__u64 start_time;
	__u32 tgid;
	__u32 unused;
};

/* Victims that were counted: each of a victim's threads exits, and is seen here. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct victim);
	__type(value, __u8);
} oom_victims SEC(".maps");

/*
 * oom/mark_victim would name the victim by pid only, and runs in whoever's
 * allocation found no memory. A victim's exit runs in the victim, and the
 * kernel has left the mark in signal->oom_mm by then.
 */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exits, struct task_struct *task)
{
	struct victim victim = {};
	struct memory_key key;
	struct memory_value *value;
	__u8 one = 1;

	if (!task->signal->oom_mm)
		return 0;
	victim.start_time = task->group_leader->start_time;
	victim.tgid = task->tgid;
	if (bpf_map_update_elem(&oom_victims, &victim, &one, BPF_NOEXIST))
		return 0;
	key.cgroup_id = task_cgroup_id(task);
	value = memory_of(&key);
	if (value)
		__sync_fetch_and_add(&value->oom_kills, 1);
	return 0;
}

/* PERF_COUNT_SW_PAGE_FAULTS_MAJ, period 1: runs in the task that faults. */
SEC("perf_event")
int major_fault(void *ctx)
{
	struct memory_key key = {.cgroup_id = bpf_get_current_cgroup_id()};
	struct memory_value *value = memory_of(&key);

	if (value)
		__sync_fetch_and_add(&value->major_faults, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
