/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The disks beneath file systems. It is a part of cordon.bpf.c, apart from what
 * judges files.
 *
 * A verdict is remembered while a file is in memory, but its pages come and go.
 * So nobody may write to a device from which code came, or to the disk that it is
 * a part of. What lies beneath it (volumes, arrays) the agent adds when it
 * restricts, and the volume with it: others than those are not relied on.
 */
#pragma once

/*
 * Nobody may open it for writing; and nobody has; and it is beneath a volume, or one, so said the agent; and
 * the file system on it is that of when it said so. One that is on no device, as it has several, stands for itself.
 */
enum disk { ASKED_FOR = 1, CLOSED, STACKED, RELIED };

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
	return state && *state >= CLOSED;
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

/* volume says whether a device is made of others, which could be written to, or, of the device mapper, come to be. */
INLINE bool volume(struct gendisk *disk, u32 name)
{
	if ((name & 0xffffff) == CHARS('d', 'm', '-', 0))
		return 1;
	if (!EXISTS(struct gendisk, slave_bdevs)) /* none of those that are told of */
		return 0;
	struct list_head *first = READ(disk, slave_bdevs.next);
	return first != (void *)disk + OFFSET(struct gendisk, slave_bdevs);
}

/* relied says whether the agent found the file system that is on a device, or stands for itself. */
INLINE bool relied(u32 dev)
{
	u32 *state = bpf_map_lookup_elem(&disks, &dev);
	return state && *state == RELIED;
}

/* served says why what a file system has could change without the kernel's doing, 0 if it cannot. */
INLINE u32 served(struct super_block *sb)
{
	struct block_device *part = READ(sb, s_bdev);
	if (!part) { /* in memory; on devices that only it knows (btrfs, zfs); or on a file (erofs, since 6.12) */
		unsigned long magic = READ(sb, s_magic);
		return magic == TMPFS || magic == RAMFS || relied(READ(sb, s_dev)) ? 0 : FILESYSTEM;
	}
	struct gendisk *disk = READ(part, bd_disk);
	u32 name = 0;
	bpf_probe_read_kernel(&name, sizeof(name), __builtin_preserve_access_index(&disk->disk_name));
	/* A file, another machine or a program is the disk, and may be changed or exchanged. */
	if (name == CHARS('l', 'o', 'o', 'p') || name == CHARS('u', 'b', 'l', 'k') || (name & 0xffffff) == CHARS('n', 'b', 'd', 0))
		return FILESYSTEM;
	struct block_device *whole = READ(disk, part0);
	if (volume(disk, name) && !relied(device(part)))
		return FILESYSTEM;
	s32 parts = READ(disk, open_partitions);
	if (!close_to_writers(part, part == whole ? parts + 1 : 1))
		return WRITTEN;
	return part == whole || close_to_writers(whole, parts) ? 0 : WRITTEN;
}

/* The number of a device, or of a file system, is another one's afterwards. */
SEC("lsm/sb_delete")
int gone(u64 *ctx)
{
	struct super_block *sb = (void *)ctx[0];
	struct block_device *part = sb->s_bdev;
	u32 dev = part ? device(part) : sb->s_dev, state = STACKED;
	if (relied(dev))
		bpf_map_update_elem(&disks, &dev, &state, 0);
	return 0;
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

/* ---- commands that pass by the block layer ---- */

#define SCSI_GENERIC 21 /* the major number of /dev/sg* */

/* passes: what the disk does then is between it and who sent the command. */
INLINE bool passes(u32 request)
{
	switch (request) {
	case 1:      /* SCSI_IOCTL_SEND_COMMAND; another device's one means something else */
	case 0x2285: /* SG_IO */
	case 0x5393: /* CDROM_SEND_PACKET, which disks take as well */
		return 1;
	}
	u32 nr = request & 0xff; /* NVME_IOCTL_ADMIN_CMD, SUBMIT_IO, IO_CMD; ADMIN64_CMD, IO64_CMD, IO64_CMD_VEC; NVME_URING_CMD_* */
	return (request >> 8 & 0xff) == 'N' && ((nr >= 0x41 && nr <= 0x43) || (nr >= 0x47 && nr <= 0x49) || (nr >= 0x80 && nr <= 0x83));
}

/* disk_of is what is known of the disk that an open block device is, or is a part of. */
INLINE u32 disk_of(struct file *f)
{
	struct address_space *m = READ(f, f_mapping);
	struct bdev_inode *b = (void *)READ(m, host) - OFFSET(struct bdev_inode, vfs_inode);
	struct gendisk *disk = READ(b, bdev.bd_disk);
	u32 dev = device(READ(disk, part0));
	u32 *state = bpf_map_lookup_elem(&disks, &dev);
	return state ? *state : 0;
}

/*
 * commanded decides about commands to disks. A character device does not say
 * which disk it is, so that none takes any.
 */
INLINE int commanded(struct file *f)
{
	struct inode *i = f->f_inode;
	u64 w = setting(WORD);
	if (MODE(w) == OFF || setting(SCOPE))
		return 0;
	u32 who = running(), is = BYPASS;
	if (who & (WRITES_DISKS | COMMANDS_DISKS))
		return 0;
	if ((i->i_mode & S_IFMT) == S_IFBLK) {
		u32 state = disk_of(f);
		/* Who watches over the paths to a disk was started before the agent, and all stops if it cannot. */
		if (!state || (state >= STACKED && !who))
			return 0;
		is = BENEATH;
	}
	count(JUDGED);
	return nameless(w, COMMAND, is, f->f_path.dentry);
}

INLINE int requested(struct file *f, u32 request)
{
	if (!passes(request))
		return 0;
	struct inode *i = f->f_inode;
	u32 type = i->i_mode & S_IFMT;
	if (type != S_IFBLK && (type != S_IFCHR || (request == 1 && MAJOR(i->i_rdev) != SCSI_GENERIC)))
		return 0;
	return commanded(f);
}

SEC("lsm/file_ioctl")
int passed(u64 *ctx) { return DECIDED(requested((void *)ctx[0], ctx[1])); }

/* From programs of 32 bits, since 6.8. */
SEC("lsm/file_ioctl_compat")
int passed32(u64 *ctx) { return DECIDED(requested((void *)ctx[0], ctx[1])); }

SEC("lsm/uring_cmd")
int passed_ring(u64 *ctx)
{
	struct io_uring_cmd *c = (void *)ctx[0];
	return DECIDED(requested(c->file, c->cmd_op));
}
