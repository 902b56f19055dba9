// SPDX-License-Identifier: Apache-2.0
/*
 * headless [COMMAND]: a process whose main thread ends while another goes on. Runs COMMAND in a
 * shell before. The other thread does what lines say: prints "ready" once the main thread has
 * ended, then for each line "INTERFACE COUNT SIZE" sends so many frames of so many bytes and prints
 * "sent". "move FILE" writes the thread's own number to FILE and prints it, as for cgroup.threads.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void send_frames(const char *interface, int count, int size)
{
	static const unsigned char head[14] = "\xff\xff\xff\xff\xff\xff\2\2\2\2\2\2\x88\xb5";
	struct sockaddr_ll to = {.sll_family = AF_PACKET};
	char frame[1500] = {0};
	int fd = socket(AF_PACKET, SOCK_RAW, 0);

	memcpy(frame, head, sizeof(head));
	to.sll_ifindex = if_nametoindex(interface);
	if (fd < 0 || bind(fd, (struct sockaddr *)&to, sizeof(to)))
		fail(interface);
	while (count--)
		if (send(fd, frame, size, 0) != size)
			fail("send");
	close(fd);
}

static void *work(void *main_thread)
{
	char line[4096], name[4096];
	int count, size;

	pthread_join(*(pthread_t *)main_thread, NULL);
	puts("ready");
	while (fflush(stdout), fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "move %4095s", name) == 1) {
			FILE *file = fopen(name, "w");

			if (!file || fprintf(file, "%d", gettid()) < 0 || fclose(file))
				fail(name);
			printf("%d\n", gettid());
		} else if (sscanf(line, "%4095s %d %d", name, &count, &size) == 3 && size <= 1500) {
			send_frames(name, count, size);
			puts("sent");
		} else {
			exit(2);
		}
	}
	exit(0);
}

int main(int argc, char **argv)
{
	static pthread_t self;
	pthread_t other;

	if (argc > 1 && system(argv[1]))
		return 1;
	self = pthread_self();
	if (pthread_create(&other, NULL, work, &self))
		fail("pthread_create");
	pthread_exit(NULL);
}
