// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Latency of block requests, charged to the cgroup of the request's bio. That is the cgroup
 * that submitted it or, for writeback, the one that dirtied the page. The kernel does not
 * merge bios of different cgroups. It stores the time at which it created the request, so
 * this needs one program, and no map of requests.
 */
#include "compat.bpf.h"
#include "metric_map.bpf.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/blk-cgroup.h, blk_types.h, blk-mq.h */
struct blkcg {
	struct cgroup_subsys_state css;
};

struct blkcg_gq {
	struct blkcg *blkcg;
};

struct bio {
	struct blkcg_gq *bi_blkg;
};

struct request {
	unsigned int cmd_flags;
	unsigned int __data_len; /* what is left to transfer */
	struct bio *bio;
	__u64 start_time_ns; /* 0 if the device's queue/iostats is 0 */
};

#pragma clang attribute pop

#define REQ_OP_MASK 0xff

enum operation {
	OPERATION_READ,  /* REQ_OP_READ */
	OPERATION_WRITE, /* REQ_OP_WRITE */
	OPERATIONS,
};

struct disk_key {
	__u64 cgroup_id;
	__u64 operation;
};

struct disk_value {
	__u64 created_ns;
	struct histogram latency;
};

KPOD_METRIC_MAP(disk_latency, struct disk_key, struct disk_value)

SEC("raw_tp/block_rq_complete")
int BPF_PROG(request_completes, struct request *request, int error, unsigned int bytes)
{
	__u64 start_ns = READ(request, start_time_ns), now = bpf_ktime_get_ns();
	struct disk_key key = {.operation = READ(request, cmd_flags) & REQ_OP_MASK};
	unsigned int left = READ(request, __data_len);
	struct bio *bio = READ(request, bio);
	struct disk_value *value;

	/* A flush has no data. A request may complete in parts: the last one ends it. */
	if (key.operation >= OPERATIONS || !left || bytes < left || !bio || !start_ns)
		return 0;
	key.cgroup_id = READ(bio, bi_blkg, blkcg, css.cgroup, kn, id);
	value = KPOD_ENTRY(disk_latency, &key, BPF_CORE_READ(bio, bi_blkg, blkcg, css.cgroup));
	if (value)
		/* The two times may be from the clocks of two CPUs. */
		histogram_observe(&value->latency, now > start_ns ? now - start_ns : 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
