/* mark OUT [GATE]: a COMMAND that says when it runs.
 *
 * The first thing it does is to read CLOCK_MONOTONIC, and write "s PID NANOSECONDS" to OUT, a
 * FIFO. With GATE, another FIFO, it waits for a byte from there, and writes "e PID NANOSECONDS"
 * as the last thing before it exits. Static and without stdio, so that its own start costs next
 * to nothing. */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static void say(int out, char what)
{
	struct timespec now;
	char line[64];

	clock_gettime(CLOCK_MONOTONIC, &now);
	int length = snprintf(line, sizeof line, "%c %d %lld\n", what, (int)getpid(),
			      now.tv_sec * 1000000000LL + now.tv_nsec);
	if (write(out, line, length) != length)
		_exit(1);
}

int main(int argc, char **argv)
{
	char byte;

	if (argc < 2)
		return 2;
	int out = open(argv[1], O_WRONLY);
	if (out < 0)
		return 1;
	say(out, 's');
	if (argc < 3)
		return 0;
	int gate = open(argv[2], O_RDONLY);
	if (gate < 0 || read(gate, &byte, 1) != 1)
		return 1;
	say(out, 'e');
	return 0;
}
