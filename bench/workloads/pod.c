// SPDX-License-Identifier: Apache-2.0
/* The only process of a container: sleeps, and makes three small system calls ten times a second.
 * "own" gives it its own mount and network namespaces, with an eth0 where /dev/net/tun
 * allows. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	const struct timespec pause = {.tv_nsec = 100 * 1000 * 1000};
	struct ifreq eth0 = {.ifr_name = "eth0", .ifr_flags = IFF_TAP | IFF_NO_PI};

	if (argc > 1 && !strcmp(argv[1], "own")) {
		if (unshare(CLONE_NEWNS | CLONE_NEWNET)) {
			perror("unshare");
			return 1;
		}
		ioctl(open("/dev/net/tun", O_RDWR | O_CLOEXEC), TUNSETIFF, &eth0);
	}
	puts("ready");
	fflush(stdout);
	for (;;) {
		nanosleep(&pause, NULL);
		syscall(SYS_read, -1, NULL, 0);
		syscall(SYS_write, -1, NULL, 0);
		syscall(SYS_fsync, -1);
	}
}
