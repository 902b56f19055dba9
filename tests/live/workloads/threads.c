// SPDX-License-Identifier: Apache-2.0
/* argv[1] threads in all, argv[2] of them at a time, that do nothing; stops itself before and after
 * them. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

static void *nothing(void *unused)
{
	return unused;
}

int main(int argc, char **argv)
{
	pthread_attr_t attributes;
	pthread_t *threads;
	struct rusage usage;
	int all, together, i;

	if (argc != 3)
		return 2;
	all = atoi(argv[1]);
	together = atoi(argv[2]);
	threads = calloc(together, sizeof(*threads));
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 16384);
	raise(SIGSTOP);
	while (all > 0) {
		for (i = 0; i < together; i++) {
			if (pthread_create(&threads[i], &attributes, nothing, NULL)) {
				perror("pthread_create");
				return 1;
			}
		}
		for (i = 0; i < together; i++)
			pthread_join(threads[i], NULL);
		all -= together;
	}
	getrusage(RUSAGE_SELF, &usage);
	printf("%ld\n", usage.ru_nvcsw + usage.ru_nivcsw);
	fflush(stdout);
	raise(SIGSTOP);
	return 0;
}
