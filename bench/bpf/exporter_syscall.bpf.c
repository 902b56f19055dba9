// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Bench-only: how often each cgroup makes each call and how long it takes, as a user of
 * cloudflare's ebpf_exporter would ask for it, with the helpers of its examples; its map is
 * bench/peers/ebpf_exporter's metric. The entry's time goes to a hash by thread, the exit
 * takes it out and adds the difference to the histogram of the cgroup and call.
 */
#include <vmlinux.h>
#include <bpf/bpf_tracing.h>
#include "maps.bpf.h"

#define LAST_SLOT 36 /* up to 69 s, in nanoseconds */

struct slot_key {
	u64 cgroup_id;
	u32 syscall;
	u32 bucket;
};

struct begun {
	u64 ns;
	u64 syscall;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 10240);
	__type(key, u64);
	__type(value, struct begun);
} starts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024 * (LAST_SLOT + 2));
	__type(key, struct slot_key);
	__type(value, u64);
} syscall_latency_seconds SEC(".maps");

SEC("tp_btf/sys_enter")
int BPF_PROG(enter, struct pt_regs *regs, long number)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct begun begun = {.syscall = number};

	begun.ns = bpf_ktime_get_ns();
	bpf_map_update_elem(&starts, &thread, &begun, BPF_ANY);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(leave)
{
	u64 thread = bpf_get_current_pid_tgid(), took;
	struct slot_key key = {};
	struct begun *begun = bpf_map_lookup_elem(&starts, &thread);

	if (!begun)
		return 0;
	took = bpf_ktime_get_ns() - begun->ns;
	key.cgroup_id = bpf_get_current_cgroup_id();
	key.syscall = begun->syscall;
	bpf_map_delete_elem(&starts, &thread);
	increment_exp2_histogram(&syscall_latency_seconds, key, took, LAST_SLOT);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
