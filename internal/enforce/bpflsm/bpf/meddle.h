/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Code that reaches a trusted process from outside. It is a part of
 * cordon.bpf.c, apart from what judges files.
 */
#pragma once

/* program names what a process runs. */
INLINE struct dentry *program(struct task_struct *t)
{
	struct mm_struct *mm = READ(t, mm);
	struct file *exe = mm ? READ(mm, exe_file) : NULL;
	return exe ? READ(exe, f_path.dentry) : NULL;
}

/*
 * meddles decides about who would change what another process, or itself, has
 * in memory, be it code or not (ptrace(2), process_vm_writev(2), pidfd_getfd(2),
 * /proc/PID/mem). The kernel asks the same question whether it is to read or to
 * write. What takes only a look (PTRACE_MODE_READ) is not asked about.
 */
INLINE int meddles(struct task_struct *target)
{
	u64 w = setting(WORD);
	if (MODE(w) == OFF || setting(SCOPE) || is_kin(bpf_get_current_task_btf()))
		return 0;
	count(JUDGED);
	return nameless(w, MEMORY, MEDDLES, program(target));
}

/* has_descriptors: it is the agent, or was just forked by it: that shares its memory until it executes something. */
INLINE bool has_descriptors(struct task_struct *t)
{
	struct task_struct *parent = t->real_parent;
	return is_kin(t) || (parent && t->mm && t->mm == parent->mm && is_kin(parent));
}

/* The agent itself is never traced by others: they would have its maps afterwards. */
SEC("lsm/ptrace_access_check")
int traced(u64 *ctx)
{
	if (!(ctx[1] & PTRACE_MODE_ATTACH))
		return 0;
	if (!has_descriptors((void *)ctx[0]) || is_kin(bpf_get_current_task_btf()))
		return meddles((void *)ctx[0]);
	count(GUARDED);
	return -EPERM;
}

SEC("lsm/ptrace_traceme")
int traceme(u64 *ctx) { return meddles(bpf_get_current_task_btf()); }

#define PROC 0x9fa0

/*
 * in_proc decides about who opens a file of proc for writing.
 *
 * /proc/PID/mem: the kernel asks nobody about a process's own, and writes there
 * through any protection: a shell could have it filled by others.
 *
 * kernel.ftrace_enabled: see switched. Who has it open could write later, be it
 * before there is anybody else to refuse that.
 */
INLINE int in_proc(struct dentry *d)
{
	char name[16] = {};
	bpf_probe_read_kernel_str(name, sizeof(name), READ(d, d_name.name));
	if (name[0] == 'm' && name[1] == 'e' && name[2] == 'm' && !name[3])
		return meddles(bpf_get_current_task_btf());
	u64 *first = (u64 *)name, *last = (u64 *)(name + 8);
	if (*first != CHARS8('f', 't', 'r', 'a', 'c', 'e', '_', 'e') || *last != CHARS8('n', 'a', 'b', 'l', 'e', 'd', 0, 0))
		return 0;
	count(GUARDED);
	return -EBUSY;
}

/*
 * switched decides about each write to a sysctl, by whatever call, and whenever
 * it was opened. It is attached to the root of all cgroups, and tracing is not
 * what calls it.
 *
 * kernel.ftrace_enabled: 0 would have the kernel call none of the other programs
 * any more, without a word, so nobody writes it as long as they are loaded. (The
 * kernel itself answers EBUSY while something is patched by the same means.)
 */
SEC("cgroup/sysctl")
int switched(struct bpf_sysctl *ctx)
{
	char name[32] = {};
	u64 *n = (u64 *)name;
	if (!ctx->write || bpf_sysctl_get_name(ctx, name, sizeof(name), 0) < 0)
		return 1;
	if (n[0] != CHARS8('k', 'e', 'r', 'n', 'e', 'l', '/', 'f') || n[1] != CHARS8('t', 'r', 'a', 'c', 'e', '_', 'e', 'n') ||
	    n[2] != CHARS8('a', 'b', 'l', 'e', 'd', 0, 0, 0))
		return 1;
	count(GUARDED);
	bpf_set_retval(-EBUSY);
	return 0;
}

/*
 * What the kernel itself would keep from root if it were locked down for its
 * integrity (kernel_lockdown(7)): ways to its memory, also by devices and what is
 * there for debugging, or for a BPF program to that of others. Modules and
 * kernels are judged where they are read.
 */
SEC("lsm/locked_down")
int locked(u64 *ctx)
{
	u32 what = ctx[0];
	u64 w = setting(WORD);
	if (MODE(w) == OFF || setting(SCOPE))
		return 0;
	if (what <= ENUM(enum lockdown_reason, LOCKDOWN_MODULE_SIGNATURE) || what == ENUM(enum lockdown_reason, LOCKDOWN_KEXEC) ||
	    what >= ENUM(enum lockdown_reason, LOCKDOWN_INTEGRITY_MAX))
		return 0;
	/*
	 * An image of the whole memory could be another's; who only looks at /sys/power asks as well, so that it is no event.
	 * Who asks in the kernel's own debugger has stopped all processors, and whoever may hold what an event waits for.
	 */
	if (what == ENUM(enum lockdown_reason, LOCKDOWN_HIBERNATION) || what == ENUM(enum lockdown_reason, LOCKDOWN_XMON_WR) ||
	    (ENUM_EXISTS(enum lockdown_reason, LOCKDOWN_DBG_WRITE_KERNEL) && what == ENUM(enum lockdown_reason, LOCKDOWN_DBG_WRITE_KERNEL)))
		return keep_out() ? -EPERM : 0;
	count(JUDGED);
	return nameless(w, MEMORY, MEDDLES, NULL);
}
