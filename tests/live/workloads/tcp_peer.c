// SPDX-License-Identifier: Apache-2.0
/*
 * One end of TCP connections with a known number of bytes.
 *
 * tcp_peer server|client ADDRESS PORT CONNECTIONS SEND RECEIVE ROUNDS HOW END EXTRA
 *
 * All connections are made first; the server prints its port before. In each round
 * a client sends SEND bytes and then receives RECEIVE, a server the other way
 * round, on one connection after the other, by HOW: write, send, sendmsg, sendfile
 * or splice. A round ends when all is acknowledged: prints the sums of
 * tcpi_total_retrans and tcpi_data_segs_out and stops itself. After the last one, by END:
 * close: the client closes, the server reads to the end and closes.
 * half:  the client shuts its side down, the server sends EXTRA bytes more, and
 *        the client reads to the end.
 * reset: the client sends EXTRA bytes more and, once they are acknowledged, resets
 *        the connection; the server reads none of them.
 *
 * tcp_peer refused|silent ADDRESS PORT COUNT: connects that fail, one by one:
 * no server, or (after a few SYNs) no answer; prints as above, then stops.
 *
 * tcp_peer again ADDRESS PORT SEND: sends SEND bytes, takes the same socket off
 * that connection, makes another with it, sends a third of SEND, prints a line
 * as above for each of them, and stops.
 *
 * tcp_peer self ADDRESS 0 SEND: a socket connects to itself, as both ends at once,
 * sends itself SEND bytes, prints as above, and stops.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST 64
#define CHUNK 60000

static char buffer[CHUNK];

static long check(long result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
	return result;
}

/* Bytes that sendfile and splice can take from. */
static int source(void)
{
	static int fd = -1;

	if (fd < 0) {
		fd = check(memfd_create("source", 0), "memfd");
		check(ftruncate(fd, CHUNK), "ftruncate");
	}
	return fd;
}

static int *channel(void)
{
	static int ends[2];

	if (!ends[1])
		check(pipe(ends), "pipe");
	return ends;
}

static ssize_t put_some(int fd, const char *how, size_t size)
{
	struct iovec parts[2] = {{buffer, size / 3}, {buffer, size - size / 3}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
	loff_t at = 0;
	ssize_t piped, done;

	if (!strcmp(how, "write"))
		return write(fd, buffer, size);
	if (!strcmp(how, "send"))
		return send(fd, buffer, size, 0);
	if (!strcmp(how, "sendmsg"))
		return sendmsg(fd, &message, 0);
	if (!strcmp(how, "sendfile")) {
		off_t from = 0;

		return sendfile(fd, source(), &from, size);
	}
	piped = check(splice(source(), &at, channel()[1], NULL, size, 0), "splice");
	for (ssize_t left = piped; left; left -= done)
		done = check(splice(channel()[0], NULL, fd, NULL, left, 0), "splice");
	return piped;
}

static ssize_t get_some(int fd, const char *how, size_t size)
{
	struct iovec part = {buffer, size};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	static int nowhere;
	ssize_t piped, done;

	if (!strcmp(how, "send"))
		return recv(fd, buffer, size, 0);
	if (!strcmp(how, "sendmsg"))
		return recvmsg(fd, &message, 0);
	if (strcmp(how, "splice"))
		return read(fd, buffer, size);
	if (!nowhere)
		nowhere = check(open("/dev/null", O_WRONLY), "/dev/null");
	piped = check(splice(fd, NULL, channel()[1], NULL, size, 0), "splice");
	for (ssize_t left = piped; left; left -= done)
		done = check(splice(channel()[0], NULL, nowhere, NULL, left, 0), "splice");
	return piped;
}

static void put(int fd, const char *how, long bytes)
{
	while (bytes > 0)
		bytes -= check(put_some(fd, how, bytes < CHUNK ? bytes : CHUNK), "put");
}

static void get(int fd, const char *how, long bytes)
{
	while (bytes > 0) {
		ssize_t size = check(get_some(fd, how, bytes < CHUNK ? bytes : CHUNK), "get");

		if (!size) {
			fputs("the peer closed early\n", stderr);
			exit(1);
		}
		bytes -= size;
	}
}

static void wait_until_acknowledged(int fd)
{
	int left;

	while (!check(ioctl(fd, SIOCOUTQ, &left), "SIOCOUTQ") && left)
		usleep(500);
}

struct totals {
	unsigned retransmits, segments;
};

static void add(struct totals *totals, int fd)
{
	struct tcp_info info = {};
	socklen_t size = sizeof(info);

	check(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size), "TCP_INFO");
	totals->retransmits += info.tcpi_total_retrans;
	totals->segments += info.tcpi_data_segs_out;
}

static void print(const struct totals *totals)
{
	printf("%u %u\n", totals->retransmits, totals->segments);
	fflush(stdout);
}

static void phase_over(const struct totals *totals)
{
	print(totals);
	raise(SIGSTOP);
}

static void fail_to_connect(struct sockaddr_in *address, int count, int syn_retries, int expected)
{
	struct totals totals = {};

	while (count--) {
		struct pollfd over = {.events = POLLOUT};
		socklen_t size = sizeof(int);
		int error;

		over.fd = check(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), "socket");
		check(setsockopt(over.fd, IPPROTO_TCP, TCP_SYNCNT, &syn_retries, size),
		      "TCP_SYNCNT");
		if (!connect(over.fd, (struct sockaddr *)address, sizeof(*address)))
			exit(1);
		check(poll(&over, 1, -1), "poll");
		add(&totals, over.fd); /* asking for the error forgets them */
		check(getsockopt(over.fd, SOL_SOCKET, SO_ERROR, &error, &size), "SO_ERROR");
		if (error != expected) {
			fprintf(stderr, "connect: %s\n", strerror(error));
			exit(1);
		}
		close(over.fd);
	}
	phase_over(&totals);
}

static void connect_again(struct sockaddr_in *address, long bytes)
{
	struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
	int fd = check(socket(AF_INET, SOCK_STREAM, 0), "socket");
	struct totals first = {}, second = {};

	check(connect(fd, (struct sockaddr *)address, sizeof(*address)), "connect");
	put(fd, "write", bytes);
	wait_until_acknowledged(fd);
	add(&first, fd);
	check(connect(fd, &nowhere, sizeof(nowhere)), "disconnect");
	check(connect(fd, (struct sockaddr *)address, sizeof(*address)), "connect again");
	put(fd, "write", bytes / 3);
	wait_until_acknowledged(fd);
	add(&second, fd);
	print(&first);
	phase_over(&second);
}

static void connect_to_self(struct sockaddr_in *address, long bytes)
{
	socklen_t size = sizeof(*address);
	int fd = check(socket(AF_INET, SOCK_STREAM, 0), "socket");
	struct totals totals = {};

	check(bind(fd, (struct sockaddr *)address, size), "bind");
	check(getsockname(fd, (struct sockaddr *)address, &size), "getsockname");
	check(connect(fd, (struct sockaddr *)address, size), "connect");
	put(fd, "write", bytes);
	get(fd, "write", bytes);
	add(&totals, fd);
	phase_over(&totals);
}

static void make_connections(struct sockaddr_in *address, int server, int *fds, int count)
{
	socklen_t size = sizeof(*address);
	int listener = -1;

	if (server) {
		listener = check(socket(AF_INET, SOCK_STREAM, 0), "socket");
		check(bind(listener, (struct sockaddr *)address, size), "bind");
		check(listen(listener, MOST), "listen");
		check(getsockname(listener, (struct sockaddr *)address, &size), "getsockname");
		printf("%d\n", ntohs(address->sin_port));
		fflush(stdout);
	}
	for (int i = 0; i < count; i++) {
		if (server) {
			fds[i] = check(accept(listener, NULL, NULL), "accept");
			continue;
		}
		fds[i] = check(socket(AF_INET, SOCK_STREAM, 0), "socket");
		check(connect(fds[i], (struct sockaddr *)address, size), "connect");
	}
	if (server)
		close(listener);
}

static void end(int fd, int server, const char *how, long extra)
{
	struct linger at_once = {.l_onoff = 1};
	struct pollfd reset = {.fd = fd};

	if (!strcmp(how, "half")) {
		if (!server)
			check(shutdown(fd, SHUT_WR), "shutdown");
		if (!server)
			get(fd, "write", extra);
		while (check(read(fd, buffer, CHUNK), "read"))
			;
		if (server)
			put(fd, "write", extra);
	} else if (!strcmp(how, "reset")) {
		if (server) {
			while (!(reset.revents & POLLERR))
				check(poll(&reset, 1, -1), "poll");
		} else {
			put(fd, "write", extra);
			wait_until_acknowledged(fd);
			setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
		}
	} else if (server) {
		while (check(read(fd, buffer, CHUNK), "read"))
			;
	}
	close(fd);
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	struct sched_param first_of_all = {.sched_priority = 1};
	int fds[MOST], count, server;

	if (argc < 5)
		return 2;
	inet_pton(AF_INET, argv[2], &address.sin_addr);
	address.sin_port = htons(atoi(argv[3]));
	count = atoi(argv[4]);
	if (!strcmp(argv[1], "refused"))
		fail_to_connect(&address, count, 1, ECONNREFUSED);
	if (!strcmp(argv[1], "silent"))
		fail_to_connect(&address, count, 1, ETIMEDOUT);
	if (!strcmp(argv[1], "self"))
		connect_to_self(&address, atol(argv[4]));
	if (!strcmp(argv[1], "again"))
		connect_again(&address, atol(argv[4]));
	if (argc != 11 || count > MOST)
		return 0;
	server = !strcmp(argv[1], "server");
	sched_setscheduler(0, SCHED_FIFO, &first_of_all); /* a late answer is a longer round trip */
	make_connections(&address, server, fds, count);
	for (int round = atoi(argv[7]); round; round--) {
		struct totals totals = {};

		for (int i = 0; i < count; i++) {
			if (server)
				get(fds[i], argv[8], atol(argv[6]));
			put(fds[i], argv[8], atol(argv[5]));
			if (!server)
				get(fds[i], argv[8], atol(argv[6]));
		}
		for (int i = 0; i < count; i++) {
			wait_until_acknowledged(fds[i]);
			add(&totals, fds[i]);
		}
		phase_over(&totals);
	}
	for (int i = 0; i < count; i++)
		end(fds[i], server, argv[9], atol(argv[10]));
}
