// SPDX-License-Identifier: Apache-2.0
/* Touches memory until it is killed; with argv[1], from a second thread while the first is gone. */
#include <pthread.h>
#include <stddef.h>
#include <sys/mman.h>

static void *eat(void *unused)
{
	for (;;) {
		volatile char *bite = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE,
					   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		for (int at = 0; bite != MAP_FAILED && at < 1 << 20; at += 4096)
			bite[at] = 1;
	}
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	(void)argv;
	if (argc > 1) {
		if (pthread_create(&thread, NULL, eat, NULL))
			return 1;
		pthread_exit(NULL);
	}
	eat(NULL);
}
