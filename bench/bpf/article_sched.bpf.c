// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Bench-only: the article's design for run-queue latency, the peer of bpf/run_queue.bpf.c.
 * A wakeup's time goes to a hash by pid; the switch to that task takes it out and adds the
 * difference to a log2 histogram by cgroup, and counts the switch in a second map. Health
 * is counted for new entries only, which is the cheap reading of the article. Each hook is
 * there twice: as the article has it (classic tracepoint), and as tp_btf.
 */
#include "article.h"

struct key {
	__u64 cgroup_id;
};

struct latency {
	__u64 buckets[LOG2_BUCKETS];
	__u64 count;
	__u64 sum_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ENTRIES);
	__type(key, __u32);
	__type(value, __u64);
} wakeup_time SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_ENTRIES);
	__type(key, struct key);
	__type(value, struct latency);
} latencies SEC(".maps");
HEALTH(latencies)

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_ENTRIES);
	__type(key, struct key);
	__type(value, __u64);
} switches SEC(".maps");
HEALTH(switches)

static __always_inline int woken(__u32 pid)
{
	__u64 now = bpf_ktime_get_ns();

	bpf_map_update_elem(&wakeup_time, &pid, &now, BPF_ANY);
	return 0;
}

static __always_inline void count_switch(struct key *key)
{
	__u64 *count = bpf_map_lookup_elem(&switches, key);
	__u64 one = 1;

	if (count)
		__sync_fetch_and_add(count, 1);
	else
		switches_updated(bpf_map_update_elem(&switches, key, &one, BPF_NOEXIST));
}

static __always_inline int switched(__u32 next_pid)
{
	struct key key = {.cgroup_id = bpf_get_current_cgroup_id()};
	struct latency first = {}, *latency;
	__u64 *since, waited;
	__u32 bucket;

	count_switch(&key);
	since = bpf_map_lookup_elem(&wakeup_time, &next_pid);
	if (!since)
		return 0;
	waited = bpf_ktime_get_ns() - *since;
	bpf_map_delete_elem(&wakeup_time, &next_pid);
	bucket = log2_bucket(waited);
	latency = bpf_map_lookup_elem(&latencies, &key);
	if (latency) {
		__sync_fetch_and_add(&latency->buckets[bucket], 1);
		__sync_fetch_and_add(&latency->count, 1);
		__sync_fetch_and_add(&latency->sum_ns, waited);
	} else {
		first.buckets[bucket] = 1;
		first.count = 1;
		first.sum_ns = waited;
		latencies_updated(bpf_map_update_elem(&latencies, &key, &first, BPF_NOEXIST));
	}
	return 0;
}

struct trace_event_raw_sched_wakeup_template {
	int pid;
} __attribute__((preserve_access_index));

struct trace_event_raw_sched_switch {
	int next_pid;
} __attribute__((preserve_access_index));

SEC("tp/sched/sched_wakeup")
int classic_wakeup(struct trace_event_raw_sched_wakeup_template *ctx)
{
	return woken(ctx->pid);
}

SEC("tp/sched/sched_switch")
int classic_switch(struct trace_event_raw_sched_switch *ctx)
{
	return switched(ctx->next_pid);
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(btf_wakeup, struct task_struct *task)
{
	return woken(task->pid);
}

SEC("tp_btf/sched_switch")
int BPF_PROG(btf_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	return switched(next->pid);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
