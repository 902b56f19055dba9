// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Bench-only: smoothed round-trip times of each cgroup's sockets as a user of cloudflare's
 * ebpf_exporter would ask for them, with the helpers of its examples; its map is
 * bench/peers/ebpf_exporter's metric. Each segment that arrives is one observation, charged
 * to the cgroup of its socket.
 */
#include <vmlinux.h>
#include <bpf/bpf_tracing.h>
#include "maps.bpf.h"

#define LAST_SLOT 26 /* up to 67 s, in microseconds, as the kernel has it */

struct slot_key {
	u64 cgroup_id;
	u64 bucket;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024 * (LAST_SLOT + 2));
	__type(key, struct slot_key);
	__type(value, u64);
} tcp_round_trip_seconds SEC(".maps");

SEC("tp_btf/tcp_probe")
int BPF_PROG(segment_arrives, struct sock *sk)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	struct slot_key key = {};
	u64 srtt;

	if (!tcp)
		return 0;
	srtt = tcp->srtt_us >> 3;
	key.cgroup_id = sk->sk_cgrp_data.cgroup->kn->id;
	increment_exp2_histogram(&tcp_round_trip_seconds, key, srtt, LAST_SLOT);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
