// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * New cgroups with their paths: to name those that are removed before the agent sees them.
 * New pods and containers are marked at once, so that their first events are charged to
 * their entries.
 */
#include "kpod.bpf.h"
#include "containers.bpf.h"

#define PATH_SIZE 1024 /* TRACE_CGROUP_PATH_LEN of kernel/cgroup/cgroup-internal.h */

#define MAX_DEPTH 128

/* The root of the part of the hierarchy that the agent sees; 0: it sees all. */
const volatile __u64 root_id = 0;

struct new_cgroup {
	__u64 id;
	__u64 levels; /* below root_id; 0: not below it */
	char path[PATH_SIZE];
};

/* A record is as long as its path. The agent may set another size before it loads the object. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 512 * 1024);
} new_cgroups SEC(".maps");
KPOD_COUNTS(new_cgroups)

/* A record is built here: it is too long for the stack, and its length is known only at the end. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct new_cgroup);
} new_cgroup_record SEC(".maps");

/*
 * The number of levels from root_id down to a cgroup. A node that runs in a container sees
 * only a part of the hierarchy, and does not know the path of that part.
 */
static __always_inline __u64 levels_below_root(struct cgroup *cgroup)
{
	struct cgroup_subsys_state *css = BPF_CORE_READ(cgroup, self.parent);

	for (int depth = 1; depth <= MAX_DEPTH && css; depth++) {
		if (BPF_CORE_READ(css, cgroup, kn, id) == root_id)
			return depth;
		css = BPF_CORE_READ(css, parent);
	}
	return 0;
}

/*
 * Characters of a name: `pod` and a UID, for a static pod 32 hexadecimal digits; the id of a
 * container. Other directories beside pods and containers have shorter names.
 */
#define MIN_POD_NAME 35
#define MIN_CONTAINER_NAME 64

/* Marks a pod or a container, by the mark of the directory that it is in; overwrites `name`. */
static __always_inline void mark_child(struct cgroup *cgroup, char *name)
{
	__u64 id = BPF_CORE_READ(cgroup, self.parent, cgroup, kn, id);
	__u32 *above = bpf_map_lookup_elem(&containers, &id), levels;
	long length;

	if (!above || !*above)
		return;
	levels = *above - 1;
	length = bpf_probe_read_kernel_str(name, PATH_SIZE, BPF_CORE_READ(cgroup, kn, name));
	if (length <= (levels ? MIN_POD_NAME : MIN_CONTAINER_NAME)) /* with the end of the string */
		return;
	id = cgroup->kn->id;
	bpf_map_update_elem(&containers, &id, &levels, BPF_ANY);
}

/*
 * Runs before a process can see or enter the directory (cgroup_mkdir calls
 * kernfs_activate later), so before any event of the cgroup. The path begins at the root
 * of the hierarchy, in every cgroup namespace. v1 hierarchies use this tracepoint too; the
 * v2 hierarchy is number 0.
 */
SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(cgroup_created, struct cgroup *cgroup, const char *path)
{
	struct new_cgroup *record;
	__u32 zero = 0;
	long length;

	if (cgroup->root->hierarchy_id)
		return 0;
	record = bpf_map_lookup_elem(&new_cgroup_record, &zero);
	if (!record)
		return 0;
	mark_child(cgroup, record->path);
	/* Its events are charged to the container that it is in, which could fill the ring. */
	if (container_id(cgroup, cgroup->kn->id) != cgroup->kn->id)
		return 0;
	record->id = cgroup->kn->id;
	record->levels = root_id ? levels_below_root(cgroup) : 0;
	length = bpf_probe_read_kernel_str(record->path, PATH_SIZE, path);
	if (length < 0 || length > PATH_SIZE ||
	    /* No wakeup: the agent polls the ring. */
	    bpf_ringbuf_output(&new_cgroups, record, offsetof(struct new_cgroup, path) + length,
			       BPF_RB_NO_WAKEUP))
		new_cgroups_failed();
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
