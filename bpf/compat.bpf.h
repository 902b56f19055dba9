/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every difference between kernels and architectures, each with its release. */
#ifndef KPOD_COMPAT_BPF_H
#define KPOD_COMPAT_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "kernel_types.h"
#include "kpod.bpf.h"

/* include/linux/socket.h, include/linux/net.h, include/uapi/linux/in.h */
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define IPPROTO_TCP 6

/*
 * Programs are compiled as raw tracepoints. The agent loads them as tp_btf (since 5.5):
 * their arguments have types, and programs read through them directly, which is faster.
 * If the kernel refuses that, the agent sets kpod_untyped and loads them as they are: then
 * an argument is a scalar to the verifier, only a helper may read through it, and
 * there is no storage. READ(p, a, b) is p->a->b either way.
 */
const volatile bool kpod_untyped = false;

#define READ(p, a...) READ_IF(kpod_untyped, p, a)
#define READ_IF(untyped, p, a...) ((untyped) ? BPF_CORE_READ(p, a) : ___arrow(p, a))

/* A task's cgroup in the v2 hierarchy: bpf_get_current_cgroup_id() returns it for current. */
static __always_inline __u64 task_cgroup_id(struct task_struct *task)
{
	return READ(task, cgroups, dfl_cgrp, kn, id);
}

/* The cgroup itself. Slower: only where it is rarely needed. */
static __always_inline struct cgroup *task_cgroup(struct task_struct *task)
{
	return BPF_CORE_READ(task, cgroups, dfl_cgrp);
}

/*
 * Each architecture has its own register for a syscall's number, and its own flag for a
 * 32-bit call. x86-64: TS_COMPAT in thread_info.status, set for the duration of the
 * call (arch/x86/include/asm/thread_info.h). arm64: TIF_32BIT in
 * thread_info.flags, of the whole process (arch/arm64/include/asm/thread_info.h).
 */
#define TS_COMPAT 0x0002
#define TIF_32BIT 22

static __always_inline __u32 syscall_number(struct pt_regs *regs)
{
	struct pt_regs___x86 *x86 = (void *)regs;
	struct pt_regs___arm64 *arm64 = (void *)regs;

	if (bpf_core_field_exists(struct pt_regs___x86, orig_ax))
		return READ(x86, orig_ax);
	return READ(arm64, syscallno);
}

/*
 * bpf_get_current_task_btf() exists since 5.11 (3ca1032ab7ab, "bpf: Implement
 * get_current_task_btf and RET_PTR_TO_BTF_ID"). Before, current is a scalar to the
 * verifier: only a helper may read it.
 */
static __always_inline bool current_is_pointer(void)
{
	return bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf);
}

static __always_inline struct task_struct *current_task(void)
{
	if (current_is_pointer())
		return bpf_get_current_task_btf();
	return (struct task_struct *)bpf_get_current_task();
}

/* As bpf_get_current_cgroup_id(), but 20 ns faster if current is a pointer. */
static __always_inline __u64 current_cgroup_id(struct task_struct *current)
{
	if (current_is_pointer())
		return current->cgroups->dfl_cgrp->kn->id;
	return bpf_get_current_cgroup_id();
}

/* Whether current, as current_task() returned it, is in a 32-bit call. */
static __always_inline bool in_compat_syscall(struct task_struct *current)
{
	struct thread_info *info = &current->thread_info;
	struct thread_info___x86 *x86 = (void *)info;
	bool untyped = !current_is_pointer();

	if (bpf_core_field_exists(struct thread_info___x86, status))
		return READ_IF(untyped, x86, status) & TS_COMPAT;
	return READ_IF(untyped, info, flags) >> TIF_32BIT & 1;
}

/*
 * A socket's cgroup in the v2 hierarchy. Until 5.15 (8520e224f547, "bpf, cgroups: Fix
 * cgroup v2 fallback on v1/v2 mixed mode") the field held either the cgroup, or the
 * marks of net_cls and net_prio with bit 0 set; bit 1 (5.8) marks the root. Such sockets
 * are charged to the root, whose id is 1.
 */
static __always_inline __u64 socket_cgroup_id(struct sock *sk)
{
	struct sock_cgroup_data___before_5_15 *data = (void *)&sk->sk_cgrp_data;
	__u64 tagged;

	if (bpf_core_field_exists(sk->sk_cgrp_data.cgroup))
		return READ(sk, sk_cgrp_data.cgroup, kn, id);
	tagged = READ(data, val);
	if (!tagged || tagged & 3)
		return 1;
	return BPF_CORE_READ((struct cgroup *)tagged, kn, id);
}

/* The cgroup itself, NULL if it is the root. Slower: only where it is rarely needed. */
static __always_inline struct cgroup *socket_cgroup(struct sock *sk)
{
	struct sock_cgroup_data___before_5_15 *data = (void *)&sk->sk_cgrp_data;
	__u64 tagged;

	if (bpf_core_field_exists(sk->sk_cgrp_data.cgroup))
		return BPF_CORE_READ(sk, sk_cgrp_data.cgroup);
	tagged = BPF_CORE_READ(data, val);
	return tagged & 3 ? NULL : (struct cgroup *)tagged;
}

/*
 * oom/mark_victim passes the victim's task since about 6.8 (72ba14deb40a, "mm: Update
 * mark_victim tracepoints fields"), and only its PID before. On older kernels the victim's
 * exit is used instead. Until 6.16 sched_process_exit runs after exit_mm(), which waits
 * for the killer; since then it runs first, and may not see the mark.
 */
static __always_inline bool mark_victim_has_task(void)
{
	return bpf_core_field_exists(struct trace_event_raw_mark_victim, uid);
}

/*
 * The socket of an open file, NULL if the file is no socket. bpf_sock_from_file() exists
 * since 5.11 (4f19cab76136, "bpf: Add a bpf_sock_from_file helper"). Before, a socket is
 * identified by sockfs' magic, and is an untyped scalar to the verifier.
 */
#define SOCKFS_MAGIC 0x534F434B

static __always_inline struct sock *socket_of_file(struct file *file)
{
	struct socket *socket;

	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_sock_from_file)) {
		socket = bpf_sock_from_file(file);
		return socket ? socket->sk : NULL;
	}
	if (BPF_CORE_READ(file, f_inode, i_sb, s_magic) != SOCKFS_MAGIC)
		return NULL;
	socket = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(socket, sk);
}

/* The test of bpf_skc_to_tcp_sock(), for kernels on which that helper takes no scalar. */
static __always_inline bool is_tcp(struct sock *sk)
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	return (family == AF_INET || family == AF_INET6) &&
	       BPF_CORE_READ(sk, sk_type) == SOCK_STREAM &&
	       BPF_CORE_READ(sk, sk_protocol) == IPPROTO_TCP;
}

/* A full socket as a TCP socket, NULL if it is of another protocol. */
static __always_inline struct tcp_sock *tcp_of(struct sock *sk)
{
	if (!kpod_untyped)
		return bpf_skc_to_tcp_sock(sk);
	return is_tcp(sk) ? (struct tcp_sock *)sk : NULL;
}

#endif
