/*
 * work MODE BATCHES N PATH does the same thing again and again, and prints for
 * each batch of N how many nanoseconds one took. It is C, and it is started
 * anew, so that nothing else is in the figures.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000 + t.tv_nsec;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int execute(const char *path)
{
	char *const words[] = {(char *)path, NULL}, *const none[] = {NULL};
	int status;
	pid_t p = vfork();
	if (p == 0) {
		execve(path, words, none);
		_exit(errno);
	}
	if (p < 0 || waitpid(p, &status, 0) != p || !WIFEXITED(status))
		fail("execute");
	return WEXITSTATUS(status);
}

static void once(const char *mode, const char *path, long i)
{
	static int held = -1;
	char buffer[4096];
	int fd, code;
	void *m;
	if (!strcmp(mode, "exec") || !strcmp(mode, "refused")) {
		if ((code = execute(path)) != (*mode == 'e' ? 0 : EPERM)) {
			errno = code;
			fail(path);
		}
	} else if (!strcmp(mode, "each")) { /* PATH with a number behind it: another program each time */
		snprintf(buffer, sizeof(buffer), "%s%ld", path, i);
		once("exec", buffer, 0);
	} else if (!strcmp(mode, "read")) {
		if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0 || read(fd, buffer, sizeof(buffer)) < 0 || close(fd))
			fail(path);
	} else if (!strcmp(mode, "only")) { /* the file is open */
		if ((held < 0 && (held = open(path, O_RDONLY | O_CLOEXEC)) < 0) || pread(held, buffer, sizeof(buffer), 0) < 0)
			fail(path);
	} else if (!strcmp(mode, "share")) {
		if ((fd = open(path, O_RDWR | O_CLOEXEC)) < 0 || (m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED ||
		    munmap(m, 4096) || close(fd))
			fail(path);
	} else if (!strcmp(mode, "write")) {
		if ((fd = open(path, O_WRONLY | O_CLOEXEC)) < 0 || write(fd, "x", 1) != 1 || close(fd))
			fail(path);
	} else if (!strcmp(mode, "map")) {
		if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0 || (m = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0)) == MAP_FAILED ||
		    munmap(m, 4096) || close(fd))
			fail(path);
	} else if (strcmp(mode, "spin")) {
		errno = EINVAL;
		fail(mode);
	}
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	long batches = atol(argv[2]), n = atol(argv[3]);
	for (long b = 0; b < batches; b++) {
		long began = now();
		for (long i = 0; i < n; i++)
			once(argv[1], argv[4], b * n + i);
		printf("%.1f\n", (double)(now() - began) / n);
	}
	return 0;
}
