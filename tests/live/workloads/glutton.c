// SPDX-License-Identifier: Apache-2.0
/*
 * Touches memory until it is killed; with "thread", from a second thread while the first is gone;
 * with a number, that many MiB, after a first stop, and stops again; in its next phase it touches
 * them all once more.
 */
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#define BITE (1 << 20)

static volatile char *bite(void)
{
	return mmap(NULL, BITE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void touch(volatile char *at)
{
	for (int offset = 0; at != MAP_FAILED && offset < BITE; offset += 4096)
		at[offset]++;
}

static void *eat(void *unused)
{
	for (;;)
		touch(bite());
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	/* The kernel would join pages into huge ones later, and charge the holes between them. */
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	if (argc > 1 && !strcmp(argv[1], "thread")) {
		if (pthread_create(&thread, NULL, eat, NULL))
			return 1;
		pthread_exit(NULL);
	}
	if (argc > 1) {
		int bites = atoi(argv[1]);
		volatile char **eaten = calloc(bites, sizeof(*eaten));

		if (!eaten)
			return 1;
		for (;;) {
			raise(SIGSTOP);
			for (int at = 0; at < bites; at++) {
				if (!eaten[at])
					eaten[at] = bite();
				touch(eaten[at]);
			}
		}
	}
	eat(NULL);
}
