// SPDX-License-Identifier: Apache-2.0
/* Faults argv[2] pages of the file argv[1] from disk, stops, and again; prints its rusage's major
 * faults each time. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	long pages = atol(argv[argc - 1]), size = sysconf(_SC_PAGESIZE);
	int file = open(argv[1], O_RDONLY);

	if (file < 0)
		return 1;
	raise(SIGSTOP);
	for (;;) {
		struct rusage before, after;
		volatile char *at;
		long sum = 0;

		/* Out of the page cache first, and no read-ahead: each page is one fault.
		 */
		posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
		at = mmap(NULL, pages * size, PROT_READ, MAP_PRIVATE, file, 0);
		if (at == MAP_FAILED || madvise((void *)at, pages * size, MADV_RANDOM))
			return 1;
		getrusage(RUSAGE_SELF, &before);
		for (long page = 0; page < pages; page++)
			sum += at[page * size];
		getrusage(RUSAGE_SELF, &after);
		munmap((void *)at, pages * size);
		printf("%ld\n", after.ru_majflt - before.ru_majflt + 0 * sum);
		fflush(stdout);
		raise(SIGSTOP);
	}
}
