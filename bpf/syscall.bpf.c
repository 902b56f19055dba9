// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Tracked syscalls of each cgroup: their number, their errors and their latency.
 *
 * Every syscall of the machine runs both programs, so an untracked one must be very
 * cheap: one lookup in a table, by number, at each end. The start time of a tracked
 * syscall is in its task's state, since the task may sleep and wake on another CPU.
 *
 * Not counted, because a program runs at one end only: syscalls that never return (exit,
 * sigreturn), syscalls that began before the programs were attached, a fork as the child
 * sees it, and syscalls that seccomp refused.
 */
#include "metric_map.bpf.h"
#include "state.bpf.h"

/* Packed: the kernel hashes three words in one round, four in two. */
struct syscall_key {
	__u64 cgroup_id;
	__u32 syscall; /* index in the list of tracked names, from 0 */
} __attribute__((packed, aligned(4)));

struct syscall_value {
	__u64 created_ns;
	__u64 errors;
	struct histogram latency;
};

KPOD_METRIC_MAP(syscall, struct syscall_key, struct syscall_value)

/*
 * By number: the index of the tracked syscall plus 1, or 0 if it is untracked. The low byte
 * is for native calls, the high byte for calls of 32-bit processes, whose numbers mean other
 * syscalls. The agent fills both tables before load. They differ in execve: see ANY_BEGUN.
 */
#define SYSCALL_NUMBERS 512
const volatile __u16 begins[SYSCALL_NUMBERS];
const volatile __u16 ends[SYSCALL_NUMBERS];

/*
 * On x86 an execveat that succeeds ends with the number of execve, in the new
 * image's mode (arch/x86/kernel/process_64.c, set_personality_64bit): under that number
 * any syscall may end.
 */
#define ANY_BEGUN 255

/* The tracked syscall that a task is in, as in `begins`; 0 is none. */
struct begun {
	__u64 start_ns;
	__u32 syscall;
	__u32 unused;
};

KPOD_STATE(task, task_syscall, struct begun)

/* The entry of a number in one of the tables. `current` is set if any syscall of it is tracked. */
static __always_inline __u32 entry_of(const volatile __u16 *table, unsigned long number,
				      struct task_struct **current)
{
	__u16 pair;

	if (number >= SYSCALL_NUMBERS)
		return 0;
	pair = table[number];
	if (!pair)
		return 0;
	*current = current_task();
	return in_compat_syscall(*current) ? pair >> 8 : pair & 0xff;
}

static __always_inline int call_begins(unsigned long number)
{
	struct task_struct *task = NULL;
	__u32 index = entry_of(begins, number, &task);
	struct begun *begun;

	if (!index)
		return 0;
	begun = task_syscall_of(task, &(struct begun){});
	if (!begun)
		return 0;
	begun->syscall = index;
	begun->start_ns = bpf_ktime_get_ns();
	return 0;
}

/*
 * A call that a signal interrupts ends with an internal code of the kernel, which no
 * process sees (include/linux/errno.h): -ERESTARTSYS, NOINTR, NOHAND or RESTARTBLOCK. The
 * kernel decides later whether it restarts the call or returns EINTR, because a handler
 * ran. Such an end is no error here, and a restarted call counts again.
 */
static __always_inline bool is_error(long ret)
{
	switch (-ret) {
	case 512:
	case 513:
	case 514:
	case 516:
		return false;
	default:
		return ret < 0 && ret >= -4095;
	}
}

static __always_inline int call_ends(struct pt_regs *regs, long ret)
{
	struct task_struct *task = NULL;
	__u32 index = entry_of(ends, syscall_number(regs), &task);
	struct syscall_key key;
	struct syscall_value *value;
	struct begun *begun;
	__u64 now;

	if (!index)
		return 0;
	now = bpf_ktime_get_ns();
	begun = task_syscall_get(task);
	if (!begun || !begun->syscall)
		return 0;
	if (index != begun->syscall && index != ANY_BEGUN)
		return 0;
	key.cgroup_id = current_cgroup_id(task);
	key.syscall = begun->syscall - 1;
	begun->syscall = 0;
	value = KPOD_ENTRY(syscall, &key, task_cgroup(task));
	if (!value)
		return 0;
	if (is_error(ret))
		__sync_fetch_and_add(&value->errors, 1);
	histogram_observe(&value->latency, now - begun->start_ns);
	return 0;
}

/*
 * Since 7.2 ("bpf: Add sleepable support for raw tracepoint programs") a task may be
 * preempted inside a program here. Until it continues, calls of other tasks do not run
 * that program on that CPU: the kernel takes them for recursion and skips the program. So
 * the agent attaches all copies there, and only the first one on other kernels. Every copy
 * that runs at a call's entry stores the start, and the first copy that runs at its end
 * counts the call. A call is lost only if other tasks of the CPU are inside all copies.
 */
#define KPOD_SYSCALL_HOOKS(copy)                                                       \
	SEC("raw_tp/sys_enter")                                                        \
	KPOD_IS("copy", syscall_begins)                                                \
	int BPF_PROG(syscall_begins##copy, struct pt_regs *regs, unsigned long number) \
	{                                                                              \
		return call_begins(number);                                            \
	}                                                                              \
                                                                                       \
	SEC("raw_tp/sys_exit")                                                         \
	KPOD_IS("copy", syscall_ends)                                                  \
	int BPF_PROG(syscall_ends##copy, struct pt_regs *regs, long ret)               \
	{                                                                              \
		return call_ends(regs, ret);                                           \
	}

KPOD_SYSCALL_HOOKS()
KPOD_SYSCALL_HOOKS(_2)
KPOD_SYSCALL_HOOKS(_3)
KPOD_SYSCALL_HOOKS(_4)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
