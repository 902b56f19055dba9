// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Context switches and run-queue latency, charged to the task that leaves the CPU.
 *
 * The kernel itself adds up the time that each task waits in the run queue, across
 * migrations, preemptions and throttling: sched_info.run_delay, as in
 * /proc/PID/schedstat. When a task leaves a CPU, the growth of run_delay since it last
 * left one is its wait before the run that ends now. So this needs one program, no
 * timestamp and no wakeup hook, and agrees with schedstat to the nanosecond. The kernel
 * counts the voluntary or involuntary switch for the same task, prev.
 */
#include "metric_map.bpf.h"
#include "state.bpf.h"

struct run_queue_key {
	__u64 cgroup_id;
};

struct run_queue_value {
	__u64 created_ns;
	__u64 untimed; /* switches of tasks without state: the waits are unknown */
	struct histogram wait;
};

KPOD_METRIC_MAP(run_queue, struct run_queue_key, struct run_queue_value)

struct delay {
	__u64 run_delay; /* when the task last left a CPU */
};

KPOD_STATE(task, task_delay, struct delay)

/*
 * The state is created with its task or, for tasks that exist when the agent starts, by an
 * iterator; never in sched_switch. That runs with the run queue locked, and an
 * allocation there may wake kswapd, which needs the same lock.
 */
static __always_inline void remember(struct task_struct *task, __u64 run_delay)
{
	struct delay first = {.run_delay = run_delay}, *last = task_delay_of(task, &first);

	if (last)
		last->run_delay = run_delay;
}

SEC("raw_tp/task_newtask")
int BPF_PROG(new_task, struct task_struct *task)
{
	remember(task, 0);
	return 0;
}

SEC("iter/task")
int existing_tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;

	if (task)
		remember(task, task->sched_info.run_delay);
	return 0;
}

SEC("raw_tp/sched_switch")
int BPF_PROG(task_leaves, bool preempt, struct task_struct *prev)
{
	struct run_queue_key key;
	struct run_queue_value *value;
	struct delay *last;
	__u64 run_delay, wait;

	if (!READ(prev, pid))
		return 0; /* the idle task */
	key.cgroup_id = task_cgroup_id(prev);
	value = KPOD_ENTRY(run_queue, &key, task_cgroup(prev));
	if (!value)
		return 0;
	last = task_delay_get(prev);
	if (!last) {
		__sync_fetch_and_add(&value->untimed, 1);
		return 0;
	}
	run_delay = READ(prev, sched_info.run_delay);
	wait = run_delay - last->run_delay;
	last->run_delay = run_delay;
	histogram_observe(&value->wait, wait);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
