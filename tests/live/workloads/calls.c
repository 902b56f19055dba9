// SPDX-License-Identifier: Apache-2.0
/* calls N PROCS: goes into the cgroup whose cgroup.procs that is, makes N times a syscall that no C
 * library makes by itself (ioprio_get of nobody), and ends. It goes by itself because a large
 * parent takes long to fork with code of its own to run in the child, and is quick to start a
 * program.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef CALL
#define CALL SYS_ioprio_get
#endif

int main(int argc, char **argv)
{
	int procs = argc > 2 ? open(argv[2], O_WRONLY) : -1;

	if (write(procs, "0", 1) != 1)
		return 1;
	for (long n = atol(argv[1]); n > 0; n--)
		syscall(CALL, -1, -1);
	return 0;
}
