/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The programs that decide, in the kernel, what may become code.
 *
 * Content is the truth: a file may run if the SHA-256 of its content is in the
 * active set. A verdict is remembered with the inode in memory (facts), for as
 * long as nobody could have changed the file since. User space is never asked,
 * so a dead agent changes nothing. What is not known is refused.
 */
#include "kernel.h"

char LICENSE[] SEC("license") = "GPL";

/* ---- shared with the Go side: maps.go has the same numbers ---- */

enum setting { WORD, SCOPE, ASKER, ASKED, ASKED_FILE, PINS, PINS_FILE, HOME, HOME_FILE, READER, ASKED_GROUND, SETTINGS = 16 };

/* The word says everything that has to change at once. */
#define MODE(w) ((w) & 3)
#define OFF 0
#define AUDIT 1
#define ENFORCE 2
#define SLOT(w) (((w) >> 2) & 1)
#define ANON_DENY (1 << 3)
#define ANY_SIZE (1 << 4)
#define TRUSTED_SCRIPTS (1 << 5)
#define POLICY(w) ((w) >> 32)

/* The flags of a key. */
#define AGENT 2
#define WRITES_DISKS 4
#define NO_ANONYMOUS 8
#define COMMANDS_DISKS 16
#define ROLE(flags) ((flags) >> 8)

enum counter { JUDGED, REFUSED, WOULD, UNKNOWN, HASHED, WRITES, DROPPED, GUARDED, COUNTERS };
enum hook { EXEC = 1, CHECK, MAP, PROTECT, KERNEL, INTERPRET, MEMORY, DISK, COMMAND };
enum reason {
	NOT_TRUSTED = 1, /* the only verdict on a content; all others say that it cannot be known */
	WRITTEN, UNREADABLE, FILESYSTEM, UNSEALED, IRREGULAR, DIRTY, ANONYMOUS, NOT_A_FILE, UNSEEN, NO_POLICY, INLINE_CODE, LENT,
	MEDDLES, BENEATH, MEASURED, BYPASS,
};

struct event {
	u64 at; /* nanoseconds since boot */
	u32 pid;
	u8 hook, reason, mode, hashed;
	u8 digest[32];
	char comm[16];
	char path[512];
};

/* A key of a set: a digest, or the size of a trusted content and zeros. */
struct key { u64 word[4]; };

struct set {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(struct key));
	__uint(value_size, sizeof(u32));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__type(key, u32);
	__array(values, struct set);
} sets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SETTINGS);
	__type(key, u32);
	__type(value, u64);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, u32);
	__type(value, u64);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} events SEC(".maps");

INLINE u64 setting(u32 i)
{
	u64 *v = bpf_map_lookup_elem(&settings, &i);
	return v ? *(volatile u64 *)v : 0;
}

INLINE void count(u32 i)
{
	u64 *v = bpf_map_lookup_elem(&counters, &i);
	if (v)
		__sync_fetch_and_add(v, 1); /* a sleepable program may be preempted on its CPU */
}

#include "past.h"

/* ---- telling ---- */

struct verdict { u64 word; u8 digest[32]; u32 hashed; };

INLINE struct event *begin(u64 w, u32 hook, u32 reason, struct verdict *v)
{
	count(MODE(w) == ENFORCE ? REFUSED : WOULD);
	if (reason != NOT_TRUSTED && reason != ANONYMOUS && (reason < MEDDLES || reason == MEASURED))
		count(UNKNOWN);
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		count(DROPPED);
		return NULL;
	}
	e->at = bpf_ktime_get_ns();
	e->pid = bpf_get_current_pid_tgid() >> 32;
	e->hook = hook, e->reason = reason, e->mode = MODE(w);
	e->hashed = v && v->hashed;
	if (e->hashed)
		__builtin_memcpy(e->digest, v->digest, 32);
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	e->path[0] = 0;
	return e;
}

#define ANSWER(w) (MODE(w) == ENFORCE ? -EPERM : 0)

/*
 * DECIDED is what a program returns: one of two constants in sight of the
 * verifier. It does not know what the compiler has put aside in half a word.
 */
#define DECIDED(verdict) \
	({ \
		int _v = (verdict); \
		asm volatile("" : "+r"(_v)); \
		_v ? -EPERM : 0; \
	})

/* nameless refuses something of which only a name is known. */
INLINE int nameless(u64 w, u32 hook, u32 reason, struct dentry *d)
{
	struct event *e = begin(w, hook, reason, NULL);
	if (e) {
		if (d)
			bpf_probe_read_kernel_str(e->path, sizeof(e->path), READ(d, d_name.name));
		bpf_ringbuf_submit(e, 0);
	}
	return ANSWER(w);
}

/* refuse can name the path: only sleepable programs may ask for it. */
INLINE int refuse(struct verdict *v, u32 hook, u32 reason, struct file *f)
{
	struct event *e = begin(v->word, hook, reason, v);
	if (e) {
		if (bpf_d_path(&f->f_path, e->path, sizeof(e->path)) < 0) {
			struct dentry *d = READ(f, f_path.dentry);
			bpf_probe_read_kernel_str(e->path, sizeof(e->path), READ(d, d_name.name));
		}
		bpf_ringbuf_submit(e, 0);
	}
	return ANSWER(v->word);
}

/* running is the flags of the program that the current process runs, 0 if it was not judged. */
INLINE u32 running(void)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct mm_struct *mm = t->mm;
	if (!mm)
		return 0;
	struct file *exe = mm->exe_file;
	if (!exe)
		return 0;
	struct inode *i = exe->f_inode;
	if (!i)
		return 0;
	struct fact *fact = bpf_inode_storage_get(&facts, i, NULL, 0);
	return fact && fact->trusted.policy ? fact->trusted.flags : 0;
}

#include "disk.h"

/* ---- deciding ---- */

INLINE bool in_scope(struct inode *i)
{
	u64 scope = setting(SCOPE);
	return !scope || scope == i->i_sb->s_dev;
}

/* stable says why the content of a file could change between being hashed and being run. */
INLINE u32 stable(struct inode *i)
{
	if ((i->i_mode & S_IFMT) != S_IFREG)
		return IRREGULAR;
	if (i->i_sb->s_flags & SB_KERNMOUNT) {
		/*
		 * A memory file (memfd, System V segment). Nobody counts who can write to
		 * it, so it must be sealed against writing: then its content decides.
		 */
		struct shmem_inode_info *s = (void *)i - OFFSET(struct shmem_inode_info, vfs_inode);
		if (i->i_sb->s_magic != TMPFS || !(READ(s, seals) & F_SEAL_WRITE))
			return UNSEALED;
		return 0;
	}
	if (i->i_writecount.counter > 0)
		return WRITTEN;
	if (i->i_sb->s_magic != OVERLAY && !holds(i->i_sb->s_magic))
		return FILESYSTEM;
	return 0;
}

/* counts says whether a verdict still does, under the policy in force and for the content that the file has. What an overlay shows has to be the same, too. */
INLINE bool counts(struct past *p, struct inode *i, u64 opens, u64 w)
{
	u64 sec;
	u32 nsec;
	ctime(i, &sec, &nsec);
	return p->policy == POLICY(w) && p->at == opens && p->size == i->i_size && p->sec == sec && p->nsec == nsec;
}

/* remembered says whether the content of a file that is on no overlay is trusted. */
INLINE bool remembered(struct inode *i, struct fact *f, u64 w)
{
	return counts(&f->trusted, i, *(volatile u64 *)&f->opens, w);
}

/* remember writes a verdict down; was says how the file was. */
INLINE void remember(struct past *p, struct past *was, u64 w)
{
	*(volatile u64 *)&p->policy = 0;
	p->at = was->at;
	p->size = was->size, p->sec = was->sec, p->nsec = was->nsec;
	p->flags = was->flags;
	p->below = was->below;
	*(volatile u64 *)&p->policy = POLICY(w);
}

/* find looks a key up in the active set: 1 there, 0 not there, -1 no set. */
INLINE int find(u64 w, struct key *k, u32 *flags)
{
	u32 slot = SLOT(w);
	void *set = bpf_map_lookup_elem(&sets, &slot);
	if (!set)
		return -1;
	u32 *v = bpf_map_lookup_elem(set, k);
	if (!v)
		return 0;
	*flags = *v;
	return 1;
}

/*
 * judge decides about a file that is to become code. It is for sleepable
 * programs. map says that it is to be mapped.
 */
INLINE int judge(struct file *f, u32 hook, u32 *flags)
{
	u64 opens, w = setting(WORD);
	struct inode *i = f->f_inode;
	struct belowfact *under = NULL, *own = NULL;
	struct stranger *stranger;
	u32 reason;

	struct fact *fact = bpf_inode_storage_get(&facts, i, NULL, BPF_STORAGE_CREATE);
	if (!fact) /* no memory at once: nothing is remembered, but writers are still seen */
		own = keyed(i->i_ino, i->i_sb->s_dev, i->i_generation);
	if (hook == MAP) {
		/* Before anything is looked at: a writer sees this, or is seen below. */
		if (fact)
			__sync_fetch_and_or(&fact->code, 1);
		else if (own)
			__sync_fetch_and_or(&own->code, 1);
	}
	if (MODE(w) == OFF || !in_scope(i))
		return 0;
	count(JUDGED);
	bool overlay = i->i_sb->s_magic == OVERLAY;
	/* Nearly always. What else stable asks stays as it was when the verdict was remembered: memory that was sealed stays so. */
	if (fact && !overlay && i->i_writecount.counter <= 0 && remembered(i, fact, w)) {
		*flags = fact->trusted.flags;
		return 0;
	}
	struct verdict v = {.word = w};
	struct past was = {};
	struct below *b = &was.below, after = {};
	reason = stable(i);
	if (reason)
		return refuse(&v, hook, reason, f);
	if (overlay) {
		if (!look(i, b, &under))
			return refuse(&v, hook, FILESYSTEM, f);
		if (hook == MAP) {
			__sync_fetch_and_or(&under->code, 1);
			if (!look(i, b, &under))
				return refuse(&v, hook, WRITTEN, f);
		}
	}
	if (fact) {
		opens = *(volatile u64 *)&fact->opens;
		if (counts(&fact->trusted, i, opens, w) && same(&fact->trusted.below, b)) {
			*flags = fact->trusted.flags;
			return 0;
		}
		stranger = bpf_inode_storage_get(&strangers, i, NULL, 0);
		if (stranger && counts(&stranger->refused, i, opens, w) && same(&stranger->refused.below, b)) {
			__builtin_memcpy(v.digest, stranger->digest, 32);
			v.hashed = 1;
			return refuse(&v, hook, NOT_TRUSTED, f);
		}
	} else if (own) {
		opens = *(volatile u32 *)&own->opens;
	} else {
		return refuse(&v, hook, UNREADABLE, f);
	}
	reason = fact && fact->lent ? LENT : ground(i);
	if (reason)
		return refuse(&v, hook, reason, f);
	ctime(i, &was.sec, &was.nsec);
	was.at = opens, was.size = i->i_size;
	struct key k = {.word = {was.size}};
	int found = 1;
	if (!(w & ANY_SIZE))
		found = find(w, &k, flags);
	if (found > 0) {
		count(HASHED);
		long algo = bpf_ima_file_hash(f, &k, sizeof(k));
		if (algo != HASH_ALGO_SHA256)
			return refuse(&v, hook, UNREADABLE, f);
		__builtin_memcpy(v.digest, &k, 32);
		v.hashed = 1;
		found = find(w, &k, flags);
	}
	/* The policy may have changed meanwhile; what is in force now is what counts. */
	u64 now = setting(WORD);
	if (now != w) {
		v.word = now;
		if (MODE(now) == OFF)
			return 0;
		if (v.hashed)
			found = find(now, &k, flags);
		else
			found = -1;
	}
	if (found < 0)
		return refuse(&v, hook, NO_POLICY, f);
	reason = stable(i);
	if (!reason && overlay && !(look(i, &after, &under) && same(b, &after)))
		reason = WRITTEN;
	if (!reason && opens != (fact ? *(volatile u64 *)&fact->opens : own ? *(volatile u32 *)&own->opens : 0))
		reason = WRITTEN;
	if (!found) {
		stranger = fact && v.hashed && !reason ? bpf_inode_storage_get(&strangers, i, NULL, BPF_STORAGE_CREATE) : NULL;
		if (stranger) {
			__builtin_memcpy(stranger->digest, v.digest, 32);
			remember(&stranger->refused, &was, v.word);
		}
		return refuse(&v, hook, NOT_TRUSTED, f);
	}
	if (reason)
		return refuse(&v, hook, reason, f);
	was.flags = *flags;
	if (fact)
		remember(&fact->trusted, &was, v.word);
	return 0;
}

#include "guard.h"
#include "meddle.h"
#include "interpret.h"

/* ---- where code comes from ---- */

SEC("lsm.s/bprm_check_security")
int exec(u64 *ctx)
{
	struct linux_binprm *b = (void *)ctx[0];
	u32 flags = 0;
	int verdict = judge(b->file, EXEC, &flags);
	/* The last of a chain of interpreters is what it becomes. */
	struct task_struct *t = bpf_get_current_task_btf();
	struct kin *k = flags & AGENT ? bpf_task_storage_get(&kin, t, NULL, BPF_STORAGE_CREATE) : kin_of(t);
	if (k)
		k->becomes = !verdict && flags & AGENT;
	return DECIDED(verdict ? verdict : starts(b, t, flags));
}

/* The new program has its words, but has not run. */
SEC("lsm.s/bprm_committed_creds")
int began(u64 *ctx)
{
	struct task_struct *t = bpf_get_current_task_btf();
	became(t);
	begun((void *)ctx[0], t);
	return 0;
}

/* Only asked: an interpreter wants to know of a script (AT_EXECVE_CHECK, 6.14). */
SEC("lsm.s/bprm_creds_for_exec")
int check(u64 *ctx)
{
	struct linux_binprm *b = (void *)ctx[0];
	u32 flags = 0;
	u64 bits = 0;
	bpf_probe_read_kernel(&bits, __builtin_preserve_field_info(((struct linux_binprm___check *)0)->is_check, 1),
			      (void *)b + OFFSET(struct linux_binprm___check, is_check));
	bits <<= __builtin_preserve_field_info(((struct linux_binprm___check *)0)->is_check, 4);
	bits >>= __builtin_preserve_field_info(((struct linux_binprm___check *)0)->is_check, 5);
	if (!bits)
		return 0;
	return DECIDED(judge(b->file, CHECK, &flags));
}

/*
 * lend notes that a file is mapped by who may write to it. From then on its memory
 * may be lent: a read from elsewhere that is under way fills it (O_DIRECT), also
 * when nobody has the file open or mapped any more. Only another file is free of
 * that, or this one once the kernel has forgotten it. The seal of a memory file
 * waits until nobody has any of it.
 */
INLINE int lend(struct inode *i, u64 w)
{
	if ((i->i_mode & S_IFMT) != S_IFREG || i->i_sb->s_flags & SB_KERNMOUNT)
		return 0;
	struct fact *fact = bpf_inode_storage_get(&facts, i, NULL, BPF_STORAGE_CREATE);
	if (fact)
		*(volatile u64 *)&fact->lent = 1;
	return fact || MODE(w) != ENFORCE || !in_scope(i) ? 0 : -ENOMEM;
}

/*
 * Libraries, the loader, and programs themselves; prot is what will be, not what was
 * asked for. And what may be lent. One program for both, as each costs every mapping.
 */
SEC("lsm.s/mmap_file")
int map(u64 *ctx)
{
	struct file *f = (void *)ctx[0];
	u64 prot = ctx[2];
	u32 flags = 0;
	if (!f)
		return 0;
	if (ctx[3] & MAP_SHARED && f->f_mode & FMODE_WRITE && lend(f->f_inode, setting(WORD)))
		return -ENOMEM;
	if (!(prot & PROT_EXEC))
		return 0;
	u64 reader = setting(READER);
	if (reader && (u32)reader == (u32)bpf_get_current_pid_tgid()) {
		learn(f, reader >> 32);
		return -EPERM; /* it was not meant to be mapped */
	}
	return DECIDED(judge(f, MAP, &flags));
}

/* ---- code without a file: load.go loads the next three only where that is refused to anybody ---- */

/* no_anonymous: the current program may not make code without a file. */
INLINE bool no_anonymous(u64 w)
{
	return MODE(w) != OFF && !setting(SCOPE) && (w & ANON_DENY || running() & NO_ANONYMOUS);
}

/* Memory without a file, or not as the file has it. Not sleepable, as those may not ask what the current program is. */
SEC("lsm/mmap_file")
int conjured(u64 *ctx)
{
	u64 prot = ctx[2], flags = ctx[3];
	if (!(prot & PROT_EXEC) || !(!ctx[0] || flags & MAP_ANONYMOUS || (prot & PROT_WRITE && flags & MAP_PRIVATE)))
		return 0;
	u64 w = setting(WORD);
	return DECIDED(no_anonymous(w) ? nameless(w, MAP, ANONYMOUS, NULL) : 0);
}

/* A page that was not read yet can be filled by whoever handles faults (userfaultfd(2)), also one of code. */
SEC("lsm/inode_init_security_anon")
int filled(u64 *ctx)
{
	struct qstr *q = (void *)ctx[1];
	u64 kind = 0, w = setting(WORD);
	bpf_probe_read_kernel(&kind, sizeof(kind), READ(q, name));
	return DECIDED(kind == CHARS8('[', 'u', 's', 'e', 'r', 'f', 'a', 'u') && no_anonymous(w) ? nameless(w, MAP, ANONYMOUS, NULL) : 0);
}

/* A process for which all that is readable is code gets such a heap too, and nobody is asked about it (brk(2)). */
SEC("lsm/mmap_addr")
int placed(u64 *ctx)
{
	struct task_struct *t = bpf_get_current_task_btf();
	if (!(t->personality & READ_IMPLIES_EXEC))
		return 0;
	u64 w = setting(WORD);
	return DECIDED(no_anonymous(w) ? nameless(w, MAP, ANONYMOUS, NULL) : 0);
}

/* ---- and what becomes code, from wherever ---- */

/* Not sleepable: only what is known already may become executable. */
SEC("lsm/file_mprotect")
int protect(u64 *ctx)
{
	struct vm_area_struct *vma = (void *)ctx[0];
	u64 prot = ctx[2];
	if (!(prot & PROT_EXEC))
		return 0;
	u64 w = setting(WORD);
	if (MODE(w) == OFF)
		return 0;
	if (vma->vm_flags & VM_EXEC) { /* it is code, and stays what it was unless it can be written to from now on */
		if (prot & PROT_WRITE && !(vma->vm_flags & VM_WRITE) && no_anonymous(w))
			return nameless(w, PROTECT, ANONYMOUS, NULL);
		return 0;
	}
	struct file *f = vma->vm_file;
	if (!f) {
		if (no_anonymous(w))
			return nameless(w, PROTECT, ANONYMOUS, NULL);
		return 0;
	}
	struct inode *i = f->f_inode;
	if (!i || !in_scope(i))
		return 0;
	struct dentry *d = READ(f, f_path.dentry);
	count(JUDGED);
	if (!(vma->vm_flags & VM_SHARED) && vma->anon_vma)
		return nameless(w, PROTECT, DIRTY, d); /* pages of it were changed in memory */
	u32 reason = stable(i);
	if (reason)
		return nameless(w, PROTECT, reason, d);
	struct fact *fact = bpf_inode_storage_get(&facts, i, NULL, 0);
	if (!fact || i->i_sb->s_magic == OVERLAY)
		return nameless(w, PROTECT, UNSEEN, d);
	__sync_fetch_and_or(&fact->code, 1);
	if (i->i_writecount.counter > 0 || !remembered(i, fact, w))
		return nameless(w, PROTECT, UNSEEN, d);
	return 0;
}

/* Kernel modules and kernels for kexec are code as well. */
SEC("lsm.s/kernel_read_file")
int readfile(u64 *ctx)
{
	struct file *f = (void *)ctx[0];
	u32 id = ctx[1], flags = 0;
	bool compressed = ENUM_EXISTS(enum kernel_read_file_id___new, READING_MODULE_COMPRESSED) &&
			  id == ENUM(enum kernel_read_file_id___new, READING_MODULE_COMPRESSED);
	if (!compressed && id != ENUM(enum kernel_read_file_id, READING_MODULE) &&
	    id != ENUM(enum kernel_read_file_id, READING_KEXEC_IMAGE) &&
	    id != ENUM(enum kernel_read_file_id, READING_KEXEC_INITRAMFS))
		return 0;
	u64 w = setting(WORD);
	if (MODE(w) == OFF || setting(SCOPE))
		return 0;
	if (!f)
		return nameless(w, KERNEL, NOT_A_FILE, NULL);
	return DECIDED(judge(f, KERNEL, &flags));
}

/* From memory, nobody can say where it came from. */
SEC("lsm/kernel_load_data")
int loaddata(u64 *ctx)
{
	u32 id = ctx[0];
	u64 w = setting(WORD);
	if (MODE(w) == OFF || setting(SCOPE))
		return 0;
	if (id != ENUM(enum kernel_load_data_id, LOADING_MODULE) && id != ENUM(enum kernel_load_data_id, LOADING_KEXEC_IMAGE) &&
	    id != ENUM(enum kernel_load_data_id, LOADING_KEXEC_INITRAMFS))
		return 0;
	count(JUDGED);
	return nameless(w, KERNEL, NOT_A_FILE, NULL);
}

/* ---- who could change it ---- */

/* touched notes that the content of a file may change from now on. */
INLINE int touched(struct inode *i)
{
	u64 w = setting(WORD);
	struct fact *fact = bpf_inode_storage_get(&facts, i, NULL, 0);
	u64 code = 0;
	if (fact) {
		__sync_fetch_and_add(&fact->opens, 1);
		code = fact->code;
	}
	struct belowkey k = {.ino = i->i_ino, .dev = i->i_sb->s_dev, .gen = i->i_generation};
	forget(&k);
	struct belowfact *b = bpf_map_lookup_elem(&belows, &k);
	if (b) {
		__sync_fetch_and_add(&b->opens, 1);
		code |= b->code;
	}
	if (!code || MODE(w) != ENFORCE || !in_scope(i))
		return 0;
	/* It is, or may be, in somebody's memory as code: the kernel says the same of programs. */
	count(WRITES);
	return -ETXTBSY;
}

SEC("lsm/file_open")
int opened(u64 *ctx)
{
	struct file *f = (void *)ctx[0];
	struct inode *i = f->f_inode;
	u32 mode = f->f_mode;
	if (mode & FMODE_WRITE) {
		struct dentry *d = f->f_path.dentry, *parent = d->d_parent;
		if ((i->i_mode & S_IFMT) == S_IFBLK)
			return raw(i, d);
		if ((i->i_mode & S_IFMT) == S_IFCHR && MAJOR(i->i_rdev) == SCSI_GENERIC)
			return commanded(f); /* who writes to it gives commands */
		if ((i->i_mode & S_IFMT) != S_IFREG)
			return 0;
		if (i->i_sb->s_magic == PROC)
			return in_proc(d);
		if ((at_home(parent) || stops_agent(i, d, parent) || measures(i, d, parent)) && keep_out())
			return -EPERM;
		return touched(i);
	}
	u64 asker = f->f_flags & O_NONBLOCK ? setting(ASKER) : 0; /* it opens so: the others are spared the question */
	if (asker && asker == (u32)bpf_get_current_pid_tgid()) {
		/* The agent asks the kernel what it calls this file system, whether that can be relied on, and says that this file is code. */
		u32 at = ASKED;
		u64 dev = i->i_sb->s_dev;
		bpf_map_update_elem(&settings, &at, &dev, 0);
		at = ASKED_FILE;
		dev = i->i_ino;
		bpf_map_update_elem(&settings, &at, &dev, 0);
		at = ASKED_GROUND;
		dev = ground(i);
		bpf_map_update_elem(&settings, &at, &dev, 0);
		if ((i->i_mode & S_IFMT) == S_IFREG) {
			struct fact *fact = bpf_inode_storage_get(&facts, i, NULL, BPF_STORAGE_CREATE);
			if (fact)
				__sync_fetch_and_or(&fact->code, 1);
		}
	}
	return interprets(f);
}

/* truncate(2) opens nothing. */
SEC("lsm/path_truncate")
int truncated(u64 *ctx)
{
	struct path *p = (void *)ctx[0];
	struct dentry *d = p->dentry;
	struct inode *i = d->d_inode;
	if (!i)
		return 0;
	if (at_home(d->d_parent) && keep_out())
		return -EPERM;
	return touched(i);
}

/* An overlay maps the file below it: that one is code, or lent, too. */
SEC("lsm/mmap_backing_file")
int backing(u64 *ctx)
{
	struct vm_area_struct *vma = (void *)ctx[0];
	struct file *f = (void *)ctx[1];
	bool lent = vma->vm_flags & VM_SHARED && vma->vm_flags & VM_MAYWRITE;
	if (!lent && !(vma->vm_flags & VM_EXEC))
		return 0;
	struct fact *fact = bpf_inode_storage_get(&facts, f->f_inode, NULL, BPF_STORAGE_CREATE);
	if (!fact)
		return 0;
	if (vma->vm_flags & VM_EXEC)
		__sync_fetch_and_or(&fact->code, 1);
	if (lent)
		*(volatile u64 *)&fact->lent = 1;
	return 0;
}
