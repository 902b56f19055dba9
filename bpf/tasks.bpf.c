// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The namespaces of all processes in one pass: reading them in /proc takes forty times as long. */
#include "kpod.bpf.h"

/* The first kernel thread: it is in the machine's own namespaces. */
#define KTHREADD 2

struct task_namespaces {
	__u32 pid;             /* in the initial PID namespace */
	__u32 mount_namespace; /* numbers, as in /proc/PID/ns */
	__u32 network_namespace;
	__u32 unused;
	__u64 mount_changes; /* changes when a mount is added or removed */
	__u64 root_mount;    /* addresses: together they identify a root directory */
	__u64 root_directory;
};

/* A record is built here: in a map, so that the object's BTF has its layout. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct task_namespaces);
} task_namespaces_record SEC(".maps");

/*
 * A process that ends loses its namespaces: then all reads return 0, and the agent skips
 * the process. poll() of mountinfo compares the same mnt_namespace.event (fs/namespace.c,
 * touch_mnt_namespace()).
 */
SEC("iter/task")
int read_task(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct task_namespaces *record;
	__u32 zero = 0;

	if (!task || BPF_CORE_READ(task, pid) != BPF_CORE_READ(task, tgid))
		return 0; /* the end, or not a main thread */
	if (!BPF_CORE_READ(task, mm) && BPF_CORE_READ(task, pid) != KTHREADD)
		return 0; /* another kernel thread */
	record = bpf_map_lookup_elem(&task_namespaces_record, &zero);
	if (!record)
		return 0;
	record->pid = BPF_CORE_READ(task, pid);
	record->mount_namespace = BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
	record->network_namespace = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
	record->mount_changes = BPF_CORE_READ(task, nsproxy, mnt_ns, event);
	record->root_mount = (__u64)BPF_CORE_READ(task, fs, root.mnt);
	record->root_directory = (__u64)BPF_CORE_READ(task, fs, root.dentry);
	bpf_seq_write(ctx->meta->seq, record, sizeof(*record));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
