// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The namespaces of all threads in one pass: reading them in /proc takes forty times as long. */
#include "kpod.bpf.h"

/* The first kernel thread: it is in the machine's own namespaces. */
#define KTHREADD 2

struct task_namespaces {
	__u32 pid;             /* of the thread, in the initial PID namespace */
	__u32 mount_namespace; /* numbers, as in /proc/PID/ns */
	__u32 network_namespace;
	__u32 run;           /* the run of the iterator that wrote the record */
	__u64 cgroup;        /* in the v2 hierarchy */
	__u64 started;       /* nanoseconds since boot, as in /proc/PID/stat */
	__u64 mount_changes; /* changes when a mount is added or removed */
	__u64 root_mount;    /* addresses: together they identify a root directory */
	__u64 root_directory;
};

/*
 * A record is built here: in a map, so that the object's BTF has its layout. The last record
 * stays in it for comparison.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct task_namespaces);
} task_namespaces_record SEC(".maps");

/*
 * A thread that ends loses its namespaces before it disappears. A record is left out if it
 * has nothing new: that of a thread which has all in common with its living main thread, and
 * one that is like the last one. So most processes of a container have one record together,
 * and a pod cannot make the pass much longer.
 *
 * poll() of mountinfo compares the same mnt_namespace.event (fs/namespace.c,
 * touch_mnt_namespace()).
 */
SEC("iter/task")
int read_task(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task, *leader;
	struct task_namespaces *record, new = {};
	__u32 zero = 0;

	if (!task)
		return 0; /* the end */
	if (!task->mm && task->pid != KTHREADD)
		return 0; /* another kernel thread */
	leader = task->group_leader;
	if (task->pid != task->tgid && leader->nsproxy == task->nsproxy && leader->fs == task->fs &&
	    leader->cgroups == task->cgroups)
		return 0;
	new.pid = task->pid;
	new.mount_namespace = task->nsproxy->mnt_ns->ns.inum;
	new.network_namespace = task->nsproxy->net_ns->ns.inum;
	new.run = ctx->meta->session_id;
	new.cgroup = task->cgroups->dfl_cgrp->kn->id;
	new.started = task->start_boottime;
	new.mount_changes = task->nsproxy->mnt_ns->event;
	new.root_mount = (__u64)task->fs->root.mnt;
	new.root_directory = (__u64)task->fs->root.dentry;
	if (!new.mount_namespace)
		return 0; /* it is ending */
	record = bpf_map_lookup_elem(&task_namespaces_record, &zero);
	if (!record)
		return 0;
	if (record->run == new.run && record->cgroup == new.cgroup &&
	    record->mount_namespace == new.mount_namespace &&
	    record->network_namespace == new.network_namespace &&
	    record->root_mount == new.root_mount && record->root_directory == new.root_directory &&
	    new.pid != KTHREADD)
		return 0;
	*record = new;
	if (bpf_seq_write(ctx->meta->seq, record, sizeof(*record)))
		record->run = 0; /* the buffer is full: the kernel runs the program for this thread
				    again */
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
