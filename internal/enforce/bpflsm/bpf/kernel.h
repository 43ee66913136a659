/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What the programs know of the kernel: the helpers they call (bpf-helpers(7))
 * and the fields they read. Each struct names only those; where they are is
 * found out when the programs are loaded (CO-RE), from the kernel's own type
 * information. Names after ___ are other shapes of the same struct.
 */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;
typedef _Bool bool;

#define NULL ((void *)0)
#define SEC(name) __attribute__((section(name), used))
#define INLINE static __attribute__((always_inline)) inline
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name
#define __array(name, val) typeof(val) *name[]

#define HELPER(id) (void *)id
static void *(*bpf_map_lookup_elem)(void *, const void *) = HELPER(1);
static long (*bpf_map_update_elem)(void *, const void *, const void *, u64) = HELPER(2);
static u64 (*bpf_ktime_get_ns)(void) = HELPER(5);
static u64 (*bpf_get_current_pid_tgid)(void) = HELPER(14);
static u64 (*bpf_get_current_uid_gid)(void) = HELPER(15);
static long (*bpf_get_current_comm)(void *, u32) = HELPER(16);
static long (*bpf_map_delete_elem)(void *, const void *) = HELPER(3);
static long (*bpf_sysctl_get_name)(void *, char *, unsigned long, u64) = HELPER(101);
static long (*bpf_send_signal)(u32) = HELPER(109);
static long (*bpf_probe_read_user)(void *, u32, const void *) = HELPER(112);
static long (*bpf_probe_read_user_str)(void *, u32, const void *) = HELPER(114);
static long (*bpf_probe_read_kernel)(void *, u32, const void *) = HELPER(113);
static long (*bpf_probe_read_kernel_str)(void *, u32, const void *) = HELPER(115);
static void *(*bpf_ringbuf_reserve)(void *, u64, u64) = HELPER(131);
static void (*bpf_ringbuf_submit)(void *, u64) = HELPER(132);
static void *(*bpf_inode_storage_get)(void *, void *, void *, u64) = HELPER(145);
static long (*bpf_d_path)(void *, char *, u32) = HELPER(147);
static void *(*bpf_task_storage_get)(void *, void *, void *, u64) = HELPER(156);
static void *(*bpf_get_current_task_btf)(void) = HELPER(158);
static void *(*bpf_task_pt_regs)(void *) = HELPER(175);
static long (*bpf_loop)(u32, void *, void *, u64) = HELPER(181);
static int (*bpf_set_retval)(int) = HELPER(187);
static long (*bpf_ima_file_hash)(void *, void *, u32) = HELPER(193);

#define BPF_PROG_LOAD 5
#define BPF_PROG_ATTACH 8
#define BPF_PROG_DETACH 9
#define BPF_LINK_CREATE 28
#define BPF_PROG_TYPE_TRACING 26
#define BPF_PROG_TYPE_EXT 28
#define BPF_PROG_TYPE_LSM 29
#define BPF_MODIFY_RETURN 26
#define BPF_CGROUP_SYSCTL 18
#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_MAP_TYPE_LRU_HASH 9
#define BPF_MAP_TYPE_ARRAY_OF_MAPS 12
#define BPF_MAP_TYPE_RINGBUF 27
#define BPF_MAP_TYPE_INODE_STORAGE 28
#define BPF_MAP_TYPE_TASK_STORAGE 29
#define BPF_F_NO_PREALLOC 1
#define BPF_STORAGE_CREATE 1

#define EPERM 1
#define ENOENT 2
#define EBUSY 16
#define ENOMEM 12
#define ETXTBSY 26

#define S_IFMT 0170000
#define S_IFREG 0100000
#define S_IFBLK 0060000
#define S_IFDIR 0040000
#define S_IFCHR 0020000
#define MAJOR(dev) ((dev) >> 20)
#define PROT_EXEC 4
#define PROT_WRITE 2
#define MAP_SHARED 1
#define MAP_PRIVATE 2
#define MAP_ANONYMOUS 32
#define VM_WRITE 2
#define VM_EXEC 4
#define VM_SHARED 8
#define VM_MAYWRITE 0x20
#define O_NONBLOCK 04000
#define FMODE_READ 1
#define FMODE_WRITE 2
#define SIGKILL 9
#define PTRACE_MODE_ATTACH 2
#define READ_IMPLIES_EXEC 0x0400000
#define S_IMA (1 << 10)
#define S_VERITY (1 << 16)
#define SB_KERNMOUNT (1 << 22)
#define F_SEAL_WRITE 8
#define HASH_ALGO_SHA256 4

struct bpf_sysctl { u32 write, file_pos; };

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct timespec64 { s64 tv_sec; long tv_nsec; };
struct rb_node;
struct block_device;
struct super_block { u32 s_dev; unsigned long s_flags, s_magic; struct block_device *s_bdev; };
struct atomic_t { int counter; };
typedef struct { int counter; } atomic_counter;
struct inode {
	u16 i_mode;
	unsigned long i_ino;
	u32 i_generation, i_nlink, i_rdev, i_flags;
	s64 i_size;
	atomic_counter i_writecount;
	struct super_block *i_sb;
	char *i_link; /* where a short symbolic link leads to */
};
struct inode___ctime { struct timespec64 i_ctime; };    /* until 6.5 */
struct inode___ctime2 { struct timespec64 __i_ctime; }; /* until 6.10 */
struct inode___ctime3 { s64 i_ctime_sec; u32 i_ctime_nsec; };

struct qstr { u32 len; const unsigned char *name; };
struct dentry { struct dentry *d_parent; struct qstr d_name; struct inode *d_inode; };
struct vfsmount { struct super_block *mnt_sb; };
struct path { struct vfsmount *mnt; struct dentry *dentry; };
struct address_space { struct inode *host; };
struct file { u32 f_mode, f_flags; struct inode *f_inode; struct path f_path; struct address_space *f_mapping; };
struct io_uring_cmd { struct file *file; u32 cmd_op; };

struct linux_binprm { struct file *file; unsigned long p; int argc, envc; const char *filename, *interp; };
struct linux_binprm___check { u32 is_check : 1; }; /* 6.14 */
struct anon_vma;
struct vm_area_struct { unsigned long vm_flags; struct file *vm_file; struct anon_vma *anon_vma; };
struct mm_struct { struct file *exe_file; };
struct fdtable { struct file **fd; };
struct files_struct { struct fdtable *fdt; };
struct task_struct { struct task_struct *group_leader, *real_parent; struct mm_struct *mm; int pid, tgid; u32 flags, ptrace, personality; struct files_struct *files; void *bpf_storage; };
struct task_struct___audit { u32 sessionid; }; /* CONFIG_AUDIT */
struct pt_regs___x86 { unsigned long dx, si, orig_ax, cs; };
struct user_pt_regs { u64 regs[31]; };
struct pt_regs___arm { struct user_pt_regs user_regs; int syscallno; };

struct list_head { struct list_head *next; };
struct gendisk { char disk_name[32]; struct block_device *part0; u32 open_partitions; struct list_head slave_bdevs; };
struct block_device { u32 bd_dev; atomic_counter bd_openers; struct gendisk *bd_disk; };
struct block_device___int { int bd_openers; }; /* until 5.19 */
struct bdev_inode { struct block_device bdev; struct inode vfs_inode; };

struct bpf_map { char name[16]; };
union bpf_attr { struct { u32 prog_type, expected_attach_type, attach_btf_id; }; struct { u32 attach_type; }; };

struct shmem_inode_info { u32 seals; struct inode vfs_inode; };

struct ovl_path { struct dentry *dentry; };
struct ovl_entry { u32 __numlower; struct ovl_path __lowerstack[1]; };
struct ovl_inode { unsigned long flags; struct inode vfs_inode; struct dentry *__upperdentry; struct ovl_entry *oe; };
struct ovl_inode___old { struct inode *lowerdata; struct ovl_path lowerpath; }; /* until 6.4 */

#pragma clang attribute pop

enum ovl_inode_flag { OVL_UPPERDATA = 3 };
enum kernel_read_file_id { READING_MODULE = 2, READING_KEXEC_IMAGE = 3, READING_KEXEC_INITRAMFS = 4 };
enum kernel_read_file_id___new { READING_MODULE_COMPRESSED = 3 }; /* 6.14 */
enum kernel_load_data_id { LOADING_MODULE = 2, LOADING_KEXEC_IMAGE = 3, LOADING_KEXEC_INITRAMFS = 4 };

enum lockdown_reason { LOCKDOWN_MODULE_SIGNATURE = 1, LOCKDOWN_KEXEC = 4, LOCKDOWN_HIBERNATION = 5, LOCKDOWN_XMON_WR = 17, LOCKDOWN_DBG_WRITE_KERNEL = 19 /* 5.19 */, LOCKDOWN_INTEGRITY_MAX = 21 };

/* CHARS is the first four characters of a name, as a little-endian number. */
#define CHARS(a, b, c, d) ((a) | (b) << 8 | (c) << 16 | (d) << 24)

#define CHARS8(a, b, c, d, e, f, g, h) ((u64)CHARS(a, b, c, d) | (u64)CHARS(e, f, g, h) << 32)

#define EXISTS(type, field) __builtin_preserve_field_info(((type *)0)->field, 2)
#define OFFSET(type, field) __builtin_preserve_field_info(((type *)0)->field, 0)
#define ENUM(type, value) __builtin_preserve_enum_value(*(type *)value, 1)
#define ENUM_EXISTS(type, value) __builtin_preserve_enum_value(*(type *)value, 0)
/* READ reads a field through a pointer that the verifier does not know. */
#define READ(ptr, field) \
	({ \
		typeof((ptr)->field) _v = 0; \
		bpf_probe_read_kernel(&_v, sizeof(_v), __builtin_preserve_access_index(&(ptr)->field)); \
		_v; \
	})
/* GET reads a field through one that it does know. */
#define GET(ptr, field) ((ptr)->field)
