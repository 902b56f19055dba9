/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Shared by all programs: tags, counts of maps, histograms. */
#ifndef KPOD_BPF_H
#define KPOD_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "kernel_types.h"

/*
 * The role of a map or program for another one of the object. The agent reads these tags
 * in the object's BTF. libbpf removes them for kernels before 5.16, which reject them.
 */
#define KPOD_IS(role, of) __attribute__((btf_decl_tag(role " of " #of)))

/*
 * What happened to a map: failed updates, which the agent exports as
 * kpod_bpf_map_update_errors_total, and entries that were created. Atomic although each CPU
 * has its own: a program can interrupt another one.
 */
struct map_counts {
	__u64 failures;
	__u64 births;
};

#define KPOD_COUNTS(map)                                                               \
	struct {                                                                       \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);                               \
		__uint(max_entries, 1);                                                \
		__type(key, __u32);                                                    \
		__type(value, struct map_counts);                                      \
	} map##_counts SEC(".maps") KPOD_IS("counts", map);                            \
	static __always_inline void map##_failed(void)                                 \
	{                                                                              \
		__u32 zero = 0;                                                        \
		struct map_counts *counts = bpf_map_lookup_elem(&map##_counts, &zero); \
		if (counts)                                                            \
			__sync_fetch_and_add(&counts->failures, 1);                    \
	}                                                                              \
	static __always_inline void map##_born(void)                                   \
	{                                                                              \
		__u32 zero = 0;                                                        \
		struct map_counts *counts = bpf_map_lookup_elem(&map##_counts, &zero); \
		if (counts)                                                            \
			__sync_fetch_and_add(&counts->births, 1);                      \
	}

/*
 * Histograms are exponential, with four buckets per octave (Prometheus schema 2), in
 * units of seconds: the upper bound of bucket i is 2^(i / 4 - 20) s, inclusive, exact to
 * the nanosecond. Bucket 0 holds everything up to 2^-20 s (0.95 us), the last bucket
 * everything above 2^6 s. A bucket has 32 bits: a reader takes differences modulo 2^32.
 * The count of observations is the sum of the buckets.
 */
#define KPOD_BUCKETS_PER_OCTAVE 4
#define KPOD_MIN_OCTAVE 10 /* 2^10 units of 2^-30 s = 2^-20 s */
#define KPOD_MAX_OCTAVE 36 /* 2^36 units of 2^-30 s = 2^6 s */
#define KPOD_BUCKETS ((KPOD_MAX_OCTAVE - KPOD_MIN_OCTAVE) * KPOD_BUCKETS_PER_OCTAVE + 2)

struct histogram {
	__u64 sum_ns;
	__u32 buckets[KPOD_BUCKETS];
};

/* floor(2^(quarter / 4) * 10^9 * 2^20): a bound's mantissa, in 2^-20 ns. */
static __always_inline __u64 bound_mantissa(__u32 quarter)
{
	switch (quarter) {
	case 0:
		return 0x46e1dc4b00b25ULL;
	case 1:
		return 0x544b2fba5f832ULL;
	case 2:
		return 0x643e1f3e81e6dULL;
	default:
		return 0x7735940000000ULL;
	}
}

/* floor(log2(v)) for v >= 1. */
static __always_inline __u32 log2_floor(__u64 v)
{
	__u32 bit = 0;

	if (v >> 32) {
		v >>= 32;
		bit = 32;
	}
	if (v >> 16) {
		v >>= 16;
		bit += 16;
	}
	if (v >> 8) {
		v >>= 8;
		bit += 8;
	}
	if (v >> 4) {
		v >>= 4;
		bit += 4;
	}
	if (v >> 2) {
		v >>= 2;
		bit += 2;
	}
	return bit + (v >> 1);
}

/*
 * ns * 1.0737 rounded down gives the octave in units of 2^-30 s and, by its top two
 * mantissa bits, a quarter. Linear quarters (1, 1.25, 1.5, 1.75) are at or above the
 * geometric ones (2^(q/4)), so this bucket is right or one too low, and a comparison with
 * its exact bound decides.
 */
static __always_inline __u32 histogram_bucket(__u64 ns)
{
	__u64 units;
	__u32 octave, quarter, bucket;

	if (ns <= 953) /* floor(2^-20 s) */
		return 0;
	if (ns > 64000000000ULL)
		return KPOD_BUCKETS - 1;
	units = ns * 144115188ULL >> 27; /* floor(2^57 / 10^9) */
	octave = log2_floor(units);
	if (octave < KPOD_MIN_OCTAVE) /* 954 ns: 1023 units by rounding */
		return 1;
	quarter = (units >> (octave - 2)) & 3;
	bucket = (octave - KPOD_MIN_OCTAVE) * KPOD_BUCKETS_PER_OCTAVE + quarter + 1;
	if (ns > bound_mantissa(quarter) >> (50 - octave))
		bucket++;
	return bucket;
}

static __always_inline void histogram_observe(struct histogram *histogram, __u64 ns)
{
	__u32 bucket = histogram_bucket(ns);

	if (bucket >= KPOD_BUCKETS) /* never true: for the verifier */
		return;
	__sync_fetch_and_add(&histogram->buckets[bucket], 1);
	__sync_fetch_and_add(&histogram->sum_ns, ns);
}

#endif
