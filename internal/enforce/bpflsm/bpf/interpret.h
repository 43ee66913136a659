/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Interpreters: what they are told to run is code, too. It is a part of
 * cordon.bpf.c, apart from what judges code.
 *
 * A file that an interpreter opens cannot be hashed then: it is not open yet.
 * So its content is learned before, from the agent's process, and remembered
 * under a key that the kernel makes; whoever opens the file for writing has it
 * forgotten. What was not learned is refused.
 */
#pragma once

enum role { NO_ROLE, PYTHON, PERL, RUBY, NODE, JAVA, PHP, LUA, TCL, AWK, SHELL, BUSYBOX, INSTALLER, EXPECT, JAVA_TOOL, JAVA_SHELL };

/* ---- contents that were learned ---- */

struct script { struct key digest; u64 size, sec; u32 nsec, pad; };

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 18);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct belowkey);
	__type(value, struct script);
} scripts SEC(".maps");

/* Those that are not trusted, and were shown because they were refused: anybody can have any number of them, so the oldest is forgotten. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 12);
	__type(key, struct belowkey);
	__type(value, struct script);
} strange_scripts SEC(".maps");

/* forget is for a file whose content may change from now on. */
INLINE void forget(struct belowkey *k)
{
	bpf_map_delete_elem(&scripts, k);
	bpf_map_delete_elem(&strange_scripts, k);
}

/* learn remembers the content of a file that the agent shows; refused says that it does because it was refused. */
INLINE void learn(struct file *f, bool refused)
{
	struct inode *i = f->f_inode;
	struct belowkey k = {.ino = i->i_ino, .dev = i->i_sb->s_dev, .gen = i->i_generation};
	struct script s = {};
	if (stable(i) || i->i_sb->s_magic == OVERLAY || i->i_flags & S_IMA)
		return;
	struct fact *fact = bpf_inode_storage_get(&facts, i, NULL, BPF_STORAGE_CREATE);
	if (!fact)
		return;
	u64 opens = *(volatile u64 *)&fact->opens;
	s.size = i->i_size;
	ctime(i, &s.sec, &s.nsec);
	if (bpf_ima_file_hash(f, &s.digest, sizeof(s.digest)) != HASH_ALGO_SHA256)
		return;
	u32 flags;
	if (refused && !find(setting(WORD), &s.digest, &flags)) {
		bpf_map_update_elem(&strange_scripts, &k, &s, 0);
	} else {
		bpf_map_update_elem(&scripts, &k, &s, 0);
		bpf_map_delete_elem(&strange_scripts, &k);
	}
	/* Whoever opened it for writing meanwhile has moved this, or will find it above. */
	if (opens != *(volatile u64 *)&fact->opens || i->i_writecount.counter > 0)
		forget(&k);
}

/* knows says whether the content of a file that is being opened is trusted: 0, or why not. */
INLINE u32 knows(struct inode *i, struct fact *fact, u64 w, struct verdict *v)
{
	u32 reason = stable(i), flags = 0, nsec;
	if (reason)
		return reason;
	if (i->i_sb->s_magic != OVERLAY && remembered(i, fact, w))
		return 0;
	if (fact->lent)
		return LENT;
	struct belowkey k = {.ino = i->i_ino, .dev = i->i_sb->s_dev, .gen = i->i_generation};
	struct script *s = bpf_map_lookup_elem(&scripts, &k);
	if (!s)
		s = bpf_map_lookup_elem(&strange_scripts, &k);
	u64 sec;
	ctime(i, &sec, &nsec);
	if (!s || s->size != i->i_size || s->sec != sec || s->nsec != nsec)
		return UNSEEN;
	struct key digest = s->digest;
	int found = find(w, &digest, &flags);
	__builtin_memcpy(v->digest, &digest, 32);
	v->hashed = 1;
	return found > 0 ? 0 : found < 0 ? NO_POLICY : NOT_TRUSTED;
}

/* ---- what a process interprets ---- */

#define NAME 64
#define NAMES 4
#define WORDSIZE 256
#define MOST 64 /* words */

struct name { u64 part[NAME / 8]; };

/* words is how far the words are read that a program is started with. */
struct words {
	u64 at;  /* the next word, or the list of words */
	u32 base, argc, role, program, skip, past, unknown, was, end;
	u32 list, here;    /* here: the next word is the program file */
	u32 tells, maybe;  /* tells: it ends if there is no program; maybe: the next word belongs to this one, or is the program file */
	u32 paths, envc;   /* paths: the next word has Java's paths */
	u32 may;           /* it may be given code in words */
};

/*
 * run is what a process has executed; becomes is what it is executing. names are those of its program file, and
 * of what that leads to if it is a symbolic link; all files with one of them
 * must be trusted.
 */
struct run {
	u32 role, becomes, names, vouched, session; /* session: in which it is vouched for */
	u32 manager; /* it is a package manager that is a script, or becomes one */
	struct name name[NAMES];
	/*
	 * While it starts. It is here, not on the stack, because kernels before 6.8
	 * take what a loop finds there the first time for what it always finds.
	 */
	struct words words;
	char word[WORDSIZE];
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct run);
} runs SEC(".maps");

/* run_of: ordinary programs are not looked up, see kin_of. */
INLINE struct run *run_of(struct task_struct *t)
{
	return t->bpf_storage ? bpf_task_storage_get(&runs, t, NULL, 0) : NULL;
}

/* Who vouches for what a process tells interpreters: nobody, a trusted script, or root's package manager. */
enum vouched { BY_NOBODY, BY_SCRIPT, BY_INSTALLER };

INLINE bool watching(u64 w) { return w & TRUSTED_SCRIPTS && MODE(w) != OFF && !setting(SCOPE); }

#define NO_SESSION ((u32)-1)

/* session is the number of the login (pam_loginuid(8)) that a process belongs to; services belong to none. */
INLINE u32 session(void *task)
{
	if (!EXISTS(struct task_struct___audit, sessionid))
		return 0;
	return READ((struct task_struct___audit *)task, sessionid);
}

/* vouched says who vouches for a process in the login in which it is now. */
INLINE u32 vouched(struct run *r, void *task)
{
	return r->vouched && r->session == session(task) ? r->vouched : BY_NOBODY;
}

/* ---- the words it is started with ---- */

enum program { STDIN, CODE, FILE, NOTHING }; /* where it takes its program from; NOTHING: from none of these */
enum letter { FLAG, INLINE_, ARG, REST, FINAL, READS, PROGRAM, CHARSET, TELLS, SETS, MAYBE, LONG };

/* letter says what an option means for where the program comes from. */
INLINE u32 letter(u32 role, char c)
{
	switch (role) {
	case PYTHON:
		return c == 'c' || c == 'i' ? INLINE_ : c == 'W' || c == 'X' ? ARG : c == 'm' || c == 'V' || c == 'h' ? FINAL : FLAG;
	case PERL:
		/* After a blank, it takes further options. */
		return c == 'e' || c == 'E' || c == 'd' || c <= ' ' ? INLINE_ : c == 'I' ? ARG : c == 'C' ? CHARSET :
		       c == 'M' || c == 'm' ? PROGRAM : c == 'i' || c == 'F' || c == 'D' || c == 'x' ? REST :
		       c == 'v' || c == 'V' || c == 'h' ? FINAL : FLAG;
	case RUBY:
		return c == 'e' ? INLINE_ : c == 'I' || c == 'r' || c == 'C' || c == 'X' || c == 'E' ? ARG :
		       c == ':' || c == 'x' || c == 'F' || c == 'i' ? REST : c == 'v' ? TELLS : c == 'h' ? FINAL : FLAG;
	case NODE:
		return c == 'e' || c == 'p' || c == 'r' || c == 'i' ? INLINE_ : c == 'C' ? ARG : c == 'v' || c == 'h' ? FINAL : FLAG;
	case PHP:
		return c == 'r' || c == 'B' || c == 'R' || c == 'E' || c == 'a' || c == 'c' ? INLINE_ : c == 'f' || c == 'F' ? READS :
		       c == 'd' ? SETS : c == 'z' || c == 'S' || c == 't' ? ARG :
		       c == 'v' || c == 'i' || c == 'm' || c == 'h' ? FINAL : FLAG;
	case LUA:
		return c == 'e' || c == 'i' ? INLINE_ : c == 'l' || c == 'j' ? ARG : c == 'v' ? TELLS : c == 'b' ? FINAL : FLAG;
	case EXPECT:
		return c == 'c' || c == 'i' ? INLINE_ : c == 'f' || c == 'b' ? READS : c == 'D' ? ARG : FLAG;
	case AWK:
		return c == 'f' || c == 'E' ? READS : c == 'F' || c == 'v' || c == 'i' || c == 'l' || c == 'e' ? ARG : FLAG;
	case SHELL:
		return c == 'c' ? FINAL : c == 's' ? REST : c == 'o' || c == 'O' ? ARG : FLAG;
	}
	return FLAG;
}

INLINE bool begins(char *s, const char *with, int n)
{
	for (int i = 0; i < n; i++)
		if (s[i] != with[i])
			return 0;
	return 1;
}

#define BEGINS(s, with) begins(s, with, sizeof(with) - 1)

/* long_option says the same of options that are words. */
INLINE u32 long_option(u32 role, char *s)
{
	if (role == NODE) {
		if (BEGINS(s, "--ev") || BEGINS(s, "--pri") || BEGINS(s, "--im") || BEGINS(s, "--lo") || BEGINS(s, "--req") || BEGINS(s, "--inte") ||
		    BEGINS(s, "--insp") || BEGINS(s, "--env") || BEGINS(s, "--snap") || BEGINS(s, "--entry") || BEGINS(s, "--test-r") ||
		    BEGINS(s, "--test-g") || BEGINS(s, "--experimental-lo") || BEGINS(s, "--experimental-c") || BEGINS(s, "--experimental-sea"))
			return INLINE_;
		if (BEGINS(s, "--version") || BEGINS(s, "--help"))
			return FINAL;
		/* These have no value; V8 has more than can be listed. */
		if (BEGINS(s, "--no-") || BEGINS(s, "--enable-") || BEGINS(s, "--preserve-") || BEGINS(s, "--expose") || BEGINS(s, "--harmony") ||
		    BEGINS(s, "--throw") || BEGINS(s, "--abort") || BEGINS(s, "--pending") || BEGINS(s, "--jitless") || BEGINS(s, "--prof\0") ||
		    BEGINS(s, "--test\0") || BEGINS(s, "--watch\0") || (BEGINS(s, "--trace-") && s[8] != 'e') ||
		    (BEGINS(s, "--experimental-") && s[15] != 'd' && s[15] != 'p' && s[15] != 's' && s[15] != 't'))
			return FLAG;
		for (int i = 2; i < 64 && s[i]; i++) {
			if (s[i] == '_' && !BEGINS(s, "--max_")) /* as good as a hyphen */
				return INLINE_;
			if (s[i] == '=')
				return FLAG;
		}
		return MAYBE;
	}
	if (role == PHP) {
		if (BEGINS(s, "--run") || BEGINS(s, "--process") || BEGINS(s, "--inter") || BEGINS(s, "--php-ini"))
			return INLINE_;
		if (BEGINS(s, "--in") || BEGINS(s, "--modules") || (BEGINS(s, "--r") && s[3] != 'u'))
			return FINAL;
		if (BEGINS(s, "--define"))
			return SETS;
		if (BEGINS(s, "--zend-extension\0") || BEGINS(s, "--server\0") || BEGINS(s, "--docroot\0"))
			return ARG;
	}
	if (role == RUBY && (BEGINS(s, "--encoding\0") || BEGINS(s, "--external-encoding\0") || BEGINS(s, "--internal-encoding\0") || BEGINS(s, "--enable\0") ||
			     BEGINS(s, "--disable\0") || BEGINS(s, "--dump\0") || BEGINS(s, "--parser\0") || BEGINS(s, "--backtrace-limit\0") ||
			     BEGINS(s, "--crash-report\0")))
		return ARG;
	if (role == PYTHON && BEGINS(s, "--check-hash-based-pycs\0"))
		return ARG;
	if (role == SHELL && (BEGINS(s, "--rcfile") || BEGINS(s, "--init-file")))
		return ARG;
	if ((role == PHP && BEGINS(s, "--file")) || (role == AWK && (BEGINS(s, "--fil") || BEGINS(s, "--e"))))
		return READS;
	if (BEGINS(s, "--version") || BEGINS(s, "--help"))
		return FINAL;
	return FLAG;
}

static long each_line(u32 i, void *none)
{
	struct run *r = run_of(bpf_get_current_task_btf());
	if (!r)
		return 1;
	char c = r->word[i & (WORDSIZE - 1)];
	if (c == '\n' || c == '\r')
		r->words.program = CODE;
	return !c;
}

/* has_run says whether a setting of PHP has it run a file, or may be several settings. */
INLINE bool has_run(struct run *r, u32 at)
{
	char v[8] = {};
	bpf_loop(WORDSIZE, each_line, NULL, 0);
	bpf_probe_read_kernel(v, sizeof(v), r->word + (at & (WORDSIZE - 1)));
	return r->words.program == CODE || v[0] <= ' ' || BEGINS(v, "auto_") || BEGINS(v, "opcache.") || BEGINS(v, "zend");
}

/* behind leaves of the word what comes behind so many bytes. */
INLINE void behind(struct run *r, u32 n) { bpf_probe_read_kernel_str(r->word, WORDSIZE, r->word + (n & (WORDSIZE - 1))); }

static long each_char(u32 i, void *none)
{
	struct run *r = run_of(bpf_get_current_task_btf());
	if (!r)
		return 1;
	char c = r->word[i & (WORDSIZE - 1)];
	if (c == '/')
		r->words.base = i + 1;
	return !c;
}

/* base says where in r->word the last part of a path begins. */
INLINE u32 base(struct run *r)
{
	r->words.base = 0;
	bpf_loop(WORDSIZE, each_char, NULL, 0);
	return *(volatile u32 *)&r->words.base & (WORDSIZE - 1);
}

INLINE bool is_name(struct run *r, struct name *n)
{
	for (int i = 0; i < NAMES; i++) {
		if (i >= r->names)
			return 0;
		u64 differs = 0;
		for (int j = 0; j < NAME / 8; j++)
			differs |= r->name[i].part[j] ^ n->part[j];
		if (!differs)
			return 1;
	}
	return r->names > NAMES; /* too many links to follow: any file may be it */
}

/* add_name adds the last part of the path in r->word to the names. A link is followed whenever its path is looked up. */
INLINE void add_name(struct run *r)
{
	u32 k = r->names;
	struct name n = {};
	bpf_probe_read_kernel_str(&n, NAME, r->word + base(r));
	if (is_name(r, &n))
		return;
	if (k < NAMES)
		r->name[k] = n;
	r->names = k + 1;
}

/* each_path adds the last parts of Java's paths that are not judged by their suffix. */
static long each_path(u32 i, void *none)
{
	struct run *r = run_of(bpf_get_current_task_btf());
	if (!r)
		return 1;
	struct words *s = &r->words;
	char c = r->word[i & (WORDSIZE - 1)];
	if (c && c != ':' && c != '/') {
		if (s->was)
			s->base = i, s->was = 0;
		s->end = i + 1;
		return 0;
	}
	s->was = 1;
	if (c == '/')
		return 0;
	u32 len = s->end - s->base, k = r->names;
	char suffix[4] = {};
	if (len > 4)
		bpf_probe_read_kernel(suffix, sizeof(suffix), r->word + ((s->end - 4) & (WORDSIZE - 1)));
	if (len && !(suffix[0] == '.' && suffix[1] == 'j' && suffix[2] == 'a' && suffix[3] == 'r')) {
		if (k < NAMES) {
			for (int j = 0; j < NAME / 8; j++)
				r->name[k].part[j] = 0;
			if (len > NAME - 1)
				len = NAME - 1;
			bpf_probe_read_kernel(&r->name[k], len & (NAME - 1), r->word + (s->base & (WORDSIZE - 1)));
		}
		r->names = k + 1;
	}
	s->base = s->end = i + 1;
	return !c;
}

/* each_letter looks at an option of letters. */
static long each_letter(u32 i, void *none)
{
	struct run *r = run_of(bpf_get_current_task_btf());
	if (!r)
		return 1;
	struct words *s = &r->words;
	u32 j = (i + 1) & (WORDSIZE - 1);
	char c = r->word[j];
	if (!c)
		return 1;
	if (s->was == CHARSET && ((c >= '0' && c <= '9') || c == 'I' || c == 'O' || c == 'E' || c == 'S' || c == 'D' || c == 'i' || c == 'o' ||
				  c == 'A' || c == 'L' || c == 'a'))
		return 0;
	if (s->was == PROGRAM) { /* perl -M: a name and what to import; anything else is code */
		if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == ':' || c == '_' || c == ',' || c == '=' ||
		    c == '-' || c == '.')
			return 0;
		s->program = CODE;
		return 1;
	}
	if (s->was == REST) { /* of perl's */
		if (c > ' ')
			return 0;
		s->program = CODE;
		return 1;
	}
	u32 l = letter(s->role, c);
	s->was = l;
	if (l == TELLS)
		s->tells = 1;
	if (l == INLINE_ || l == FINAL) {
		s->program = l == FINAL ? NOTHING : CODE;
		return 1;
	}
	if (l == REST) {
		s->end = s->role == SHELL;
		return s->role != PERL;
	}
	if (l == ARG || l == READS || l == SETS) {
		bool attached = s->role != SHELL && r->word[(j + 1) & (WORDSIZE - 1)];
		if (l == READS)
			s->here = attached ? j + 1 : 1; /* j is not 0 */
		else if (l == SETS && attached && has_run(r, j + 1))
			s->program = CODE;
		else if (!attached)
			s->skip = l;
		return s->role != SHELL;
	}
	return 0;
}

/* program_word looks at the word that names the program file. */
INLINE long program_word(struct run *r, long n)
{
	struct words *s = &r->words;
	if (s->role == AWK && !s->here) {
		s->program = NOTHING; /* its text, as in a shell's -c */
		return 1;
	}
	if (n == WORDSIZE)
		s->unknown = 1;
	if (!r->word[0] || BEGINS(r->word, "/dev/") || BEGINS(r->word, "/proc/")) { /* perl: standard input; a descriptor */
		s->tells = 0;
		return 1;
	}
	if (s->maybe && !s->unknown) {
		s->maybe = 0;
		if (!s->list)
			add_name(r);
		return 0;
	}
	s->program = FILE;
	return 1;
}

/* java_word looks at a word of Java's. Its classes and archives are judged by their suffix, other files where they are named. */
INLINE long java_word(struct run *r, u32 i, long n)
{
	struct words *s = &r->words;
	char *w = r->word;
	if (s->role == JAVA_SHELL) {
		s->program = STDIN;
		return 1;
	}
	s->unknown = n == WORDSIZE || i == MOST - 1;
	if (s->unknown)
		return 1;
	if (w[0] == '@' || (s->role == JAVA_TOOL && BEGINS(w, "-J"))) { /* more words */
		s->program = CODE;
		return 1;
	}
	if (s->role == JAVA_TOOL)
		return 0;
	bool paths = s->paths, here = s->here;
	s->paths = s->here = 0;
	if (!paths && !here && w[0] == '-') {
		if (BEGINS(w, "-javaagent") || BEGINS(w, "-agentlib") || BEGINS(w, "-Xrun") || BEGINS(w, "-Xbootclasspath") || BEGINS(w, "-XX:Flags") ||
		    BEGINS(w, "-XX:VMOptionsFile") || BEGINS(w, "-XX:Shared") || BEGINS(w, "-XX:AOT") || BEGINS(w, "--patch-module") ||
		    BEGINS(w, "--upgrade-module-path") || BEGINS(w, "-Djava.class.path") || BEGINS(w, "-Djdk.module")) {
			s->program = CODE;
			return 1;
		}
		s->here = BEGINS(w, "-jar\0") || BEGINS(w, "-m\0") || BEGINS(w, "--module\0");
		s->paths = BEGINS(w, "-cp\0") || BEGINS(w, "-classpath\0") || BEGINS(w, "--class-path\0") || BEGINS(w, "-p\0") || BEGINS(w, "--module-path\0");
		s->skip = BEGINS(w, "--add-modules\0") || BEGINS(w, "--add-exports\0") || BEGINS(w, "--add-opens\0") || BEGINS(w, "--add-reads\0") ||
			  BEGINS(w, "--limit-modules\0") || BEGINS(w, "--enable-native-access\0") || BEGINS(w, "--source\0") || BEGINS(w, "-d\0") ||
			  BEGINS(w, "--describe-module\0") ? ARG : 0;
		if (BEGINS(w, "--class-path=") || BEGINS(w, "--module-path=")) {
			behind(r, w[2] == 'c' ? 13 : 14);
			paths = 1;
		} else if (BEGINS(w, "--module=")) {
			behind(r, 9);
			here = 1;
		} else
			return 0;
	}
	if (paths) {
		s->base = s->end = 0, s->was = 1;
		if (!s->list)
			bpf_loop(WORDSIZE, each_path, NULL, 0);
		return 0;
	}
	/* Java's own programs run what they are told. */
	if (BEGINS(w, "jdk.") || BEGINS(w, "jdk/") || BEGINS(w, "sun.") || BEGINS(w, "sun/") || BEGINS(w, "java.") || BEGINS(w, "com.sun.") || BEGINS(w, "com/sun/"))
		s->program = CODE;
	else if (!s->list)
		add_name(r);
	return 1;
}

static long each_word(u32 i, void *none)
{
	struct run *r = run_of(bpf_get_current_task_btf());
	char *w;
	long n;
	if (!r)
		return 1;
	struct words *s = &r->words;
	if (i >= s->argc)
		return 1;
	if (s->list) {
		u64 p = 0;
		if (bpf_probe_read_user(&p, sizeof(p), (void *)(s->at + 8 * (u64)i))) {
			s->unknown = 1;
			return 1;
		}
		if (!p)
			return 1;
		n = bpf_probe_read_user_str(r->word, WORDSIZE, (void *)p);
	} else {
		n = bpf_probe_read_user_str(r->word, WORDSIZE, (void *)s->at);
		s->at += n ?: 1;
	}
	if (n < 0) {
		s->unknown = 1;
		return 1;
	}
	if (!n) /* how kernels say that it is empty */
		r->word[0] = 0;
	w = r->word;
	if (i == 0) {
		if (s->role != BUSYBOX)
			return 0;
		/* Only its shell is one of ours: it is called by the name of a shell, or told to be one. */
		char b[4] = {};
		bpf_probe_read_kernel(b, sizeof(b), w + (base(r) & 127));
		if (b[0] == '-')
			b[0] = b[1], b[1] = b[2], b[2] = b[3];
		if (b[0] == 'b' && b[1] == 'u' && b[2] == 's')
			return 0;
		s->role = (b[0] == 's' && b[1] == 'h' && !b[2]) || (b[0] == 'a' && b[1] == 's' && b[2] == 'h') ? SHELL : NO_ROLE;
		return s->role == NO_ROLE;
	}
	if (s->role == BUSYBOX) {
		s->role = BEGINS(w, "sh\0") || BEGINS(w, "ash\0") ? SHELL : NO_ROLE;
		return s->role == NO_ROLE;
	}
	if (s->skip) {
		if (s->skip == SETS && has_run(r, 0))
			s->program = CODE;
		s->here = s->skip == LONG && w[0] == 'e'; /* mawk: exec */
		s->skip = 0;
		s->unknown = n == WORDSIZE; /* where the next one begins is not known */
		return s->unknown || s->program == CODE;
	}
	if (s->role == JAVA || s->role == JAVA_TOOL || s->role == JAVA_SHELL)
		return java_word(r, i, n);
	bool option = (w[0] == '-' || (s->role == SHELL && w[0] == '+')) && !s->past;
	if (s->here || !option || !w[1]) {
		if (!s->here && option && s->role != SHELL) { /* "-" is standard input */
			s->tells = 0;
			return 1;
		}
		if (!s->here && option) /* an old way to end a shell's options */
			return 0;
		return program_word(r, n);
	}
	s->maybe = 0;
	if (s->role == TCL) { /* it knows one option; any other is for what it reads from standard input */
		s->skip = i == 1 && BEGINS(w, "-encoding\0") ? ARG : 0;
		return !s->skip;
	}
	if (s->role == AWK && w[1] == 'W') { /* as good as two hyphens */
		s->tells = 1;
		if (!w[2]) {
			s->skip = LONG;
			return 0;
		}
		w[1] = '-';
	}
	if (w[0] == '-' && w[1] == '-') {
		if (!w[2]) {
			s->past = 1;
			return s->role == PHP; /* its program is standard input then */
		}
		u32 o = long_option(s->role, w);
		u32 value = 0;
		for (int i = 3; i < 7; i++) /* --e=, --file= */
			if (w[i] == '=' && !value)
				value = i + 1;
		if (o == READS && value) {
			s->here = 1;
			behind(r, value);
			return program_word(r, n);
		}
		if (o == SETS && w[8] == '=')
			o = has_run(r, 9) ? INLINE_ : FLAG;
		s->skip = o == ARG || o == SETS ? o : 0, s->here = o == READS, s->maybe = o == MAYBE;
		s->program = o == INLINE_ ? CODE : o == FINAL ? NOTHING : STDIN;
		return s->program != STDIN;
	}
	s->was = FLAG, s->end = 0;
	bpf_loop(WORDSIZE, each_letter, NULL, 0);
	if (s->program != STDIN || s->end)
		return 1;
	if (s->here > 1) { /* the letters before it are not its name */
		behind(r, s->here);
		return program_word(r, n);
	}
	if (n == WORDSIZE)
		s->unknown = 1;
	return s->unknown != 0;
}

/*
 * refuses says why an interpreter must not start with these words: 0, or
 * INLINE_CODE. The path of its program file is left in r->word.
 */
INLINE u32 refuses(struct run *r)
{
	struct words *s = &r->words;
	void *task = bpf_get_current_task_btf();
	if (s->role == JAVA || s->role == JAVA_TOOL)
		s->program = NOTHING;
	bpf_loop(MOST, each_word, NULL, 0);
	if (s->tells && s->program == STDIN)
		s->program = NOTHING;
	if (s->role == BUSYBOX)
		s->role = NO_ROLE;
	if (s->role == NO_ROLE)
		return 0;
	/* What the machine's own services are made of: root's, and of no login. */
	bool service = session(task) == NO_SESSION && !(u32)bpf_get_current_uid_gid();
	bool may = s->may = service || vouched(r, task);
	if (s->unknown) /* shells and awk may be told anything in words as well */
		return may || s->role == SHELL || s->role == AWK ? 0 : INLINE_CODE;
	if (s->program == FILE || s->program == NOTHING || may)
		return 0;
	if (s->role != SHELL)
		return INLINE_CODE;
	/* A shell reads a terminal or a pipe, but no file. */
	struct files_struct *files = READ((struct task_struct *)task, files);
	struct fdtable *t = READ(files, fdt);
	struct file **fds = READ(t, fd), *f = NULL;
	bpf_probe_read_kernel(&f, sizeof(f), fds);
	struct inode *i = f ? READ(f, f_inode) : NULL;
	return i && (READ(i, i_mode) & S_IFMT) == S_IFREG ? INLINE_CODE : 0;
}

/* arguments finds the list of words that execve(2) or execveat(2) was called with; 0 if it is not known. */
INLINE u64 arguments(void)
{
	void *regs = bpf_task_pt_regs(bpf_get_current_task_btf());
	if (EXISTS(struct pt_regs___x86, orig_ax)) {
		struct pt_regs___x86 *x = regs;
		u64 nr = READ(x, orig_ax);
		if (READ(x, cs) != 0x33) /* a 32-bit program */
			return 0;
		return nr == 59 ? READ(x, si) : nr == 322 ? READ(x, dx) : 0;
	}
	if (EXISTS(struct pt_regs___arm, syscallno)) {
		struct pt_regs___arm *a = regs;
		u32 nr = READ(a, syscallno);
		return nr == 221 ? READ(a, user_regs.regs[1]) : nr == 281 ? READ(a, user_regs.regs[2]) : 0;
	}
	return 0;
}

/*
 * starts refuses an interpreter by the words it is called with, as far as they
 * can be seen before there is no way back. begun looks again.
 */
INLINE int starts(struct linux_binprm *b, struct task_struct *t, u32 flags)
{
	u32 role = ROLE(flags);
	if (!role && !t->bpf_storage) /* an ordinary program */
		return 0;
	u64 w = setting(WORD);
	if (!watching(w))
		return 0;
	struct run *r = bpf_task_storage_get(&runs, t, NULL, role ? BPF_STORAGE_CREATE : 0);
	if (!r)
		return 0;
	bool script = READ(b, interp) != READ(b, filename); /* this is the interpreter of one, which was judged */
	r->becomes = role;
	r->manager = role == INSTALLER || (script && r->manager);
	struct words s = {.role = role, .argc = MOST, .list = 1, .at = arguments()};
	if (role && role != INSTALLER && !script && s.at) { /* a script's interpreter gets other words */
		r->words = s;
		u32 reason = refuses(r);
		/* What cannot be read now is looked at again. */
		if (reason && !r->words.unknown && MODE(w) == ENFORCE) {
			struct verdict v = {.word = w};
			return refuse(&v, INTERPRET, reason, b->file);
		}
	}
	return 0;
}

/* told says whether a variable of the environment has an interpreter run code, or files that are judged by no name. */
INLINE bool told(u32 role, char *s)
{
	switch (role) {
	case PYTHON:
		return BEGINS(s, "PYTHONINSPECT=");
	case PERL:
		return BEGINS(s, "PERL5OPT=");
	case NODE:
		return BEGINS(s, "NODE_OPTIONS=");
	case JAVA:
	case JAVA_TOOL:
		return BEGINS(s, "CLASSPATH=") || BEGINS(s, "JAVA_TOOL_OPTIONS=") || BEGINS(s, "_JAVA_OPTIONS=") || BEGINS(s, "JDK_JAVA");
	case PHP:
		return BEGINS(s, "PHPRC=") || BEGINS(s, "PHP_INI_SCAN_DIR=");
	case LUA:
		return BEGINS(s, "LUA_INIT") || BEGINS(s, "LUA_PATH");
	case SHELL:
		return BEGINS(s, "BASH_ENV=") || BEGINS(s, "ENV=") || BEGINS(s, "BASH_FUNC_") || BEGINS(s, "SHELLOPTS=");
	}
	return 0;
}

/* each_string goes through the words and then the environment, which lies behind them. */
static long each_string(u32 i, void *none)
{
	struct run *r = run_of(bpf_get_current_task_btf());
	if (!r)
		return 1;
	struct words *s = &r->words;
	long n = bpf_probe_read_user_str(r->word, WORDSIZE, (void *)s->at);
	if (n < 0)
		return 1;
	if (!n) /* how kernels say that it is empty */
		r->word[0] = 0, n = 1;
	if (!s->argc && !s->past && told(s->role, r->word))
		return 1;
	s->past = n == WORDSIZE; /* the next one may be the rest of it */
	s->at += s->past ? n - 1 : n;
	if (s->past)
		return 0;
	if (s->argc)
		s->argc--;
	else
		s->envc--;
	return !s->argc && !s->envc;
}

/* surrounded says whether the environment of a new program tells it what to run, or cannot be read. */
INLINE bool surrounded(struct run *r, struct linux_binprm *b)
{
	struct words *s = &r->words;
	s->at = READ(b, p), s->argc = READ(b, argc), s->envc = READ(b, envc), s->past = 0;
	if (s->argc || s->envc)
		bpf_loop(1 << 17, each_string, NULL, 0);
	return *(volatile u32 *)&s->argc || *(volatile u32 *)&s->envc;
}

/* begun looks at the words that nobody can change any more. */
INLINE void begun(struct linux_binprm *b, struct task_struct *task)
{
	struct run *r = run_of(task);
	if (!r)
		return;
	u64 w = setting(WORD);
	u32 role = r->becomes;
	/* What root's package manager starts is trusted to tell interpreters what to do. */
	bool manager = r->manager && !(u32)bpf_get_current_uid_gid();
	r->role = NO_ROLE, r->becomes = NO_ROLE, r->names = 0;
	if (!watching(w)) {
		r->vouched = BY_NOBODY;
		return;
	}
	if (role == INSTALLER) {
		if (manager)
			r->vouched = BY_INSTALLER, r->session = session(task);
		return;
	}
	if (!role)
		return;
	struct words s = {.role = role, .at = READ(b, p), .argc = READ(b, argc)};
	r->words = s;
	u32 reason = refuses(r);
	bool file = r->words.program == FILE && !r->words.unknown;
	r->role = r->words.role;
	if (file && !reason)
		add_name(r);
	if (!reason && r->role && !r->words.may && surrounded(r, b)) {
		if (r->role == SHELL)
			file = 0; /* as if somebody typed */
		else
			reason = INLINE_CODE;
	}
	if (reason) {
		nameless(w, INTERPRET, reason, NULL);
		if (MODE(w) == ENFORCE)
			bpf_send_signal(SIGKILL); /* before its first instruction */
		return;
	}
	if (file) { /* it is trusted, or will not be read */
		r->manager = manager;
		r->vouched = manager ? BY_INSTALLER : vouched(r, task) ?: BY_SCRIPT, r->session = session(task);
	} else if (r->role == SHELL && r->words.program == STDIN)
		r->vouched = BY_NOBODY; /* somebody types */
}

/* A child is what its parent is, until it executes something. */
SEC("lsm/task_alloc")
int forked(u64 *ctx)
{
	struct task_struct *child = (void *)ctx[0];
	struct run *r = run_of(bpf_get_current_task_btf());
	if (!r)
		return 0;
	struct run *c = bpf_task_storage_get(&runs, child, NULL, BPF_STORAGE_CREATE);
	if (!c) /* no memory: then there is no child */
		return -ENOMEM;
	c->role = r->role, c->names = r->names, c->vouched = r->vouched, c->session = r->session, c->manager = r->manager;
	__builtin_memcpy(c->name, r->name, sizeof(c->name));
	return 0;
}

/* ---- the files it opens ---- */

INLINE void name_of(struct dentry *d, struct name *n)
{
	char text[NAME] = {};
	bpf_probe_read_kernel_str(text, NAME, READ(d, d_name.name));
	__builtin_memcpy(n, text, sizeof(*n));
}

/* ends says whether a name ends so, of which v has the last eight bytes. */
INLINE bool ends(u64 v, const char *so, int n)
{
	u64 w = 0;
	for (int i = 0; i < n; i++)
		w |= (u64)(u8)so[i] << 8 * i;
	return v >> 8 * (8 - n) == w;
}

#define ENDS(v, so) ends(v, so, sizeof(so) - 1)

/* is_code says whether a name's end is that of program text for this role. role.go has the same ends, and a test that it does. */
INLINE bool is_code(u32 role, u64 v)
{
	switch (role) {
	case PYTHON:
		return ENDS(v, ".py") || ENDS(v, ".pyc") || ENDS(v, ".pyo") || ENDS(v, ".pyw") || ENDS(v, ".pyz") || ENDS(v, ".pth") ||
		       (ENDS(v, ".zip") && (u8)(v >> 24) <= '9' && ((u8)v == 'n' || (u8)(v >> 8) == 'n')); /* python313.zip, where it looks first */
	case PERL:
		return ENDS(v, ".pl") || ENDS(v, ".pm") || ENDS(v, ".ph") || ENDS(v, ".al") || ENDS(v, ".ix") || ENDS(v, ".bs") || ENDS(v, ".pmc");
	case RUBY:
		return ENDS(v, ".rb") || ENDS(v, ".gemspec");
	case NODE:
		return ENDS(v, ".js") || ENDS(v, ".mjs") || ENDS(v, ".cjs") || ENDS(v, "age.json"); /* package.json names a package's program text */
	case JAVA:
	case JAVA_TOOL:
	case JAVA_SHELL:
		return ENDS(v, ".jar") || ENDS(v, ".JAR") || ENDS(v, ".jsa") || ENDS(v, "modules") || ENDS(v, ".java") || ENDS(v, ".class");
	case PHP:
		return ENDS(v, ".php") || ENDS(v, ".inc") || ENDS(v, ".phar");
	case LUA:
		return ENDS(v, ".lua");
	case TCL:
	case EXPECT:
		return ENDS(v, ".tcl") || ENDS(v, ".tm") || ENDS(v, "tclIndex");
	case AWK:
		return ENDS(v, ".awk");
	case SHELL:
		return ENDS(v, ".sh") || ENDS(v, ".zsh") || ENDS(v, ".ksh") || ENDS(v, ".bash") || ENDS(v, ".dash");
	}
	return 0;
}

/* end_of returns the last eight bytes of a name, whose first ones are in n. */
INLINE u64 end_of(struct name *n, const void *text, u32 len)
{
	u64 end = 0;
	if (len >= 8)
		bpf_probe_read_kernel(&end, 8, text + len - 8);
	else
		end = n->part[0] << (8 * (8 - len) & 63);
	return end;
}

/* Where the name of a program file or of a module leads to. */
SEC("lsm/inode_follow_link")
int followed(u64 *ctx)
{
	struct run *r = run_of(bpf_get_current_task_btf());
	if (!r || !r->role || r->names > NAMES || !watching(setting(WORD)))
		return 0;
	struct dentry *d = (void *)ctx[0];
	struct name n = {};
	name_of(d, &n);
	bool module = is_code(r->role, end_of(&n, READ(d, d_name.name), READ(d, d_name.len)));
	if (!module && !is_name(r, &n))
		return 0;
	struct inode *i = (void *)ctx[1];
	char *to = READ(i, i_link);
	long len = to ? bpf_probe_read_kernel_str(r->word, WORDSIZE, to) : 0;
	if (len <= 0)
		r->names = NAMES + 1;
	else if (!module || len < 9 || !is_code(r->role, end_of(&n, r->word, len - 1)))
		add_name(r);
	return 0;
}

/* is_cache: the directory in which Python keeps what it compiled. */
INLINE bool is_cache(struct dentry *dir)
{
	struct name n = {};
	name_of(dir, &n);
	return BEGINS((char *)&n, "__pycache__\0");
}

/* interprets judges a file that is opened for reading. */
INLINE int interprets(struct file *f)
{
	if (!(f->f_mode & FMODE_READ))
		return 0;
	struct run *r = run_of(bpf_get_current_task_btf());
	if (!r || !r->role)
		return 0;
	u64 w = setting(WORD);
	if (!watching(w))
		return 0;
	struct inode *i = f->f_inode;
	u32 type = i->i_mode & S_IFMT;
	/* A shell may be told anything by a pipe. */
	if (type == S_IFDIR || (type != S_IFREG && (r->role == SHELL || r->role == AWK)))
		return 0;
	struct dentry *d = READ(f, f_path.dentry);
	struct name n = {};
	name_of(d, &n);
	u64 end = end_of(&n, READ(d, d_name.name), READ(d, d_name.len));
	bool program = is_name(r, &n);
	if (!is_code(r->role, end) && !program)
		return 0;
	void *task = bpf_get_current_task_btf();
	struct verdict v = {.word = w};
	count(JUDGED);
	/*
	 * From here on nobody opens it for writing: an interpreter reads its program
	 * bit by bit. Who has opened it is seen by knows.
	 */
	struct fact *fact = bpf_inode_storage_get(&facts, i, NULL, BPF_STORAGE_CREATE);
	u64 code = fact ? __sync_fetch_and_or(&fact->code, 1) : 0;
	u32 reason = fact ? knows(i, fact, w, &v) : UNREADABLE;
	if (!reason)
		return 0;
	if (fact && !code)
		__sync_fetch_and_and(&fact->code, 0);
	/*
	 * The agent has not come to show what is just being installed. It is no worse than the code in words that is allowed
	 * there. A script that is a package manager is not what it installs.
	 */
	if (reason == UNSEEN && !(program && r->manager) && vouched(r, task) == BY_INSTALLER)
		return 0;
	if (r->role == PYTHON && ENDS(end, ".pyc") && is_cache(READ(d, d_parent)))
		return ANSWER(w); /* it takes the source instead, and nobody tried anything */
	return refuse(&v, INTERPRET, reason, f);
}
