/* mark OUT [GATE]: a COMMAND that says when it runs.
 *
 * It reads CLOCK_MONOTONIC before anything else, and writes "s PID NANOSECONDS" to OUT, a FIFO.
 * With GATE, another FIFO, it waits for a byte from there, and writes "e PID NANOSECONDS" as the
 * last thing before it exits. Linked statically, its own start costs next to nothing. */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int say(int out, char what, long long when)
{
	char line[64]; /* shorter than PIPE_BUF: lines of several writers never mix */
	int length = snprintf(line, sizeof line, "%c %d %lld\n", what, (int)getpid(), when);

	return write(out, line, length) == length;
}

int main(int argc, char **argv)
{
	long long started = now();
	char byte;
	int out, gate;

	if (argc < 2 || (out = open(argv[1], O_WRONLY)) < 0 || !say(out, 's', started))
		return 1;
	if (argc < 3)
		return 0;
	if ((gate = open(argv[2], O_RDONLY)) < 0 || read(gate, &byte, 1) != 1)
		return 1;
	return !say(out, 'e', now());
}
