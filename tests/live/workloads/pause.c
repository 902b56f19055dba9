// SPDX-License-Identifier: Apache-2.0
/*
 * The first process of a container: sleeps for ever, as a pod's sandbox does; with arguments it
 * runs them as a child and ends with it. In its own PID namespace the first process cannot
 * stop itself, its child can.
 */
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int status = 0;

	if (argc == 1)
		for (;;)
			pause();
	switch (fork()) {
	case -1:
		return 1;
	case 0:
		execv(argv[1], argv + 1);
		_exit(127);
	}
	while (wait(&status) < 0)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
