// SPDX-License-Identifier: Apache-2.0
/*
 * Many cgroups with a process each that sleeps: below directory argv[1], argv[2] of them named
 * "prefix"NUMBER, where argv[3] is the prefix. Says "ready", and ends with all of them when its
 * input ends; the directories stay.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

int main(int argc, char **argv)
{
	char path[4096];
	int count, i;

	if (argc != 4)
		return 2;
	count = atoi(argv[2]);
	for (i = 0; i < count; i++) {
		int fd, pid;

		snprintf(path, sizeof(path), "%s/%s%d", argv[1], argv[3], i);
		if (mkdir(path, 0755))
			fail(path);
		strcat(path, "/cgroup.procs");
		fd = open(path, O_WRONLY);
		if (fd < 0)
			fail(path);
		pid = fork();
		if (pid < 0)
			fail("fork");
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (write(fd, "0", 1) != 1)
				fail("move");
			close(fd);
			for (;;)
				pause();
		}
		close(fd);
	}
	puts("ready");
	fflush(stdout);
	while (read(0, path, sizeof(path)) > 0)
		;
	signal(SIGTERM, SIG_IGN);
	kill(0, SIGTERM);
	while (wait(NULL) > 0)
		;
	return 0;
}
