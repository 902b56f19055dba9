// SPDX-License-Identifier: Apache-2.0
/*
 * Makes known numbers of syscalls, and stops itself (SIGSTOP) between phases.
 *
 *   syscall FILE all N        each phase: all ten default syscalls, as run_all() says
 *   syscall FILE threads N T  each phase: T threads, each N failing reads
 *   syscall FILE fork N C     each phase: C children, each N failing reads, and C by vfork
 *   syscall FILE exec PATH C  C times itself, and then PATH: by execve and execveat in turn;
 *                             with an argument more, by the other one
 *   syscall FILE block        each phase: one read of standard input, epoll_wait, futex
 *   syscall FILE signal       each phase: one read of standard input and epoll_wait; SIGUSR1
 *                             restarts a call, SIGUSR2 does not
 *   syscall FILE exec-thread  one endless epoll_wait; on SIGHUP another thread executes it
 *   syscall FILE seccomp N    each phase: N writes that a filter refuses, N that it lets through
 *   syscall FILE one NUMBER N each phase: N calls of syscall NUMBER, with arguments -1
 *
 * What it did is added up in FILE, mapped: struct done for each of the ten.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { READ, WRITE, OPENAT, FSYNC, CONNECT, ACCEPT4, SENDTO, RECVFROM, EPOLL_WAIT, FUTEX, TEN };

static struct done {
	unsigned long calls;
	unsigned long errors;
	unsigned long ns;
} *done;

static unsigned long now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000UL + at.tv_nsec;
}

/* One call by its number, whatever the C library would make of its name. */
#define CALL(which, ...)                             \
	({                                           \
		unsigned long begin_ = now();        \
		long result_ = syscall(__VA_ARGS__); \
                                                     \
		done[which].ns += now() - begin_;    \
		done[which].calls++;                 \
		if (result_ == -1)                   \
			done[which].errors++;        \
		result_;                             \
	})

#ifdef SYS_epoll_wait
#define SYS_EPOLL SYS_epoll_wait
#else
#define SYS_EPOLL SYS_epoll_pwait
#endif

static void expect(int fine, const char *what)
{
	if (!fine) {
		perror(what);
		_exit(1);
	}
}

static struct {
	int zero, file, udp, tcp, listener, pair[2], epoll;
	struct sockaddr_in refusing, listening;
	struct sockaddr_in datagrams;
} fds;

static void bound(int fd, struct sockaddr_in *at)
{
	socklen_t length = sizeof(*at);

	at->sin_family = AF_INET;
	at->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	expect(!bind(fd, (void *)at, sizeof(*at)), "bind");
	expect(!getsockname(fd, (void *)at, &length), "getsockname");
}

static void open_all(void)
{
	fds.zero = open("/dev/zero", O_RDWR);
	fds.file = memfd_create("file", 0);
	fds.udp = socket(AF_INET, SOCK_DGRAM, 0);
	fds.tcp = socket(AF_INET, SOCK_STREAM, 0);
	fds.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	fds.epoll = epoll_create1(0);
	expect(!socketpair(AF_UNIX, SOCK_DGRAM, 0, fds.pair), "socketpair");
	expect(fds.zero >= 0 && fds.file >= 0 && fds.udp >= 0 && fds.tcp >= 0 &&
		       fds.listener >= 0 && fds.epoll >= 0,
	       "open");
	/* A port that is taken, and that nobody listens on, refuses. */
	bound(socket(AF_INET, SOCK_STREAM, 0), &fds.refusing);
	bound(socket(AF_INET, SOCK_DGRAM, 0), &fds.datagrams);
	bound(fds.listener, &fds.listening);
	expect(!listen(fds.listener, 1), "listen");
}

/*
 * Of syscall k, (k + 2) * n succeed and n + k fail; but each accepted connection is a connect
 * more, and each byte sent is received.
 */
static void run_all(long n)
{
	static unsigned word;
	struct epoll_event event;
	char byte = 0;
	long i;

#define SUCCEED(which, ...)                     \
	for (i = 0; i < ((which) + 2) * n; i++) \
	expect(CALL(which, __VA_ARGS__) >= 0, #which)
#define FAIL(which, error, ...)           \
	for (i = 0; i < (which) + n; i++) \
	expect(CALL(which, __VA_ARGS__) == -1 && errno == (error), #which " fails")

	SUCCEED(READ, SYS_read, fds.zero, &byte, 1);
	FAIL(READ, EBADF, SYS_read, -1, &byte, 1);
	SUCCEED(WRITE, SYS_write, fds.zero, &byte, 1);
	FAIL(WRITE, EBADF, SYS_write, -1, &byte, 1);
	for (i = 0; i < (OPENAT + 2) * n; i++) {
		long fd = CALL(OPENAT, SYS_openat, AT_FDCWD, "/dev/null", O_RDONLY);

		expect(fd >= 0 && !close(fd), "openat");
	}
	FAIL(OPENAT, ENOENT, SYS_openat, AT_FDCWD, "/dev/there-is-none", O_RDONLY);
	SUCCEED(FSYNC, SYS_fsync, fds.file);
	FAIL(FSYNC, EBADF, SYS_fsync, -1);
	SUCCEED(CONNECT, SYS_connect, fds.udp, &fds.datagrams, sizeof(fds.datagrams));
	FAIL(CONNECT, ECONNREFUSED, SYS_connect, fds.tcp, &fds.refusing, sizeof(fds.refusing));
	for (i = 0; i < (ACCEPT4 + 2) * n; i++) {
		int client = socket(AF_INET, SOCK_STREAM, 0);
		struct pollfd ready = {.fd = fds.listener, .events = POLLIN};
		long server;

		expect(!CALL(CONNECT, SYS_connect, client, &fds.listening, sizeof(fds.listening)),
		       "connect");
		/* The client's last segment may still wait for its turn (ksoftirqd). */
		expect(poll(&ready, 1, -1) == 1, "poll");
		server = CALL(ACCEPT4, SYS_accept4, fds.listener, 0, 0, SOCK_CLOEXEC);
		expect(server >= 0 && !close(server) && !close(client), "accept4");
	}
	FAIL(ACCEPT4, EAGAIN, SYS_accept4, fds.listener, 0, 0, 0);
	for (i = 0; i < (SENDTO + 2) * n; i++) {
		expect(CALL(SENDTO, SYS_sendto, fds.pair[0], &byte, 1, 0, 0, 0) == 1, "sendto");
		expect(CALL(RECVFROM, SYS_recvfrom, fds.pair[1], &byte, 1, 0, 0, 0) == 1,
		       "recvfrom");
	}
	FAIL(SENDTO, ENOTSOCK, SYS_sendto, fds.zero, &byte, 1, 0, 0, 0);
	FAIL(RECVFROM, EAGAIN, SYS_recvfrom, fds.pair[1], &byte, 1, MSG_DONTWAIT, 0, 0);
	SUCCEED(EPOLL_WAIT, SYS_EPOLL, fds.epoll, &event, 1, 0, 0, 8);
	FAIL(EPOLL_WAIT, EBADF, SYS_EPOLL, -1, &event, 1, 0, 0, 8);
	SUCCEED(FUTEX, SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
	FAIL(FUTEX, EAGAIN, SYS_futex, &word, FUTEX_WAIT_PRIVATE, 1, 0, 0, 0);
}

static void *failing_reads(void *n)
{
	for (long i = 0; i < (long)n; i++)
		syscall(SYS_read, -1, 0, 0);
	return 0;
}

static void run_threads(long n, long threads)
{
	pthread_t ids[64];
	long i;

	for (i = 0; i < threads; i++)
		expect(!pthread_create(&ids[i], 0, failing_reads, (void *)n), "pthread_create");
	for (i = 0; i < threads; i++)
		pthread_join(ids[i], 0);
}

static void run_fork(long n, long children)
{
	long i;

	for (i = 0; i < children; i++) {
		pid_t child = fork();

		expect(child >= 0, "fork");
		if (!child) {
			failing_reads((void *)n);
			_exit(0);
		}
	}
	for (i = 0; i < children; i++) {
		pid_t child = vfork();

		expect(child >= 0, "vfork");
		if (!child)
			_exit(0);
	}
	for (i = 0; i < 2 * children; i++)
		expect(wait(0) > 0, "wait");
}

/* The next image stops itself, as this one did. */
static void run_exec(char **argv)
{
	char left[16];
	long count = atol(argv[4]);
	char *again[] = {argv[0], argv[1], argv[2], argv[3], left, argv[5], 0};
	char *last[] = {argv[3], 0};
	const char *path = count ? "/proc/self/exe" : argv[3];
	char **arguments = count ? again : last;

	snprintf(left, sizeof(left), "%ld", count - 1);
	if (count % 2 != !!argv[5])
		syscall(SYS_execveat, AT_FDCWD, path, arguments, environ, 0);
	else
		syscall(SYS_execve, path, arguments, environ);
	expect(0, path);
}

static void *exec_thread(void *argv)
{
	sigset_t hangup;
	int number;

	sigemptyset(&hangup);
	sigaddset(&hangup, SIGHUP);
	expect(!sigwait(&hangup, &number), "sigwait");
	syscall(SYS_execve, "/proc/self/exe", argv, environ);
	expect(0, "execve");
	return 0;
}

static void run_exec_thread(char **argv)
{
	pthread_t thread;
	struct epoll_event event;
	sigset_t hangup;

	sigemptyset(&hangup);
	sigaddset(&hangup, SIGHUP);
	sigprocmask(SIG_BLOCK, &hangup, 0);
	expect(!pthread_create(&thread, 0, exec_thread, argv), "pthread_create");
	CALL(EPOLL_WAIT, SYS_EPOLL, fds.epoll, &event, 1, -1, 0, 8);
}

static void run_block(void)
{
	static unsigned word;
	struct timespec timeout = {.tv_nsec = 20000000};
	struct epoll_event event;
	char byte;

	expect(CALL(READ, SYS_read, 0, &byte, 1) == 1, "read");
	expect(CALL(EPOLL_WAIT, SYS_EPOLL, fds.epoll, &event, 1, 30, 0, 8) == 0, "epoll_wait");
	expect(CALL(FUTEX, SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &timeout, 0, 0) == -1 &&
		       errno == ETIMEDOUT,
	       "futex");
}

static void handler(int signal)
{
	(void)signal;
}

static void handle(int signal, int flags)
{
	struct sigaction action = {.sa_handler = handler, .sa_flags = flags};

	expect(!sigaction(signal, &action, 0), "sigaction");
}

static void run_signal(void)
{
	struct epoll_event event;
	char byte;

	CALL(READ, SYS_read, 0, &byte, 1);
	CALL(EPOLL_WAIT, SYS_EPOLL, fds.epoll, &event, 1, 10000, 0, 8);
}

static void refuse_write(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)-1, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = {.len = 6, .filter = code};

	expect(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
	expect(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), "seccomp");
}

static void run_seccomp(long n)
{
	for (long i = 0; i < n; i++) {
		expect(CALL(READ, SYS_write, fds.zero, "", 1) == 1, "write"); /* these as READ */
		expect(CALL(WRITE, SYS_write, -1, 0, 0) == -1 && errno == EPERM, "write");
	}
}

int main(int argc, char **argv)
{
	const char *mode = argc > 2 ? argv[2] : "";
	long n = argc > 3 ? atol(argv[3]) : 0, m = argc > 4 ? atol(argv[4]) : 0;
	int file = open(argc > 1 ? argv[1] : "", O_RDWR);

	done = mmap(0, sizeof(*done) * TEN, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	expect(done != MAP_FAILED, "mmap");
	open_all();
	handle(SIGUSR1, SA_RESTART);
	handle(SIGUSR2, 0);
	if (!strcmp(mode, "seccomp"))
		refuse_write();
	now(); /* the dynamic linker finds the clock */
	for (;;) {
		raise(SIGSTOP);
		if (!strcmp(mode, "all"))
			run_all(n);
		else if (!strcmp(mode, "threads"))
			run_threads(n, m);
		else if (!strcmp(mode, "fork"))
			run_fork(n, m);
		else if (!strcmp(mode, "exec"))
			run_exec(argv);
		else if (!strcmp(mode, "exec-thread"))
			run_exec_thread(argv);
		else if (!strcmp(mode, "block"))
			run_block();
		else if (!strcmp(mode, "signal"))
			run_signal();
		else if (!strcmp(mode, "seccomp"))
			run_seccomp(n);
		else if (!strcmp(mode, "one"))
			for (long i = 0; i < m; i++)
				syscall(n, -1, -1, -1, -1, -1, -1);
		else
			return 2;
	}
}
