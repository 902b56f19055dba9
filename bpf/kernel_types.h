/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The few kernel structures that the programs read, declared by hand and
 * relocated by CO-RE: only names and the type of a field matter, its offset
 * comes from the running kernel's BTF. A name after "___" is a flavour:
 * libbpf matches it with the kernel's structure of the name before it.
 */
#ifndef KPOD_KERNEL_TYPES_H
#define KPOD_KERNEL_TYPES_H

#include <linux/types.h>
#include <stdbool.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kernfs_node {
	__u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct sched_info {
	unsigned long long run_delay;
};

struct mm_struct;

struct signal_struct {
	struct mm_struct *oom_mm;
};

struct thread_info {
	unsigned long flags;
};

struct task_struct {
	struct thread_info thread_info;
	int pid;
	int tgid;
	__u64 start_time;
	struct css_set *cgroups;
	struct sched_info sched_info;
	struct signal_struct *signal;
	struct task_struct *group_leader;
};

/* The context of an iterator over tasks: include/linux/bpf.h, kernel/bpf/task_iter.c. */
struct bpf_iter__task {
	struct task_struct *task;
};

#pragma clang attribute pop

#endif
