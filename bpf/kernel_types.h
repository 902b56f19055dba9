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
	const char *name;
};

struct cgroup_root {
	int hierarchy_id;
};

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
	struct cgroup_root *root;
	int level;                   /* below the root */
	struct cgroup *ancestors[1]; /* by level */
};

struct cgroup___before_6_1 {
	__u64 ancestor_ids[1]; /* by level */
};

enum cgroup_subsys_id {
	memory_cgrp_id = 1,
};

struct css_set {
	struct cgroup *dfl_cgrp;
	struct cgroup_subsys_state *subsys[1]; /* by enum cgroup_subsys_id */
};

struct mem_cgroup {
	struct cgroup_subsys_state css; /* the first field, as the kernel's own casts need it */
	bool oom_group;
};

struct sched_info {
	unsigned long long run_delay;
};

struct mm_struct;

struct signal_struct {
	struct mm_struct *oom_mm;
};

/* The record of a tracepoint: which fields it has depends on the kernel's release. */
struct trace_event_raw_mark_victim {
	__u32 uid;
};

struct thread_info {
	unsigned long flags;
};

/* Namespaces: include/linux/ns_common.h, nsproxy.h, net/net_namespace.h, fs/mount.h. */
struct ns_common {
	unsigned int inum;
};

struct mnt_namespace {
	struct ns_common ns;
	__u64 event;
};

struct net {
	struct ns_common ns;
};

struct nsproxy {
	struct mnt_namespace *mnt_ns;
	struct net *net_ns;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct fs_struct {
	struct path root;
};

struct task_struct {
	struct thread_info thread_info;
	struct mm_struct *mm;
	struct fs_struct *fs;
	struct nsproxy *nsproxy;
	int pid;
	int tgid;
	__u64 start_time;
	__u64 start_boottime;
	struct css_set *cgroups;
	struct sched_info sched_info;
	struct signal_struct *signal;
	struct task_struct *group_leader;
};

/* The number of a syscall, and the flag of a 32-bit one, on each architecture. */
struct pt_regs___x86 {
	unsigned long orig_ax;
};

struct pt_regs___arm64 {
	int syscallno;
};

struct thread_info___x86 {
	__u32 status;
};

/* The context of an iterator over tasks: include/linux/bpf.h, kernel/bpf/task_iter.c. */
struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

/* Sockets: include/net/sock.h, include/linux/tcp.h. */
struct sock_common {
	unsigned short skc_family;
	volatile unsigned char skc_state;
	unsigned long skc_flags;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct sock_cgroup_data___before_5_15 {
	__u64 val;
};

/* Queued spinlocks (kernel/locking/qspinlock.c): on x86-64 and arm64, without PREEMPT_RT. */
struct qspinlock {
	struct {
		int counter;
	} val;
};

struct raw_spinlock {
	struct qspinlock raw_lock;
};

struct spinlock {
	struct raw_spinlock rlock;
};

struct socket_lock {
	struct spinlock slock;
	int owned;
};

struct sock {
	struct sock_common __sk_common;
	struct socket_lock sk_lock;
	__u16 sk_type;
	__u16 sk_protocol;
	struct sock_cgroup_data sk_cgrp_data;
};

struct tcp_sock {
	__u32 snd_una;
	__u32 snd_nxt;
	__u32 write_seq;
	__u32 srtt_us; /* eight times the smoothed round-trip time */
	__u32 total_retrans;
	__u32 data_segs_out; /* since 4.6 (a44d6eacdaf5) */
	__u32 segs_in;
	__u64 bytes_acked;
	__u64 bytes_received;
};

enum sock_flags {
	SOCK_DONE = 1,
};

struct socket {
	struct sock *sk;
};

struct super_block {
	unsigned long s_magic;
};

struct inode {
	struct super_block *i_sb;
};

struct file {
	struct inode *f_inode;
	void *private_data;
};

/* The context of an iterator over sockets with a storage: net/core/bpf_sk_storage.c. */
struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct sock *sk;
	void *value;
};

/* The context of an iterator over the open files of tasks: kernel/bpf/task_iter.c. */
struct bpf_iter__task_file {
	struct task_struct *task;
	struct file *file;
};

#pragma clang attribute pop

#endif
