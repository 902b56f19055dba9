// SPDX-License-Identifier: Apache-2.0
/* Makes exactly argv[2] failing read() calls on CPU argv[1], as fast as it can. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	cpu_set_t set;
	long calls = argc > 2 ? atol(argv[2]) : 0;

	CPU_ZERO(&set);
	CPU_SET(atoi(argv[1]), &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		return 1;
	raise(SIGSTOP);
	while (calls--)
		syscall(SYS_read, -1, NULL, 0);
	raise(SIGSTOP);
	return 0;
}
