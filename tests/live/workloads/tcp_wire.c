// SPDX-License-Identifier: Apache-2.0
/*
 * A network of its own with a wire that holds and loses packets. In a new network
 * namespace, 10.0.0.1 is the machine itself and the rest of 10.0.0.0/24 is reached
 * by a TUN device. What goes out there comes back with source and destination
 * swapped (the checksum stays right): a client that connects to 10.0.0.2 reaches a
 * server on 10.0.0.1, and both ends are on the wire. 10.0.0.99 answers nothing.
 *
 * tcp_wire DELAY_US DROP_EVERY SYNS SYN_ACKS: holds each packet that long, loses
 * every so manieth with data (0: none), and the first so many SYNs and SYN-ACKs.
 * Runs until it is killed, and prints a line once the network is up.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define HELD 4096
#define MTU 1500

static struct {
	long long due_ns;
	ssize_t size;
	unsigned char bytes[MTU];
} held[HELD];

static int drop_every, syns, syn_acks;

static long long now_ns(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static int check(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
	return result;
}

static void bring_up(struct ifreq *request)
{
	int control = check(socket(AF_INET, SOCK_DGRAM, 0), "socket");

	check(ioctl(control, SIOCGIFFLAGS, request), "SIOCGIFFLAGS");
	request->ifr_flags |= IFF_UP;
	check(ioctl(control, SIOCSIFFLAGS, request), "SIOCSIFFLAGS");
	close(control);
}

static void set_address(struct ifreq *request, unsigned long command, const char *address)
{
	struct sockaddr_in *to = (struct sockaddr_in *)&request->ifr_addr;
	int control = check(socket(AF_INET, SOCK_DGRAM, 0), "socket");

	memset(to, 0, sizeof(*to));
	to->sin_family = AF_INET;
	inet_pton(AF_INET, address, &to->sin_addr);
	check(ioctl(control, command, request), address);
	close(control);
}

static int make_network(void)
{
	struct ifreq lo = {.ifr_name = "lo"}, tun = {.ifr_name = "wire"};
	int fd;

	check(unshare(CLONE_NEWNET), "unshare");
	bring_up(&lo);
	fd = check(open("/dev/net/tun", O_RDWR | O_NONBLOCK), "/dev/net/tun");
	tun.ifr_flags = IFF_TUN | IFF_NO_PI;
	check(ioctl(fd, TUNSETIFF, &tun), "TUNSETIFF");
	set_address(&tun, SIOCSIFADDR, "10.0.0.1");
	set_address(&tun, SIOCSIFNETMASK, "255.255.255.0");
	bring_up(&tun);
	return fd;
}

static int lost(const unsigned char *packet, ssize_t size)
{
	static int with_data;
	const unsigned char *tcp = packet + (packet[0] & 15) * 4;
	int syn = tcp[13] & 2, ack = tcp[13] & 16;

	if (packet[0] >> 4 != 4 || packet[9] != IPPROTO_TCP || packet[19] == 99)
		return 1;
	if (syn)
		return (ack ? syn_acks-- : syns--) > 0;
	if (size > tcp - packet + (tcp[12] >> 4) * 4)
		return drop_every && ++with_data % drop_every == 0;
	return 0;
}

int main(int argc, char **argv)
{
	unsigned first = 0, last = 0;
	struct sched_param first_of_all = {.sched_priority = 1};
	struct pollfd tun = {.events = POLLIN};
	long long delay_ns;

	if (argc != 5)
		return 2;
	delay_ns = atoll(argv[1]) * 1000;
	drop_every = atoi(argv[2]);
	syns = atoi(argv[3]);
	syn_acks = atoi(argv[4]);
	tun.fd = make_network();
	sched_setscheduler(0, SCHED_FIFO, &first_of_all); /* a busy machine must not add to it */
	puts("up");
	fflush(stdout);
	for (;;) {
		struct timespec wait;
		long long left = 1000000000;

		if (first != last)
			left = held[first % HELD].due_ns - now_ns();
		if (left < 0)
			left = 0;
		wait.tv_sec = left / 1000000000;
		wait.tv_nsec = left % 1000000000;
		check(ppoll(&tun, 1, &wait, NULL), "ppoll");
		while (last - first < HELD) {
			unsigned char *packet = held[last % HELD].bytes, source[4];
			ssize_t size = read(tun.fd, packet, MTU);

			if (size <= 0)
				break;
			if (lost(packet, size))
				continue;
			memcpy(source, packet + 12, 4);
			memcpy(packet + 12, packet + 16, 4);
			memcpy(packet + 16, source, 4);
			held[last % HELD].size = size;
			held[last % HELD].due_ns = now_ns() + delay_ns;
			last++;
		}
		while (first != last && held[first % HELD].due_ns <= now_ns()) {
			if (write(tun.fd, held[first % HELD].bytes, held[first % HELD].size) < 0)
				perror("write");
			first++;
		}
	}
}
