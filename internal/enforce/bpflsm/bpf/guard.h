/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The guard: while restricted, nobody but the agent touches what restricts; and
 * before that nobody gets hold of what could be used then. It is a part of
 * cordon.bpf.c, apart from what judges code.
 */
#pragma once

/* ---- who is the agent ---- */

/* A process is the agent because of what it executed, so that the next one is too. */
struct kin { u32 is, becomes; };

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct kin);
} kin SEC(".maps");

/* ---- what is guarded ---- */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, u64);
	__type(value, u32);
} cgroups SEC(".maps"); /* inode numbers of the agent's cgroup and those above it */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, u32);
	__type(value, u32);
} askers SEC(".maps"); /* functions of the kernel, by the ids of its type information, that nobody else may answer for */

/* kin_of: most tasks carry nothing of anybody's, and that is seen without asking. */
INLINE struct kin *kin_of(struct task_struct *t)
{
	return t->bpf_storage ? bpf_task_storage_get(&kin, t, NULL, 0) : NULL;
}

INLINE bool is_kin(struct task_struct *t)
{
	struct task_struct *leader = t->group_leader;
	if (!leader)
		return 0;
	struct kin *k = kin_of(leader);
	return k && k->is;
}

/* keep_out says whether the current task has to be kept from something, and counts it. */
INLINE bool keep_out(void)
{
	if (MODE(setting(WORD)) != ENFORCE || is_kin(bpf_get_current_task_btf()))
		return 0;
	count(GUARDED);
	return 1;
}

INLINE bool is_file(struct inode *i, u32 dev, u32 file)
{
	u64 ino = setting(file);
	if (!ino || !i || READ(i, i_ino) != ino)
		return 0;
	struct super_block *sb = READ(i, i_sb);
	return READ(sb, s_dev) == setting(dev);
}

/* at_home: in the directory where the agent keeps its state. */
INLINE bool at_home(struct dentry *dir)
{
	u64 ino = setting(HOME_FILE);
	return ino && dir->d_inode->i_ino == ino && dir->d_inode->i_sb->s_dev == setting(HOME);
}

/* is_pin: the directory of the pins, or what is in it or one below. */
INLINE bool is_pin(struct dentry *d)
{
	for (int i = 0; i < 3; i++) {
		if (is_file(READ(d, d_inode), PINS, PINS_FILE))
			return 1;
		d = READ(d, d_parent);
	}
	return 0;
}

#define SECURITYFS 0x73636673

/* measures: where the kernel is told what to measure (IMA), which it would not trust any more, see ground. */
INLINE bool measures(struct inode *i, struct dentry *d, struct dentry *parent)
{
	char name[8] = {}, dir[4] = {};
	if (i->i_sb->s_magic != SECURITYFS)
		return 0;
	bpf_probe_read_kernel_str(name, sizeof(name), READ(d, d_name.name));
	bpf_probe_read_kernel_str(dir, sizeof(dir), READ(parent, d_name.name));
	return *(u64 *)name == CHARS8('p', 'o', 'l', 'i', 'c', 'y', 0, 0) && *(u32 *)dir == CHARS('i', 'm', 'a', 0);
}

#define CGROUP2 0x63677270

/* stops_agent: a file that freezes or kills the agent's cgroup, or starves it. */
INLINE bool stops_agent(struct inode *i, struct dentry *d, struct dentry *parent)
{
	if (i->i_sb->s_magic != CGROUP2 || (u32)(bpf_get_current_pid_tgid() >> 32) == 1)
		return 0;
	struct inode *above = READ(parent, d_inode);
	u64 dir = READ(above, i_ino);
	if (!bpf_map_lookup_elem(&cgroups, &dir))
		return 0;
	char name[16] = {};
	bpf_probe_read_kernel_str(name, sizeof(name), READ(d, d_name.name));
	/* cgroup.kill, cgroup.freeze, cgroup.type; memory.*, cpu.*, pids.* */
	return !(name[0] == 'c' && name[1] == 'g' && name[7] != 'k' && name[7] != 'f');
}

/* ---- what the guard watches ---- */

/* became: nothing of the agent's past is in a process that executed something else. */
INLINE void became(struct task_struct *t)
{
	struct kin *k = kin_of(t);
	if (!k)
		return;
	k->is = k->becomes && !t->ptrace; /* whoever traces it would be the agent */
	k->becomes = 0;
}

SEC("lsm/task_kill")
int killed(u64 *ctx)
{
	/* Process 1 may: it stops services, and the machine. That releases nothing. */
	if (!ctx[2] || (u32)(bpf_get_current_pid_tgid() >> 32) == 1)
		return 0;
	return is_kin((void *)ctx[0]) && keep_out() ? -EPERM : 0;
}

SEC("lsm/task_setrlimit")
int limited(u64 *ctx)
{
	return is_kin((void *)ctx[0]) && keep_out() ? -EPERM : 0;
}

/*
 * FILLED_IN is a number in the code of a program that is another one once it is
 * loaded: it cannot be changed any more then, as what is in a map could.
 */
#define FILLED_IN(number) \
	({ \
		u64 _v; \
		asm volatile("%0 = " #number " ll" : "=r"(_v)); \
		_v; \
	})

/*
 * is_ours: the names of an agent's maps all begin with what it has chosen when it
 * started. The kernel lets none have another name later, so that each is guarded
 * before anybody can have heard of it.
 */
INLINE bool is_ours(struct bpf_map *m)
{
	u64 name = 0;
	bpf_probe_read_kernel(&name, 7, __builtin_preserve_access_index(&m->name));
	return name == FILLED_IN(0x73656d616e);
}

/*
 * Every way to a map leads through here: by id and by pin. While nothing is
 * restricted, others do not find ours: who has one could write to it afterwards,
 * or have a program do it, be it opened for reading only. It is no refusal,
 * because tools that list all maps go on then, and so does an agent that this one
 * does not know, which starts anew.
 */
SEC("lsm/bpf_map")
int mapped(u64 *ctx)
{
	if (!setting(PINS) || !is_ours((void *)ctx[0]) || is_kin(bpf_get_current_task_btf()))
		return 0;
	return keep_out() ? -EPERM : -ENOENT;
}

/* The maps are made before there is a program that knows who the agent is. So these two come first, which have none. */
INLINE u32 starting(void) { return FILLED_IN(0x676e697472617473); }

SEC("lsm/bpf_map")
int first_mapped(u64 *ctx)
{
	return is_ours((void *)ctx[0]) && (u32)(bpf_get_current_pid_tgid() >> 32) != starting() ? -ENOENT : 0;
}

SEC("lsm/ptrace_access_check")
int first_traced(u64 *ctx)
{
	struct task_struct *t = (void *)ctx[0];
	return ctx[1] & PTRACE_MODE_ATTACH && t->tgid == starting() ? -EPERM : 0;
}

/*
 * A program of type EXT replaces another one's code. Others answer instead of the
 * kernel's function that asks us (fmod_ret), or are asked before us (LSM, until 6.12 with any answer):
 * with 1, which is no error to who looks for one below 0, and we are not called. The former nobody
 * loads as long as we are there, as it could lie in wait for a restriction.
 *
 * One that is attached to sysctls after switched may overrule it, or take its
 * place: all commands for that have the type of the attachment at the same place.
 */
SEC("lsm/bpf")
int command(u64 *ctx)
{
	u32 cmd = ctx[0];
	union bpf_attr *a = (void *)ctx[1];
	if (cmd == BPF_PROG_ATTACH || cmd == BPF_PROG_DETACH || cmd == BPF_LINK_CREATE)
		return READ(a, attach_type) == BPF_CGROUP_SYSCTL && keep_out() ? -EPERM : 0;
	if (cmd != BPF_PROG_LOAD)
		return 0;
	u32 type = READ(a, prog_type), to = READ(a, attach_btf_id);
	if (type == BPF_PROG_TYPE_EXT)
		return keep_out() ? -EPERM : 0;
	if (!bpf_map_lookup_elem(&askers, &to))
		return 0;
	if (type == BPF_PROG_TYPE_LSM) /* process 1 has some of its own */
		return (u32)(bpf_get_current_pid_tgid() >> 32) != 1 && keep_out() ? -EPERM : 0;
	if (type != BPF_PROG_TYPE_TRACING || READ(a, expected_attach_type) != BPF_MODIFY_RETURN)
		return 0;
	count(GUARDED);
	return -EPERM;
}

SEC("lsm/sb_umount")
int unmounted(u64 *ctx)
{
	struct vfsmount *m = (void *)ctx[0];
	struct super_block *sb = m->mnt_sb;
	return setting(PINS) && sb->s_dev == setting(PINS) && keep_out() ? -EPERM : 0;
}

INLINE int removed(struct dentry *d)
{
	return (is_pin(d) || at_home(d->d_parent) || is_file(READ(d, d_inode), HOME, HOME_FILE)) && keep_out() ? -EPERM : 0;
}

SEC("lsm/inode_unlink")
int unlinked(u64 *ctx) { return removed((void *)ctx[1]); }

SEC("lsm/inode_rmdir")
int dir_removed(u64 *ctx) { return removed((void *)ctx[1]); }

SEC("lsm/inode_rename")
int renamed(u64 *ctx)
{
	int verdict = removed((void *)ctx[1]);
	return verdict ? verdict : removed((void *)ctx[3]);
}
