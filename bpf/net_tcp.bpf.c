// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * TCP bytes, segments, retransmits, connections and round-trip times of each cgroup.
 *
 * Everything is charged to the socket's own cgroup: most events happen in softirq, where
 * current is the task that was interrupted.
 *
 * The kernel keeps the totals of each socket itself. These programs add up their growth
 * since the last read: an iterator over the sockets reads them once a cycle, and a hook at
 * every change of state, so that a segment costs only an observation of the round-trip
 * time. A connection that begins after the agent counts from 0. Another iterator finds the
 * existing connections once: they count from the totals that they have then. It cannot see
 * a connection that no process has open: that counts from the first hook that sees it.
 *
 * If the kernel has no such iterator (before 5.12, or without queued spinlocks), hooks read
 * the totals when a segment arrives, is read or is retransmitted. They are separate
 * programs: a kernel refuses BPF_CMPXCHG even in code that it cannot reach.
 *
 * Every hook runs with the socket locked, by its user or by softirq, never both (segments
 * that arrive meanwhile wait in the backlog). So a socket's state needs atomic access only
 * for the iterator; a cgroup's value always needs it. No hook passes a mini-socket
 * (TIME_WAIT, NEW_SYN_RECV), which has no cgroup.
 */
#include "metric_map.bpf.h"
#include "state.bpf.h"

struct net_tcp_key {
	__u64 cgroup_id;
};

struct net_tcp_value {
	__u64 created_ns;
	__u64 bytes_sent;
	__u64 bytes_received;
	__u64 segments_sent;
	__u64 retransmits;
	__u64 connect_failures;
	__u64 outbound;
	__u64 inbound;
	struct histogram rtt;
};

KPOD_METRIC_MAP(net_tcp, struct net_tcp_key, struct net_tcp_value)

/*
 * Totals of a socket. Bytes have 64 bits. Segments have 32 bits as in the kernel: they wrap,
 * so only the difference of two reads means anything.
 *
 * data_segs_out counts segments with payload each time that they are sent, retransmits
 * included (__tcp_transmit_skb()). total_retrans counts segments too, not buffers
 * (__tcp_retransmit_skb()), so the two form a share; but it also counts SYNs and bare FINs,
 * which have no payload.
 */
struct socket_totals {
	__u64 sent;
	__u64 received;
	__u32 segments;
	__u32 retransmits;
	__u32 state;
	__u32 unused;
};

/*
 * The totals of a socket that are counted so far, over all of its connections. They only
 * grow, so a late read finds nothing left to count.
 */
struct socket_state {
	struct socket_totals last;
	__u64 sent_before; /* by earlier connections of the socket */
	__u64 received_before;
	__u32 segments_before;
	__u32 retransmits_before;
};

KPOD_STATE(socket, tcp_sockets, struct socket_state)

static __always_inline struct net_tcp_value *value_of(struct sock *sk)
{
	struct net_tcp_key key = {.cgroup_id = socket_cgroup_id(sk)};

	return KPOD_ENTRY(net_tcp, &key, socket_cgroup(sk));
}

/* Add the earlier connections: this changes totals of a connection to those of its socket. */
static __always_inline void add_earlier(struct socket_totals *totals,
					const struct socket_state *socket)
{
	totals->sent += socket->sent_before;
	totals->received += socket->received_before;
	totals->segments += socket->segments_before;
	totals->retransmits += socket->retransmits_before;
}

/* A socket's state, created from `totals` if there is none. Adds the earlier connections. */
static __always_inline struct socket_state *state_of(struct sock *sk, struct socket_totals *totals)
{
	struct socket_state first = {.last = *totals}, *socket = tcp_sockets_of(sk, &first);

	if (socket)
		add_earlier(totals, socket);
	return socket;
}

/*
 * `sent` is the advance of snd_nxt: it counts each byte once, even if the byte was
 * retransmitted, or refused by a full queue below TCP. It is complete when the last
 * acknowledgement arrives, unlike bytes_acked: tcp_probe runs before TCP reads the segment.
 */
static __always_inline void read_totals(bool untyped, struct tcp_sock *tcp,
					struct socket_totals *totals)
{
	totals->sent = READ_IF(untyped, tcp, bytes_acked) +
		       (__u32)(READ_IF(untyped, tcp, snd_nxt) - READ_IF(untyped, tcp, snd_una));
	totals->received = READ_IF(untyped, tcp, bytes_received);
	totals->segments = READ_IF(untyped, tcp, data_segs_out);
	totals->retransmits = READ_IF(untyped, tcp, total_retrans);
}

/*
 * The totals without FINs. A FIN takes one sequence number in each direction. Nothing
 * follows it. Until the SYN is sent, the sequence numbers are those of the socket's
 * previous connection.
 */
static __always_inline void read_payload(bool untyped, struct sock *sk, struct tcp_sock *tcp,
					 struct socket_totals *totals)
{
	const __u32 queued = 1 << BPF_TCP_FIN_WAIT1 | 1 << BPF_TCP_FIN_WAIT2 |
			     1 << BPF_TCP_CLOSING | 1 << BPF_TCP_LAST_ACK;
	unsigned long flags;

	read_totals(untyped, tcp, totals);
	flags = READ_IF(untyped, sk, __sk_common.skc_flags);
	if (totals->state == BPF_TCP_SYN_SENT)
		totals->sent = 1; /* the SYN; its data counts when it is answered */
	else if (queued >> totals->state & 1 &&
		 READ_IF(untyped, tcp, snd_nxt) == READ_IF(untyped, tcp, write_seq))
		totals->sent--;
	if (flags >> bpf_core_enum_value(enum sock_flags, SOCK_DONE) & 1)
		totals->received--; /* tcp_fin() was here */
}

/*
 * more_NAME(now, last): whether `now` is later. The bytes of a socket that sends its SYN
 * begin at -1, and segments wrap.
 *
 * advance_NAME(): the CPU whose compare-and-swap on `last` succeeds adds the difference.
 * The iterator can overtake a hook at most once; several hooks can overtake the iterator,
 * which then leaves the rest to its next run.
 */
#define KPOD_ADVANCE(name, type, difference)                                          \
	static __always_inline bool more_##name(type now, type last)                  \
	{                                                                             \
		return (difference)(now - last) > 0;                                  \
	}                                                                             \
                                                                                      \
	static __always_inline void advance_##name(bool shared, type *last, type now, \
						   __u64 *total)                      \
	{                                                                             \
		type seen = *(volatile type *)last, found;                            \
                                                                                      \
		if (!shared) {                                                        \
			if (more_##name(now, seen)) {                                 \
				__sync_fetch_and_add(total, (type)(now - seen));      \
				*last = now;                                          \
			}                                                             \
			return;                                                       \
		}                                                                     \
		for (int tries = 0; tries < 4 && more_##name(now, seen); tries++) {   \
			found = __sync_val_compare_and_swap(last, seen, now);         \
			if (found == seen) {                                          \
				__sync_fetch_and_add(total, (type)(now - seen));      \
				return;                                               \
			}                                                             \
			seen = found;                                                 \
		}                                                                     \
	}

KPOD_ADVANCE(bytes, __u64, __s64)
KPOD_ADVANCE(segments, __u32, __s32)

static __always_inline bool has_grown(struct socket_totals *last, struct socket_totals *totals)
{
	return more_bytes(totals->sent, last->sent) ||
	       more_bytes(totals->received, last->received) ||
	       more_segments(totals->segments, last->segments) ||
	       more_segments(totals->retransmits, last->retransmits);
}

static __always_inline void count(bool shared, struct net_tcp_value *value,
				  struct socket_totals *last, struct socket_totals *totals)
{
	advance_bytes(shared, &last->sent, totals->sent, &value->bytes_sent);
	advance_bytes(shared, &last->received, totals->received, &value->bytes_received);
	advance_segments(shared, &last->segments, totals->segments, &value->segments_sent);
	advance_segments(shared, &last->retransmits, totals->retransmits, &value->retransmits);
}

static __always_inline void count_change(struct net_tcp_value *value, struct socket_totals *last,
					 __u32 state)
{
	__u32 before = last->state;

	if (before == BPF_TCP_SYN_SENT && state == BPF_TCP_SYN_RECV)
		return; /* both ends connect at once: this is still an outbound connect */
	last->state = state;
	if (before == BPF_TCP_SYN_SENT)
		__sync_fetch_and_add(
			state == BPF_TCP_CLOSE ? &value->connect_failures : &value->outbound, 1);
	else if (before == BPF_TCP_SYN_RECV && state != BPF_TCP_CLOSE)
		__sync_fetch_and_add(&value->inbound, 1);
}

/*
 * Orders the reads before it and the reads after it, on every CPU: an atomic operation that
 * returns a value is a full barrier (Documentation/atomic_t.txt). It is none if the value
 * is unused.
 */
static __always_inline void full_barrier(void)
{
	__u32 order = 0, taken = __sync_fetch_and_add(&order, 1);

	asm volatile("" : : "r"(taken));
}

/*
 * The totals of a socket that is not locked; false if the socket has ended: its memory may
 * belong to another socket by now. They are read twice. If both reads return the same, and
 * the socket was unlocked in between, they were correct at that moment, because they only
 * grow. Otherwise the socket is in use, and they may be changing: then only the certain
 * part counts, without unacknowledged bytes and one byte that may be the FIN. A later read
 * counts the rest. The earlier connections are read first: their counts are in those fields
 * alone.
 */
static __always_inline bool read_unlocked(struct sock *sk, struct tcp_sock *tcp,
					  struct socket_state *socket, struct socket_totals *totals)
{
	struct socket_state earlier = *socket;
	struct socket_totals reread = {};
	__u32 acknowledged;
	bool locked;

	full_barrier();
	acknowledged = tcp->snd_una;
	totals->state = reread.state = sk->__sk_common.skc_state;
	read_payload(kpod_untyped, sk, tcp, totals);
	full_barrier();
	locked = sk->sk_lock.slock.rlock.raw_lock.val.counter || sk->sk_lock.owned;
	full_barrier();
	read_payload(kpod_untyped, sk, tcp, &reread);
	if (locked || totals->state != sk->__sk_common.skc_state || acknowledged != tcp->snd_una ||
	    totals->sent != reread.sent || totals->received != reread.received) {
		totals->sent = tcp->bytes_acked - 1;
		totals->received = tcp->bytes_received - 1;
	}
	add_earlier(totals, &earlier);
	full_barrier();
	return *(volatile __u32 *)&socket->last.state != BPF_TCP_CLOSE;
}

/* Every socket that has state, once a cycle. */
SEC("iter/bpf_sk_storage_map")
int tcp_totals(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct socket_state *socket = ctx->value;
	struct net_tcp_value *value;
	struct sock *sk = ctx->sk;
	struct socket_totals totals = {};
	struct tcp_sock *tcp;
	__u8 seen = 1;

	if (!sk || !socket)
		return 0;
	/* The reader limits the bytes of a read: other tasks run in between. */
	bpf_seq_write(ctx->meta->seq, &seen, sizeof(seen));
	tcp = tcp_of(sk);
	if (!tcp || 1 << sk->__sk_common.skc_state & (1 << BPF_TCP_CLOSE | 1 << BPF_TCP_LISTEN))
		return 0;
	if (!read_unlocked(sk, tcp, socket, &totals) || !has_grown(&socket->last, &totals))
		return 0;
	value = value_of(sk);
	if (value)
		count(true, value, &socket->last, &totals);
	return 0;
}

static __always_inline void count_growth(struct sock *sk)
{
	struct tcp_sock *tcp = tcp_of(sk);
	struct socket_totals totals = {.state = READ(sk, __sk_common.skc_state)};
	struct socket_state *socket;
	struct net_tcp_value *value;

	/* After the end: the change to CLOSE counted all. */
	if (!tcp || totals.state == BPF_TCP_CLOSE)
		return;
	read_payload(kpod_untyped, sk, tcp, &totals);
	socket = state_of(sk, &totals);
	if (!socket || !has_grown(&socket->last, &totals))
		return;
	value = value_of(sk);
	if (value)
		count(false, value, &socket->last, &totals);
}

const volatile bool kpod_socket_iterator = true;

/*
 * If an iterator counts bytes, a hook still uses some segments to find sockets and
 * changes of state that were missed (see socket_ends()): a connection's first segments, all
 * until it has received something, as a message is often one "segment" of many (GRO), and
 * one in 64 later.
 */
static __always_inline bool should_resync(struct tcp_sock *tcp)
{
	__u32 segments = READ(tcp, segs_in);

	if (segments <= 4 || (segments <= 512 && !READ(tcp, bytes_received)))
		return true;
	return segments * 0x9e3779b1U >> 26 ==
	       0; /* 2^32 by the golden ratio: no multiple of GRO's steps */
}

/* A segment for an established connection, before TCP reads it. */
SEC("raw_tp/tcp_probe")
int BPF_PROG(tcp_segment, struct sock *sk)
{
	struct tcp_sock *tcp = tcp_of(sk);
	struct socket_totals totals = {.state = BPF_TCP_ESTABLISHED};
	struct socket_state *socket;
	struct net_tcp_value *value;
	__u32 srtt_us;

	if (!tcp)
		return 0;
	value = value_of(sk);
	if (!value)
		return 0;
	srtt_us = READ(tcp, srtt_us);
	if (srtt_us)
		histogram_observe(&value->rtt, (__u64)(srtt_us >> 3) * 1000);
	if (kpod_socket_iterator && !should_resync(tcp))
		return 0;
	read_totals(kpod_untyped, tcp, &totals); /* no FIN yet, in either direction */
	socket = state_of(sk, &totals);
	if (!socket)
		return 0;
	if (!kpod_socket_iterator)
		count(false, value, &socket->last, &totals);
	if (socket->last.state != BPF_TCP_ESTABLISHED)
		count_change(value, &socket->last, BPF_TCP_ESTABLISHED);
	return 0;
}

/* A process read bytes from the socket. */
SEC("raw_tp/tcp_rcv_space_adjust")
int BPF_PROG(tcp_read, struct sock *sk)
{
	count_growth(sk);
	return 0;
}

SEC("raw_tp/tcp_retransmit_skb")
int BPF_PROG(tcp_retransmit, struct sock *sk)
{
	count_growth(sk);
	return 0;
}

static __always_inline void change(bool shared, struct sock *sk, struct tcp_sock *tcp, __u32 from,
				   __u32 to)
{
	struct net_tcp_value *value = value_of(sk);
	struct socket_totals totals = {.state = from};
	struct socket_state *socket;

	read_payload(kpod_untyped, sk, tcp, &totals);
	socket = state_of(sk, &totals);
	if (value && socket) {
		count(shared, value, &socket->last, &totals);
		if (socket->last.state != from)
			count_change(value, &socket->last, from); /* missed: see socket_ends() */
		count_change(value, &socket->last, to);
	} else if (socket) {
		socket->last.state = to; /* the iterator checks it */
	}
	if (to == BPF_TCP_CLOSE)
		tcp_sockets_drop(sk);
}

/* By connect() or as a child of a listening socket. The socket may have had one before. */
static __always_inline void connection_created(struct sock *sk, __u32 state)
{
	struct socket_state first = {.last = {.state = state}}, *socket;

	first.sent_before = state == BPF_TCP_SYN_SENT ? -1 : 0; /* the SYN */
	socket = tcp_sockets_of(sk, &first);
	if (!socket)
		return;
	socket->sent_before = socket->last.sent + first.sent_before;
	socket->received_before = socket->last.received;
	socket->segments_before = socket->last.segments;
	socket->retransmits_before = socket->last.retransmits;
	socket->last.state = state;
}

/*
 * Runs before the socket has its new state. The change to CLOSE is the last read, which
 * every connection reaches, by close, reset, time-wait or timeout: its totals are complete,
 * and no segment finds the socket any more.
 */
static __always_inline int state_changes(bool shared, struct sock *sk, __u32 from, __u32 to)
{
	struct tcp_sock *tcp = tcp_of(sk);

	if (!tcp)
		return 0;
	if (from != BPF_TCP_CLOSE && from != BPF_TCP_LISTEN)
		change(shared, sk, tcp, from, to);
	else if (to == BPF_TCP_SYN_SENT || to == BPF_TCP_SYN_RECV)
		connection_created(sk, to);
	return 0;
}

/*
 * The kernel skips a program that runs on this CPU already: tcp_state misses a change that
 * softirq makes while it interrupts tcp_state in a task. The next event of the socket
 * corrects that; this one corrects the change to CLOSE.
 */
static __always_inline int socket_ends(bool shared, struct sock *sk)
{
	struct tcp_sock *tcp = tcp_of(sk);
	struct socket_state *socket;

	if (!tcp)
		return 0;
	socket = tcp_sockets_get(sk);
	if (socket && socket->last.state != BPF_TCP_CLOSE)
		change(shared, sk, tcp, socket->last.state, BPF_TCP_CLOSE);
	return 0;
}

SEC("raw_tp/inet_sock_set_state")
int BPF_PROG(tcp_state, struct sock *sk, int from, int to)
{
	return state_changes(true, sk, from, to);
}

SEC("raw_tp/inet_sock_set_state")
int BPF_PROG(tcp_state_unshared, struct sock *sk, int from, int to)
{
	return state_changes(false, sk, from, to);
}

SEC("raw_tp/tcp_destroy_sock")
int BPF_PROG(tcp_end, struct sock *sk)
{
	return socket_ends(true, sk);
}

SEC("raw_tp/tcp_destroy_sock")
int BPF_PROG(tcp_end_unshared, struct sock *sk)
{
	return socket_ends(false, sk);
}

/*
 * Sockets of all network namespaces: an iterator over sockets sees only its own. The socket
 * is not locked: if its totals change meanwhile, it is left to a hook.
 */
SEC("iter/task_file")
int existing_sockets(struct bpf_iter__task_file *ctx)
{
	struct socket_totals totals = {}, reread = {};
	struct socket_state first = {};
	struct file *file = ctx->file;
	struct tcp_sock *tcp;
	struct sock *sk;

	if (!file)
		return 0;
	sk = socket_of_file(file);
	if (!sk || !is_tcp(sk))
		return 0;
	tcp = (struct tcp_sock *)sk;
	totals.state = BPF_CORE_READ(sk, __sk_common.skc_state);
	if (totals.state == BPF_TCP_CLOSE || totals.state == BPF_TCP_LISTEN)
		return 0;
	read_payload(true, sk, tcp, &totals); /* a scalar to the verifier on some kernels */
	reread.state = BPF_CORE_READ(sk, __sk_common.skc_state);
	read_payload(true, sk, tcp, &reread);
	if (totals.state != reread.state || has_grown(&totals, &reread) ||
	    has_grown(&reread, &totals))
		return 0;
	first.last = totals;
	tcp_sockets_of(sk, &first);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
