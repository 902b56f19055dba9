// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Counts one process' system calls by number: what strace -c tells, without stopping it. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define NUMBERS 512

const volatile __u32 process;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NUMBERS);
	__type(key, __u32);
	__type(value, __u64);
} calls SEC(".maps");

SEC("raw_tp/sys_enter")
int call_begins(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 number = ctx->args[1];
	__u64 *count;

	if (bpf_get_current_pid_tgid() >> 32 != process)
		return 0;
	count = bpf_map_lookup_elem(&calls, &number);
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
