// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Major page faults of each cgroup, charged to the task that faults. */
#include "compat.bpf.h"
#include "metric_map.bpf.h"

struct page_faults_key {
	__u64 cgroup_id;
};

struct page_faults_value {
	__u64 created_ns;
	__u64 major;
};

KPOD_METRIC_MAP(page_faults, struct page_faults_key, struct page_faults_value)

/* PERF_COUNT_SW_PAGE_FAULTS_MAJ, period 1: runs in the task that faults. */
SEC("perf_event")
int major_fault(void *ctx)
{
	struct page_faults_key key = {.cgroup_id = bpf_get_current_cgroup_id()};
	struct page_faults_value *value =
		KPOD_ENTRY(page_faults, &key, task_cgroup((void *)bpf_get_current_task()));

	if (value)
		__sync_fetch_and_add(&value->major, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
