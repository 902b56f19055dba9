/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which cgroups are containers: all cgroups below one count as the container. */
#ifndef KPOD_CONTAINERS_BPF_H
#define KPOD_CONTAINERS_BPF_H

#include "kpod.bpf.h"

/*
 * By cgroup id: how many levels of directories are above containers from there. A directory
 * with 0 is a container's own, the pod's directory has 1, and the directory of the pods has
 * 2. The agent writes it, and shares it between all of its objects. It is preallocated:
 * programs of perf events may not use another one (before 6.1, 34dd3bad1a6f, "bpf: Relax the
 * requirement to use preallocated hash maps in tracing progs."). 8,192: 110 pods, which is
 * the kubelet's limit, have about 500 of them, 1,000 pods about 5,000.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, __u32);
} containers SEC(".maps");

/*
 * Levels below the root at which a container can be: on a node it is at level 4, and a node
 * in a container of a user's service manager adds 8.
 */
#define KPOD_CONTAINER_LEVELS 16

/*
 * The id of a cgroup's ancestor at a level. Since 6.1 (7f203bc89eb6, "cgroup: Replace
 * cgroup->ancestor_ids[] with ->ancestors[]") the kernel has pointers to them, before only
 * their ids.
 */
static __always_inline __u64 ancestor_id(struct cgroup *cgroup, int level)
{
	struct cgroup *ancestor = NULL;
	__u64 id = 0;

	if (bpf_core_field_exists(struct cgroup, ancestors)) {
		bpf_probe_read_kernel(&ancestor, sizeof(ancestor),
				      (void *)cgroup +
					      bpf_core_field_offset(struct cgroup, ancestors) +
					      level * sizeof(ancestor));
		return BPF_CORE_READ(ancestor, kn, id);
	}
	bpf_probe_read_kernel(
		&id, sizeof(id),
		(void *)cgroup + bpf_core_field_offset(struct cgroup___before_6_1, ancestor_ids) +
			level * sizeof(id));
	return id;
}

static __always_inline bool is_container(__u64 id)
{
	__u32 *levels = bpf_map_lookup_elem(&containers, &id);

	return levels && !*levels;
}

/*
 * The id of the cgroup to charge: `id`, which is the cgroup's own, if that is marked, else
 * that of the outermost container that it is in, or its own if there is none. If `cgroup`
 * is another one, because the task moved meanwhile, the event belongs to `id`.
 */
static __noinline __u64 container_id(struct cgroup *cgroup, __u64 id)
{
	int levels;

	if (!cgroup || is_container(id) || BPF_CORE_READ(cgroup, kn, id) != id)
		return id;
	levels = BPF_CORE_READ(cgroup, level);
	for (int level = 1; level < KPOD_CONTAINER_LEVELS && level < levels; level++) {
		__u64 above = ancestor_id(cgroup, level);

		if (is_container(above))
			return above;
	}
	return id;
}

#endif
