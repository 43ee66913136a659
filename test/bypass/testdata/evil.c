/*
 * An untrusted library, or program with -DPROGRAM: it leaves the file that
 * MARKER names. It needs no other library, as auditors are loaded before the
 * loader finds any.
 */
#define SYS_OPEN 2
#define O_WRONLY_CREAT 0101

static long open_file(const char *path)
{
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(SYS_OPEN), "D"(path), "S"(O_WRONLY_CREAT), "d"(0644) : "rcx", "r11", "memory");
	return result;
}

static void leave_marker(char **environment)
{
	const char name[] = "MARKER=";
	for (; *environment; environment++) {
		int i = 0;
		while (name[i] && (*environment)[i] == name[i])
			i++;
		if (!name[i])
			open_file(*environment + i);
	}
}

#ifdef PROGRAM
int main(int argc, char **argv, char **environment) { leave_marker(environment); return 0; }
#else
__attribute__((constructor)) static void loaded(int argc, char **argv, char **environment) { leave_marker(environment); }
int x(void) { return 0; }
/* rtld-audit(7): what makes it an auditor. */
unsigned int la_version(unsigned int version) { return version; }
#endif
