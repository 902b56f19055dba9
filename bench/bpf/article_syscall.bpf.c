// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Bench-only: the article's design for syscalls, the peer of bpf/syscall.bpf.c. The numbers
 * to track are in a hash; the entry's time goes to a hash by thread, the exit takes it out
 * and adds to counts, errors and a log2 histogram by cgroup and number.
 */
#include "article.h"

struct key {
	__u64 cgroup_id;
	__u32 nr;
	__u32 unused;
};

struct call {
	__u64 count;
	__u64 errors;
	__u64 sum_ns;
	__u64 buckets[LOG2_BUCKETS];
};

struct start {
	__u64 ns;
	__u64 nr;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u8);
} tracked SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ENTRIES);
	__type(key, __u64);
	__type(value, struct start);
} starts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_ENTRIES);
	__type(key, struct key);
	__type(value, struct call);
} calls SEC(".maps");
HEALTH(calls)

SEC("raw_tp/sys_enter")
int enter(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 nr = ctx->args[1];
	__u64 thread;
	struct start start;

	if (!bpf_map_lookup_elem(&tracked, &nr))
		return 0;
	thread = bpf_get_current_pid_tgid();
	start.ns = bpf_ktime_get_ns();
	start.nr = nr;
	bpf_map_update_elem(&starts, &thread, &start, BPF_ANY);
	return 0;
}

SEC("raw_tp/sys_exit")
int leave(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 thread = bpf_get_current_pid_tgid(), took;
	long result = ctx->args[1];
	struct key key = {};
	struct call first = {}, *call;
	struct start *start;
	__u32 bucket;

	start = bpf_map_lookup_elem(&starts, &thread);
	if (!start)
		return 0;
	took = bpf_ktime_get_ns() - start->ns;
	key.nr = start->nr;
	key.cgroup_id = bpf_get_current_cgroup_id();
	bpf_map_delete_elem(&starts, &thread);
	bucket = log2_bucket(took);
	call = bpf_map_lookup_elem(&calls, &key);
	if (call) {
		__sync_fetch_and_add(&call->count, 1);
		if (result < 0)
			__sync_fetch_and_add(&call->errors, 1);
		__sync_fetch_and_add(&call->sum_ns, took);
		__sync_fetch_and_add(&call->buckets[bucket], 1);
	} else {
		first.count = 1;
		first.errors = result < 0;
		first.sum_ns = took;
		first.buckets[bucket] = 1;
		calls_updated(bpf_map_update_elem(&calls, &key, &first, BPF_NOEXIST));
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
