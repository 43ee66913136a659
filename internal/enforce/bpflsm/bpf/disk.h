/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The disks beneath file systems. It is a part of cordon.bpf.c, apart from what
 * judges files.
 *
 * A verdict is remembered while a file is in memory, but its pages come and go.
 * So nobody may write to a device from which code came, or to the disk that it is
 * a part of. What lies beneath it (volumes, arrays) the agent adds.
 */
#pragma once

enum disk { ASKED_FOR = 1, CLOSED }; /* nobody may open it for writing; and nobody has */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, u32);
	__type(value, u32);
} disks SEC(".maps");

/* Devices that were opened for writing since the machine is restricted. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u32);
	__type(value, u32);
} written SEC(".maps");

INLINE u32 device(struct block_device *b) { return READ(b, bd_dev); }

INLINE s32 openers(struct block_device *b)
{
	if (EXISTS(struct block_device___int, bd_openers)) {
		struct block_device___int *old = (void *)b;
		return READ(old, bd_openers);
	}
	return READ(b, bd_openers.counter);
}

INLINE bool closed(u32 dev)
{
	u32 *state = bpf_map_lookup_elem(&disks, &dev);
	return state && *state == CLOSED;
}

/*
 * close_to_writers says whether nobody writes to a device from now on; theirs is
 * how many have it open who may. It says so before it looks for writers, and they
 * the other way round, so that one of the two sees the other.
 */
INLINE bool close_to_writers(struct block_device *b, s32 theirs)
{
	u32 dev = device(b), state = ASKED_FOR;
	if (closed(dev))
		return 1;
	if (bpf_map_update_elem(&disks, &dev, &state, 0))
		return 0;
	if (bpf_map_lookup_elem(&written, &dev) && openers(b) > theirs)
		return 0;
	state = CLOSED;
	return !bpf_map_update_elem(&disks, &dev, &state, 0);
}

/* served says why what a file system has could change without the kernel's doing, 0 if it cannot. */
INLINE u32 served(struct super_block *sb)
{
	struct block_device *part = READ(sb, s_bdev);
	if (!part)
		return 0;
	struct gendisk *disk = READ(part, bd_disk);
	u32 name = 0;
	bpf_probe_read_kernel(&name, sizeof(name), __builtin_preserve_access_index(&disk->disk_name));
	/* A file, another machine or a program is the disk, and may be changed or exchanged. */
	if (name == CHARS('l', 'o', 'o', 'p') || name == CHARS('u', 'b', 'l', 'k') || (name & 0xffffff) == CHARS('n', 'b', 'd', 0))
		return FILESYSTEM;
	struct block_device *whole = READ(disk, part0);
	s32 parts = READ(disk, open_partitions);
	if (!close_to_writers(part, part == whole ? parts + 1 : 1))
		return WRITTEN;
	return part == whole || close_to_writers(whole, parts) ? 0 : WRITTEN;
}

/*
 * ground says why nothing that lies where i does can be relied on, 0 if it can.
 * Of what the kernel's integrity measurement (IMA) has measured, it tells the
 * digest of then, and can be kept from noticing a change.
 * With fs-verity every page that is read is checked against a hash that is with
 * the inode in memory, as our verdict is: then the device may do what it likes.
 */
INLINE u32 ground(struct inode *i)
{
	struct inode *r = i;
	if (i->i_flags & S_IMA)
		return MEASURED;
	if (i->i_sb->s_magic == OVERLAY)
		r = beneath(i);
	if (!r)
		return FILESYSTEM;
	struct super_block *sb = READ(r, i_sb);
	if (!holds(READ(sb, s_magic)))
		return FILESYSTEM;
	return READ(r, i_flags) & S_VERITY ? 0 : served(sb);
}

/* raw decides about who opens a block device for writing. */
INLINE int raw(struct inode *i, struct dentry *d)
{
	u64 w = setting(WORD);
	u32 dev = i->i_rdev, one = 1;
	if (MODE(w) == OFF || setting(SCOPE))
		return 0;
	bool noted = MODE(w) != ENFORCE || !bpf_map_update_elem(&written, &dev, &one, 0);
	if ((noted && !bpf_map_lookup_elem(&disks, &dev)) || running() & WRITES_DISKS)
		return 0; /* whoever installs a boot loader writes to the disk, and has to */
	count(JUDGED);
	return nameless(w, DISK, BENEATH, d);
}
