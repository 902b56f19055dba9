// SPDX-License-Identifier: Apache-2.0
/* Burns CPU time on CPU argv[1] until it is killed; with argv[2], sleeps that many microseconds
 * after each of as long. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000LL + at.tv_nsec / 1000;
}

int main(int argc, char **argv)
{
	cpu_set_t set;
	long pause = argc > 2 ? atol(argv[2]) : 0;

	CPU_ZERO(&set);
	CPU_SET(atoi(argv[1]), &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		return 1;
	raise(SIGSTOP);
	for (;;) {
		long long end = now() + (pause ? pause : 1000);

		while (now() < end)
			;
		if (pause)
			usleep(pause);
	}
}
