// SPDX-License-Identifier: Apache-2.0
/* calls N: N times a syscall that no C library makes by itself (ioprio_get of nobody), and the end.
 */
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	for (long n = argc > 1 ? atol(argv[1]) : 0; n > 0; n--)
		syscall(SYS_ioprio_get, -1, -1);
	return 0;
}
