/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * State that a program keeps for each task, socket or block request.
 *
 * KPOD_STATE(KIND, NAME, TYPE) declares it; KIND is task, socket or request. Then
 *
 * NAME_get(object) returns the state, NULL if there is none;
 * NAME_of(object, &first) returns it too, and creates it with the value `first` if there
 * is none: NULL if there is no room, which is counted. It may allocate: do not call it
 * with a run queue locked;
 * NAME_drop(object) deletes the state, if the kernel does not free it with the object.
 *
 * It is in the kernel's own storage, at the task or the socket, if tracing programs may
 * use that: SK_STORAGE since 5.11 (8e4597c627fb, "bpf: Allow using bpf_sk_storage in
 * FENTRY/FEXIT/RAW_TP"), TASK_STORAGE since 5.13 (a10787e6d58c, "bpf: Enable task local
 * storage for tracing programs"). Otherwise the agent sets kpod_no_KIND_storage, and
 * the state is in a hash by the object's address, which unlike a PID belongs to one
 * object until it is freed. The agent creates one of the two maps. The hash does not
 * evict: an update fails if it is full, which is counted. A request has no storage.
 */
#ifndef KPOD_STATE_BPF_H
#define KPOD_STATE_BPF_H

#include "compat.bpf.h"

const volatile bool kpod_no_task_storage = false;
const volatile bool kpod_no_socket_storage = false;

#define KPOD_STATE(kind, name, value_type) KPOD_STATE_OF_##kind(name, value_type)

#define KPOD_STATE_OF_task(name, value_type)                                  \
	KPOD_STORAGE(BPF_MAP_TYPE_TASK_STORAGE, name, value_type)             \
	KPOD_TASK_TABLE(name, value_type)                                     \
	KPOD_STATE_CALLS(struct task_struct, name, value_type, KPOD_IN_TABLE, \
			 kpod_no_task_storage, bpf_task_storage_get)          \
	KPOD_TASK_PROGRAMS(name, value_type)

#define KPOD_STATE_OF_socket(name, value_type)                                                \
	KPOD_STORAGE(BPF_MAP_TYPE_SK_STORAGE, name, value_type)                               \
	KPOD_STATE_CALLS(struct sock, name, value_type, KPOD_NOWHERE, kpod_no_socket_storage, \
			 bpf_sk_storage_get)

struct request;

#define KPOD_STATE_OF_request(name, value_type) \
	KPOD_STATE_CALLS(struct request, name, value_type, KPOD_NOWHERE, true, KPOD_NOWHERE)

#define KPOD_NOWHERE(...) NULL

#define KPOD_STORAGE(map_type, name, value_type)      \
	struct {                                      \
		__uint(type, map_type);               \
		__uint(map_flags, BPF_F_NO_PREALLOC); \
		__type(key, int);                     \
		__type(value, value_type);            \
	} name SEC(".maps");

/* `early` returns the state or NULL; then `storage_get` is called, unless `no_storage`. */
#define KPOD_STATE_CALLS(object_type, name, value_type, early, no_storage, storage_get)      \
	struct {                                                                             \
		__uint(type, BPF_MAP_TYPE_HASH);                                             \
		__uint(max_entries, 262144);                                                 \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                        \
		__type(key, __u64);                                                          \
		__type(value, value_type);                                                   \
	} name##_by_address SEC(".maps") KPOD_IS("hash", name);                              \
	KPOD_COUNTS(name)                                                                    \
	static __always_inline value_type *name##_of(object_type *object, value_type *first) \
	{                                                                                    \
		__u64 address = (__u64)object;                                               \
		value_type *value = early(name, object);                                     \
                                                                                             \
		if (value)                                                                   \
			return value;                                                        \
		if (!no_storage) {                                                           \
			value = storage_get(&name, object, first,                            \
					    first ? BPF_LOCAL_STORAGE_GET_F_CREATE : 0);     \
			if (!value && first)                                                 \
				name##_failed();                                             \
			return value;                                                        \
		}                                                                            \
		value = bpf_map_lookup_elem(&name##_by_address, &address);                   \
		if (value || !first)                                                         \
			return value;                                                        \
		bpf_map_update_elem(&name##_by_address, &address, first, BPF_NOEXIST);       \
		value = bpf_map_lookup_elem(&name##_by_address, &address);                   \
		if (!value)                                                                  \
			name##_failed();                                                     \
		return value;                                                                \
	}                                                                                    \
	static __always_inline value_type *name##_get(object_type *object)                   \
	{                                                                                    \
		return name##_of(object, NULL);                                              \
	}                                                                                    \
	static __always_inline void name##_drop(object_type *object)                         \
	{                                                                                    \
		__u64 address = (__u64)object;                                               \
                                                                                             \
		if (no_storage)                                                              \
			bpf_map_delete_elem(&name##_by_address, &address);                   \
	}

/*
 * A read of a task's storage takes a call and three cache lines. So if programs see every
 * task from its creation, its state is in a table, at the place that its address gives, if
 * that is free: one cache line, no call. A state stays in the table or in the storage until
 * its task ends. Taking a place needs BPF_CMPXCHG (since 5.12; arm64: 5.18), which a
 * kernel without it refuses even in unreachable code: so separate programs do it, and the
 * agent clears kpod_task_table if it does not load them.
 */
const volatile bool kpod_task_table = true;

#define KPOD_TASK_PLACES 65536 /* 2^16 */

/* The verifier rejects casting a pointer to a scalar but allows pointer subtraction. */
static __always_inline __u64 task_number(struct task_struct *task)
{
	return (__u64)task - (__u64)&kpod_task_table;
}

static __always_inline __u32 task_place(__u64 number)
{
	return number * 0x9e3779b97f4a7c15ULL >> 48; /* 2^64 by the golden ratio */
}

#define KPOD_IN_TABLE(name, task) (kpod_task_table ? name##_in_table(task) : NULL)

#define KPOD_TASK_TABLE(name, value_type)                                             \
	struct name##_place {                                                         \
		__u64 owner; /* task_number(); 0: free */                             \
		value_type value;                                                     \
	};                                                                            \
	struct {                                                                      \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                     \
		__uint(max_entries, KPOD_TASK_PLACES);                                \
		__type(key, __u32);                                                   \
		__type(value, struct name##_place);                                   \
	} name##_table SEC(".maps") KPOD_IS("table", name);                           \
	static __always_inline value_type *name##_in_table(struct task_struct *task)  \
	{                                                                             \
		__u64 number = task_number(task);                                     \
		__u32 at = task_place(number);                                        \
		struct name##_place *place = bpf_map_lookup_elem(&name##_table, &at); \
                                                                                      \
		return place && place->owner == number ? &place->value : NULL;        \
	}                                                                             \
	static __always_inline void name##_take_place(struct task_struct *task)       \
	{                                                                             \
		__u64 number = task_number(task);                                     \
		__u32 at = task_place(number);                                        \
		struct name##_place *place = bpf_map_lookup_elem(&name##_table, &at); \
                                                                                      \
		if (place)                                                            \
			__sync_val_compare_and_swap(&place->owner, 0, number);        \
	}

#define KPOD_TASK_PROGRAMS(name, value_type)                                        \
	SEC("raw_tp/task_newtask")                                                  \
	KPOD_IS("table", name)                                                      \
	int BPF_PROG(name##_new, struct task_struct *task)                          \
	{                                                                           \
		name##_take_place(task);                                            \
		return 0;                                                           \
	}                                                                           \
	SEC("iter/task")                                                            \
	KPOD_IS("table", name)                                                      \
	int name##_existing(struct bpf_iter__task *ctx)                             \
	{                                                                           \
		struct task_struct *task = ctx->task;                               \
                                                                                    \
		if (task)                                                           \
			name##_take_place(task);                                    \
		return 0;                                                           \
	}                                                                           \
	/* For the table or the hash. */                                            \
	SEC("raw_tp/sched_process_free")                                            \
	KPOD_IS("end", name)                                                        \
	int BPF_PROG(name##_freed, struct task_struct *task)                        \
	{                                                                           \
		__u64 address = (__u64)task;                                        \
		value_type *value;                                                  \
                                                                                    \
		if (kpod_no_task_storage) {                                         \
			bpf_map_delete_elem(&name##_by_address, &address);          \
			return 0;                                                   \
		}                                                                   \
		value = name##_in_table(task);                                      \
		if (value) {                                                        \
			*value = (value_type){};                                    \
			container_of(value, struct name##_place, value)->owner = 0; \
		}                                                                   \
		return 0;                                                           \
	}

#endif
