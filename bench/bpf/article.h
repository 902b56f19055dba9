/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Bench-only: what the two programs of the article's design share. */
#ifndef BENCH_ARTICLE_H
#define BENCH_ARTICLE_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "kernel_types.h"

#define MAX_ENTRIES 10240
#define LOG2_BUCKETS 27 /* up to 134 ms, in nanoseconds */

enum { ADDED, FAILED, HEALTH_COUNTERS };

/* A map's health: entries that were added, updates that failed. */
#define HEALTH(map)                                                        \
	struct {                                                           \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);                   \
		__uint(max_entries, HEALTH_COUNTERS);                      \
		__type(key, __u32);                                        \
		__type(value, __s64);                                      \
	} map##_health SEC(".maps");                                       \
	static __always_inline void map##_updated(long err)                \
	{                                                                  \
		__u32 which = err ? FAILED : ADDED;                        \
		__s64 *count = bpf_map_lookup_elem(&map##_health, &which); \
                                                                           \
		if (count)                                                 \
			__sync_fetch_and_add(count, 1);                    \
	}

static __always_inline __u32 log2_bucket(__u64 ns)
{
	__u32 bucket = 0;

#pragma unroll
	for (int shift = 32; shift; shift >>= 1) {
		if (ns >> shift) {
			ns >>= shift;
			bucket += shift;
		}
	}
	return bucket < LOG2_BUCKETS ? bucket : LOG2_BUCKETS - 1;
}

#endif
