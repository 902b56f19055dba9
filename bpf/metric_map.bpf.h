/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Maps of running totals, by cgroup. */
#ifndef KPOD_METRIC_MAP_BPF_H
#define KPOD_METRIC_MAP_BPF_H

#include "kpod.bpf.h"
#include "containers.bpf.h"

/*
 * A metric map: an LRU hash of cumulative values. The first field of a key is the cgroup's
 * id. Every value begins with created_ns, the time at which its entry was created: if it
 * differs from the last read, the kernel evicted the entry in between and created another
 * one. created_ns is 0 while an entry is being created: readers skip it until the next
 * read. Births are counted: entries that are neither in the map nor deleted by the agent
 * were evicted. The agent sets max_entries before it loads the object.
 */
#define KPOD_METRIC_MAP(name, key_type, value_type)                                       \
	struct {                                                                          \
		__uint(type, BPF_MAP_TYPE_LRU_HASH);                                      \
		__uint(max_entries, 10240);                                               \
		__type(key, key_type);                                                    \
		__type(value, value_type);                                                \
	} name SEC(".maps");                                                              \
	KPOD_COUNTS(name)                                                                 \
	static const value_type name##_zero;                                              \
	static __always_inline value_type *name##_get(key_type *key)                      \
	{                                                                                 \
		return bpf_map_lookup_elem(&name, key);                                   \
	}                                                                                 \
	static __noinline value_type *name##_create(key_type *key, struct cgroup *cgroup) \
	{                                                                                 \
		value_type *value;                                                        \
		__u64 container;                                                          \
		long err;                                                                 \
                                                                                          \
		if (!key)                                                                 \
			return 0;                                                         \
		container = container_id(cgroup, key->cgroup_id);                         \
		if (container != key->cgroup_id) {                                        \
			key->cgroup_id = container;                                       \
			value = bpf_map_lookup_elem(&name, key);                          \
			if (value)                                                        \
				return value;                                             \
		}                                                                         \
		err = bpf_map_update_elem(&name, key, &name##_zero, BPF_NOEXIST);         \
		if (!err)                                                                 \
			name##_born();                                                    \
		value = bpf_map_lookup_elem(&name, key);                                  \
		if (!value)                                                               \
			name##_failed();                                                  \
		else if (!err)                                                            \
			value->created_ns = bpf_ktime_get_ns();                           \
		return value;                                                             \
	}

/*
 * The entry of a key or, if there is none, that of the container that the cgroup is in,
 * which is created if there is none either. NULL if the map has no room, which is counted.
 * `cgroup` is evaluated only if the key has no entry. It is NULL, or the cgroup of the id
 * in the key.
 */
#define KPOD_ENTRY(name, key, cgroup) (name##_get(key) ?: name##_create(key, cgroup))

#endif
