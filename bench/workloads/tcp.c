// SPDX-License-Identifier: Apache-2.0
/* TCP over loopback with a child as the other end, in rounds of argv[2]: "rr" exchanges 64 bytes
 * there and back, "stream" sends 64 KiB one way. Prints the nanoseconds of a round. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char buffer[1 << 16];

static double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1e9 + at.tv_nsec;
}

static void must(int ok)
{
	if (!ok) {
		perror("tcp");
		_exit(1);
	}
}

static void take(int fd, size_t bytes)
{
	while (bytes) {
		ssize_t got = read(fd, buffer, bytes);

		must(got > 0);
		bytes -= got;
	}
}

static void give(int fd, size_t bytes)
{
	while (bytes) {
		ssize_t put = write(fd, buffer, bytes);

		must(put > 0);
		bytes -= put;
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t length = sizeof(address);
	int listener, fd, one = 1, status, exchange;
	size_t bytes;
	double start;
	long rounds;

	if (argc < 3)
		return 2;
	exchange = !strcmp(argv[1], "rr");
	rounds = atol(argv[2]);
	bytes = exchange ? 64 : sizeof(buffer);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	must(!bind(listener, (struct sockaddr *)&address, length) && !listen(listener, 1));
	must(!getsockname(listener, (struct sockaddr *)&address, &length));
	if (!fork()) {
		fd = accept(listener, NULL, NULL);
		must(fd >= 0);
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		for (long i = 0; i < rounds; i++) {
			take(fd, bytes);
			if (exchange)
				give(fd, bytes);
		}
		give(fd, 1);
		_exit(0);
	}
	fd = socket(AF_INET, SOCK_STREAM, 0);
	must(!connect(fd, (struct sockaddr *)&address, length));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	start = now();
	for (long i = 0; i < rounds; i++) {
		give(fd, bytes);
		if (exchange)
			take(fd, bytes);
	}
	take(fd, 1);
	printf("%.3f\n", (now() - start) / rounds);
	close(fd);
	wait(&status);
	return status != 0;
}
