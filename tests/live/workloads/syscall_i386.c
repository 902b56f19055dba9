// SPDX-License-Identifier: Apache-2.0
/*
 * A 32-bit program without a C library. Each phase, between two stops: 20 failing reads
 * (number 3, which is close to a 64-bit process), 30 failing writes (4: stat), 40 futex
 * wakes (240: mq_open), 50 of its form with 64-bit times (422), 60 refused accept4 (364)
 * and 70 restart_syscall (0: read).
 */
static int call(int number, int a, const void *b, int c)
{
	int result;

	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number), "b"(a), "c"(b), "d"(c), "S"(0), "D"(0)
			 : "memory");
	return result;
}

static int futex(int number, int *word)
{
	return call(number, (int)word, (void *)(1 | 128), 1); /* FUTEX_WAKE_PRIVATE */
}

void _start(void)
{
	static int word;
	int i;

	for (;;) {
		call(37, call(20, 0, 0, 0), (void *)19, 0); /* kill(getpid(), SIGSTOP) */
		for (i = 0; i < 20; i++)
			call(3, -1, &word, 1);
		for (i = 0; i < 30; i++)
			call(4, -1, &word, 1);
		for (i = 0; i < 40; i++)
			futex(240, &word);
		for (i = 0; i < 50; i++)
			futex(422, &word);
		for (i = 0; i < 60; i++)
			call(364, -1, 0, 0);
		for (i = 0; i < 70; i++)
			call(0, 0, 0, 0);
	}
}
