// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* OOM kills of each cgroup, charged to the victims. */
#include <linux/errno.h>

#include "compat.bpf.h"
#include "metric_map.bpf.h"

struct oom_key {
	__u64 cgroup_id;
};

struct oom_value {
	__u64 created_ns;
	__u64 kills;
	__u64 group_kills;
	__u64 group_killed_ns; /* time of the first exit in the last group kill */
};

KPOD_METRIC_MAP(oom, struct oom_key, struct oom_value)

struct victim {
	__u64 start_time;
	__u32 tgid;
	__u32 unused;
};

/*
 * Keys that were counted already: NAME_first() adds a key, and returns whether it was new.
 * The map is an LRU. If a key cannot be added, it may be there already: then the failure
 * is counted, but not the event.
 */
#define KPOD_SEEN_MAP(name, key_type)                                          \
	struct {                                                               \
		__uint(type, BPF_MAP_TYPE_LRU_HASH);                           \
		__uint(max_entries, 1024);                                     \
		__type(key, key_type);                                         \
		__type(value, __u8);                                           \
	} name SEC(".maps");                                                   \
	KPOD_COUNTS(name)                                                      \
	static __always_inline bool name##_first(key_type *key)                \
	{                                                                      \
		__u8 one = 1;                                                  \
		long err = bpf_map_update_elem(&name, key, &one, BPF_NOEXIST); \
                                                                               \
		if (err && err != -EEXIST)                                     \
			name##_failed();                                       \
		return !err;                                                   \
	}

/* Victims: each thread of one exits, and may run the program. */
KPOD_SEEN_MAP(oom_victims, struct victim)

/* A kill of a whole group, identified by the value of group_killed_ns before it. */
struct group_kill {
	__u64 cgroup_id;
	__u64 before_ns;
};

KPOD_SEEN_MAP(oom_groups, struct group_kill)

/*
 * The cgroup that is killed as a whole (memory.oom.group): the highest one at or above the
 * victim's, as mem_cgroup_get_oom_group() finds it. The kernel stops at the cgroup whose
 * limit was reached, which no field shows here. Returns 0 if there is none.
 */
static __always_inline __u64 oom_group_id(struct task_struct *task)
{
	struct cgroup_subsys_state *css = NULL;
	__u64 id = 0, at;

	if (!bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
		return 0;
	at = bpf_core_field_offset(struct css_set, subsys) +
	     bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id) * sizeof(css);
	bpf_probe_read_kernel(&css, sizeof(css), (void *)READ(task, cgroups) + at);
	for (int depth = 0; depth < 32 && css; depth++) {
		if (BPF_CORE_READ((struct mem_cgroup *)css, oom_group))
			id = BPF_CORE_READ(css, cgroup, kn, id);
		css = BPF_CORE_READ(css, parent);
	}
	return id;
}

/*
 * Every process of the group existed when the kill began: a process that started after the
 * first exit of the last kill belongs to another kill. Many exit at the same time: all of
 * them read the same group_killed_ns, and the first to add it to oom_groups counts the kill.
 */
static __always_inline void count_group_kill(struct task_struct *task)
{
	struct oom_key key = {.cgroup_id = oom_group_id(task)};
	struct group_kill kill = {.cgroup_id = key.cgroup_id};
	struct oom_value *value;

	if (!key.cgroup_id)
		return;
	/* Not the container's entry: the time of the last kill is of the group. */
	value = KPOD_ENTRY(oom, &key, NULL);
	if (!value)
		return;
	kill.before_ns = value->group_killed_ns;
	if (READ(task, group_leader, start_time) < kill.before_ns)
		return;
	if (!oom_groups_first(&kill))
		return;
	value->group_killed_ns = bpf_ktime_get_ns();
	__sync_fetch_and_add(&value->group_kills, 1);
}

static __always_inline void count_victim(struct task_struct *task)
{
	struct victim victim = {};
	struct oom_key key;
	struct oom_value *value;

	victim.start_time = READ(task, group_leader, start_time);
	victim.tgid = READ(task, tgid);
	if (!oom_victims_first(&victim))
		return;
	key.cgroup_id = task_cgroup_id(task);
	value = KPOD_ENTRY(oom, &key, task_cgroup(task));
	if (value)
		__sync_fetch_and_add(&value->kills, 1);
	count_group_kill(task);
}

/* Runs in the allocating task: charge the victim, never current. */
SEC("raw_tp/mark_victim")
int BPF_PROG(victim_chosen, struct task_struct *victim)
{
	if (mark_victim_has_task())
		count_victim(victim);
	return 0;
}

/* On other kernels, count the victim's exit: signal->oom_mm keeps the mark. */
SEC("raw_tp/sched_process_exit")
int BPF_PROG(process_exits, struct task_struct *task)
{
	if (!mark_victim_has_task() && READ(task, signal, oom_mm))
		count_victim(task);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
