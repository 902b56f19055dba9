// SPDX-License-Identifier: Apache-2.0
/* Makes a system call argv[2] times, without the C library: "read" of descriptor -1, or "getppid".
 * Prints the nanoseconds of one. "paced" makes that many reads evenly over argv[3] seconds, or as
 * fast as it can, and prints the seconds that they took. "numbers" prints the numbers of the ten
 * calls that are tracked by default. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_epoll_wait
#define SYS_epoll_wait SYS_epoll_pwait
#endif

static const long tracked[] = {SYS_read,    SYS_write,  SYS_openat,   SYS_fsync,      SYS_connect,
			       SYS_accept4, SYS_sendto, SYS_recvfrom, SYS_epoll_wait, SYS_futex};

static double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1e9 + at.tv_nsec;
}

int main(int argc, char **argv)
{
	long count = argc > 2 ? atol(argv[2]) : 0;
	double start;

	if (argc < 2)
		return 2;
	if (!strcmp(argv[1], "numbers")) {
		for (unsigned int i = 0; i < sizeof(tracked) / sizeof(*tracked); i++)
			printf("%ld\n", tracked[i]);
		return 0;
	}
	start = now();
	if (!strcmp(argv[1], "paced")) {
		double length = argc > 3 ? atof(argv[3]) * 1e9 : 1e9;
		const struct timespec pause = {.tv_nsec = 1000 * 1000};

		for (long made = 0; made < count; nanosleep(&pause, NULL)) {
			long due = (now() - start) / length * count;

			for (; made < due && made < count; made++)
				syscall(SYS_read, -1, NULL, 0);
		}
		printf("%.6f\n", (now() - start) / 1e9);
		return 0;
	}
	if (!strcmp(argv[1], "read"))
		for (long i = 0; i < count; i++)
			syscall(SYS_read, -1, NULL, 0);
	else
		for (long i = 0; i < count; i++)
			syscall(SYS_getppid);
	printf("%.3f\n", (now() - start) / count);
	return 0;
}
