// SPDX-License-Identifier: Apache-2.0
/* Counts what Python allocates: a library whose `watch` puts a counter before each of the
 * interpreter's allocators.
 *
 * struct allocator is PyMemAllocatorEx (Include/cpython/pymem.h, the same since 3.5), so that no
 * headers are needed.
 */
#include <stdatomic.h>
#include <stddef.h>

struct allocator {
	void *context;
	void *(*malloc)(void *context, size_t size);
	void *(*calloc)(void *context, size_t number, size_t size);
	void *(*realloc)(void *context, void *memory, size_t size);
	void (*free)(void *context, void *memory);
};

#define DOMAINS 3 /* PYMEM_DOMAIN_RAW, PYMEM_DOMAIN_MEM, PYMEM_DOMAIN_OBJ */

static struct allocator inner[DOMAINS];
static atomic_ulong count;

static void *counted_malloc(void *context, size_t size)
{
	struct allocator *own = context;

	atomic_fetch_add_explicit(&count, 1, memory_order_relaxed);
	return own->malloc(own->context, size);
}

static void *counted_calloc(void *context, size_t number, size_t size)
{
	struct allocator *own = context;

	atomic_fetch_add_explicit(&count, 1, memory_order_relaxed);
	return own->calloc(own->context, number, size);
}

static void *counted_realloc(void *context, void *memory, size_t size)
{
	struct allocator *own = context;

	atomic_fetch_add_explicit(&count, 1, memory_order_relaxed);
	return own->realloc(own->context, memory, size);
}

static void plain_free(void *context, void *memory)
{
	struct allocator *own = context;

	own->free(own->context, memory);
}

void watch(void (*get)(int domain, struct allocator *), void (*set)(int domain, struct allocator *))
{
	for (int domain = 0; domain < DOMAINS; domain++) {
		struct allocator outer = {
			&inner[domain], counted_malloc, counted_calloc, counted_realloc, plain_free,
		};

		get(domain, &inner[domain]);
		set(domain, &outer);
	}
}

unsigned long allocations(void)
{
	return atomic_load(&count);
}
