/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What is remembered of files: verdicts on their content, and who could have
 * changed it since; and which file system holds the content of a file. It is a
 * part of cordon.bpf.c, apart from what decides.
 */
#pragma once

/* below is the file that an overlay shows: what its content depends on. */
struct below { u64 ino, size, sec; u32 dev, gen, nsec, opens; };

/* past is a verdict on a content, and how the file was before it was hashed. */
struct past {
	u64 policy; /* 0: no verdict */
	u64 at;     /* opens */
	u64 size, sec;
	u32 nsec, flags;
	struct below below;
};

/*
 * fact is kept with an inode in memory and goes with it. opens counts who could
 * have changed the file; a verdict holds while it is what it was before the
 * file was hashed. code is set once the file was mapped as code; lent, see lend.
 */
struct fact {
	u64 opens;
	u64 code;
	u64 lent;
	struct past trusted;
};

struct {
	__uint(type, BPF_MAP_TYPE_INODE_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct fact);
} facts SEC(".maps");

/*
 * stranger is kept with the inode of a file that was hashed and is not trusted,
 * so that who tries again and again has it hashed once. It is apart from facts:
 * two processors may write to one at once, and what comes of a trusted content
 * and another one must not say that it is trusted.
 */
struct stranger {
	struct past refused;
	u8 digest[32];
};

struct {
	__uint(type, BPF_MAP_TYPE_INODE_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct stranger);
} strangers SEC(".maps");

/* Files below overlays cannot carry facts: a program cannot reach them safely. */
struct belowkey { u64 ino; u32 dev, gen; };
struct belowfact { u32 opens, code; };
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 15);
	__type(key, struct belowkey);
	__type(value, struct belowfact);
} belows SEC(".maps");

/* When a file last changed. get is how its fields are read: READ, or GET where the verifier knows the pointer, which costs less. */
#define CTIME(get, i, sec, nsec) \
	do { \
		if (EXISTS(struct inode___ctime3, i_ctime_sec)) { \
			*(sec) = get((struct inode___ctime3 *)(i), i_ctime_sec); \
			*(nsec) = get((struct inode___ctime3 *)(i), i_ctime_nsec) & 0x3fffffff; /* above: flags, since 6.13 */ \
		} else if (EXISTS(struct inode___ctime2, __i_ctime)) { \
			*(sec) = get((struct inode___ctime2 *)(i), __i_ctime.tv_sec); \
			*(nsec) = get((struct inode___ctime2 *)(i), __i_ctime.tv_nsec); \
		} else { \
			*(sec) = get((struct inode___ctime *)(i), i_ctime.tv_sec); \
			*(nsec) = get((struct inode___ctime *)(i), i_ctime.tv_nsec); \
		} \
	} while (0)

INLINE void ctime(struct inode *i, u64 *sec, u32 *nsec) { CTIME(GET, i, sec, nsec); }

#define OVERLAY 0x794c7630
#define TMPFS 0x01021994
#define RAMFS 0x858458f6

/*
 * holds says whether a file system keeps what it once gave: with others
 * (network, FUSE) the content that is hashed need not be the content that runs.
 */
INLINE bool holds(unsigned long magic)
{
	switch (magic) {
	case 0xef53:     /* ext4 */
	case 0x58465342: /* xfs */
	case 0x9123683e: /* btrfs */
	case 0xf2f52010: /* f2fs */
	case TMPFS: /* tmpfs */
	case RAMFS: /* ramfs */
	case 0x73717368: /* squashfs */
	case 0xe0f5e1e2: /* erofs */
	case 0x9660:     /* iso9660 */
	case 0x15013346: /* udf */
	case 0x4d44:     /* vfat */
	case 0x2011bab0: /* exfat */
	case 0x2fc12fc1: /* zfs */
	case 0xca451a4e: /* bcachefs */
		return 1;
	}
	return 0;
}

/* beneath finds the inode that holds the content of an overlay's file. */
INLINE struct inode *beneath(struct inode *i)
{
	if (!EXISTS(struct ovl_inode, __upperdentry) || !ENUM_EXISTS(enum ovl_inode_flag, OVL_UPPERDATA))
		return NULL; /* the overlay module was not there when this was loaded */
	struct ovl_inode *o = (void *)i - OFFSET(struct ovl_inode, vfs_inode);
	struct dentry *upper = READ(o, __upperdentry);
	if (upper && (READ(o, flags) >> ENUM(enum ovl_inode_flag, OVL_UPPERDATA)) & 1)
		return READ(upper, d_inode);
	struct dentry *lower = NULL;
	if (EXISTS(struct ovl_inode, oe)) {
		struct ovl_entry *e = READ(o, oe);
		u32 n = e ? READ(e, __numlower) : 0;
		if (!n || n > 500)
			return NULL;
		/* The last layer has the data; the others at most tell of it. */
		void *at = (void *)e + OFFSET(struct ovl_entry, __lowerstack) + (u64)(n - 1) * __builtin_preserve_field_info(((struct ovl_entry *)0)->__lowerstack[0], 1);
		struct ovl_path *p = at;
		lower = READ(p, dentry);
	} else if (EXISTS(struct ovl_inode___old, lowerpath)) {
		struct ovl_inode___old *old = (void *)o;
		struct inode *data = READ(old, lowerdata);
		if (data)
			return data;
		lower = READ(old, lowerpath.dentry);
	}
	return lower ? READ(lower, d_inode) : NULL;
}

/* keyed finds, or makes, what is known of a file that cannot carry a fact. */
INLINE struct belowfact *keyed(u64 ino, u32 dev, u32 gen)
{
	struct belowkey k = {.ino = ino, .dev = dev, .gen = gen};
	struct belowfact *f = bpf_map_lookup_elem(&belows, &k);
	if (f)
		return f;
	/* A number that no forgotten fact had, so that none of them comes true again. */
	struct belowfact n = {.opens = (u32)bpf_ktime_get_ns()};
	bpf_map_update_elem(&belows, &k, &n, 1 /* BPF_NOEXIST */);
	return bpf_map_lookup_elem(&belows, &k);
}

/* look describes the file below an overlay's; false if it cannot be relied on. */
INLINE bool look(struct inode *i, struct below *b, struct belowfact **fact)
{
	struct inode *r = beneath(i);
	if (!r)
		return 0;
	struct super_block *sb = READ(r, i_sb);
	if (!holds(READ(sb, s_magic)) || (s32)READ(r, i_writecount.counter) > 0)
		return 0;
	b->ino = READ(r, i_ino), b->dev = READ(sb, s_dev), b->gen = READ(r, i_generation);
	struct belowfact *f = keyed(b->ino, b->dev, b->gen);
	if (!f)
		return 0;
	b->size = READ(r, i_size);
	CTIME(READ, r, &b->sec, &b->nsec);
	b->opens = f->opens;
	*fact = f;
	return 1;
}

INLINE bool same(struct below *a, struct below *b)
{
	return a->ino == b->ino && a->dev == b->dev && a->gen == b->gen && a->size == b->size && a->sec == b->sec &&
	       a->nsec == b->nsec && a->opens == b->opens;
}
