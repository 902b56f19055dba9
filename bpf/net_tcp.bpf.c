// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * TCP bytes, segments, retransmits, connections and round-trip times of each cgroup.
 *
 * All is charged to the socket's own cgroup: most of it happens in softirq, where
 * current is whatever task was interrupted.
 *
 * The kernel keeps the totals of each socket itself, so nothing is added up here
 * but what they grew by since the last look: once a cycle, by an iterator over the
 * sockets, and at every change of state, so that a segment costs its round trip
 * alone. A connection that begins while we watch is counted from 0. Those that are
 * older are looked up once, by another iterator, and counted from the totals that
 * they have there; the few that it cannot see (no process has them open) from
 * where one of the hooks meets them first.
 *
 * Where the kernel has no such iterator (before 5.12, or without queued spinlocks),
 * sockets are looked at when a segment arrives, is read or is sent again. The
 * programs for that are of their own: a kernel refuses BPF_CMPXCHG even in code
 * that it cannot reach.
 *
 * Every hook runs with the socket locked, by its user or by softirq, never both
 * (what arrives meanwhile waits in the backlog): so a socket's state needs atomic
 * access only for the iterator, while a cgroup's value always does. No hook hands
 * out a mini-socket (TIME_WAIT, NEW_SYN_RECV), which would have no cgroup.
 */
#include "kpod.bpf.h"
#include "state.bpf.h"

struct net_tcp_key {
	__u64 cgroup_id;
};

struct net_tcp_value {
	__u64 born_ns;
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
 * Bytes in 64 bits. Segments in 32 as the kernel counts them: they begin again at 0 after
 * 2^32, so only differences of two looks mean anything.
 *
 * data_segs_out counts what carries payload, each time it is sent: retransmits too
 * (__tcp_transmit_skb()). total_retrans counts segments as well, not buffers
 * (__tcp_retransmit_skb()), so it is a share of those; but also SYNs and bare FINs, which
 * carry none.
 */
struct counted {
	__u64 sent;
	__u64 received;
	__u32 segments;
	__u32 retransmits;
	__u32 state;
	__u32 unused;
};

/*
 * What is counted of a socket so far, over all of its connections: it only grows,
 * so that a look which comes late finds nothing left to count.
 */
struct counted_socket {
	struct counted last;
	__u64 sent_before; /* by the connections before this one */
	__u64 received_before;
	__u32 segments_before;
	__u32 retransmits_before;
};

KPOD_STATE(socket, tcp_sockets, struct counted_socket)

static __always_inline struct net_tcp_value *value_of(struct sock *sk)
{
	struct net_tcp_key key = {.cgroup_id = socket_cgroup_id(sk)};

	return net_tcp_of(&key);
}

/* From the totals of a connection to those of its socket. */
static __always_inline void add_earlier(struct counted *now, const struct counted_socket *socket)
{
	now->sent += socket->sent_before;
	now->received += socket->received_before;
	now->segments += socket->segments_before;
	now->retransmits += socket->retransmits_before;
}

/* A socket's state, made of `now` where there is none; `now` are the socket's totals then. */
static __always_inline struct counted_socket *counted_of(struct sock *sk, struct counted *now)
{
	struct counted_socket first = {.last = *now}, *socket = tcp_sockets_of(sk, &first);

	if (socket)
		add_earlier(now, socket);
	return socket;
}

/*
 * Sent is how far snd_nxt got: each byte once, however often it was retransmitted,
 * or refused by a full queue below TCP and sent again. Unlike bytes_acked it is
 * whole when the last acknowledgement arrives: tcp_probe comes before the segment
 * is looked into.
 */
static __always_inline void read_totals(struct tcp_sock *tcp, struct counted *now)
{
	now->sent = READ(tcp, bytes_acked) + (__u32)(READ(tcp, snd_nxt) - READ(tcp, snd_una));
	now->received = READ(tcp, bytes_received);
	now->segments = READ(tcp, data_segs_out);
	now->retransmits = READ(tcp, total_retrans);
}

/*
 * A FIN takes one number of the sequence in each direction. Nothing follows it. Before
 * the SYN is sent the sequence is still that of the socket's connection before.
 */
static __always_inline void leave_out_fins(struct counted *now, bool all_sent, unsigned long flags)
{
	const __u32 queued = 1 << BPF_TCP_FIN_WAIT1 | 1 << BPF_TCP_FIN_WAIT2 |
			     1 << BPF_TCP_CLOSING | 1 << BPF_TCP_LAST_ACK;

	if (now->state == BPF_TCP_SYN_SENT)
		now->sent = 1; /* the SYN; what it carries counts once it is answered */
	else if (queued >> now->state & 1 && all_sent)
		now->sent--;
	if (flags >> bpf_core_enum_value(enum sock_flags, SOCK_DONE) & 1)
		now->received--; /* tcp_fin() was here */
}

static __always_inline void read_payload(struct sock *sk, struct tcp_sock *tcp, struct counted *now)
{
	read_totals(tcp, now);
	leave_out_fins(now, READ(tcp, snd_nxt) == READ(tcp, write_seq),
		       READ(sk, __sk_common.skc_flags));
}

/* The same of a socket that is a number to the verifier on some kernels. */
static __always_inline void read_payload_of_older(struct sock *sk, struct counted *now)
{
	struct tcp_sock *tcp = (struct tcp_sock *)sk;
	__u32 snd_nxt = BPF_CORE_READ(tcp, snd_nxt);

	now->state = BPF_CORE_READ(sk, __sk_common.skc_state);
	now->sent =
		BPF_CORE_READ(tcp, bytes_acked) + (__u32)(snd_nxt - BPF_CORE_READ(tcp, snd_una));
	now->received = BPF_CORE_READ(tcp, bytes_received);
	now->segments = BPF_CORE_READ(tcp, data_segs_out);
	now->retransmits = BPF_CORE_READ(tcp, total_retrans);
	leave_out_fins(now, snd_nxt == BPF_CORE_READ(tcp, write_seq),
		       BPF_CORE_READ(sk, __sk_common.skc_flags));
}

/*
 * more_NAME(now, last): whether `now` is later. Counted bytes of a socket that is sent its
 * SYN begin at -1, and segments wrap.
 *
 * advance_NAME(): whoever moves `last` counts what it moved by. A hook is at most once
 * overtaken by the iterator, an iterator by some hooks: what it gives up is for its next
 * look.
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

static __always_inline bool grown(struct counted *last, struct counted *now)
{
	return more_bytes(now->sent, last->sent) || more_bytes(now->received, last->received) ||
	       more_segments(now->segments, last->segments) ||
	       more_segments(now->retransmits, last->retransmits);
}

static __always_inline void count(bool shared, struct net_tcp_value *value, struct counted *last,
				  struct counted *now)
{
	advance_bytes(shared, &last->sent, now->sent, &value->bytes_sent);
	advance_bytes(shared, &last->received, now->received, &value->bytes_received);
	advance_segments(shared, &last->segments, now->segments, &value->segments_sent);
	advance_segments(shared, &last->retransmits, now->retransmits, &value->retransmits);
}

static __always_inline void count_change(struct net_tcp_value *value, struct counted *last,
					 __u32 state)
{
	__u32 before = last->state;

	if (before == BPF_TCP_SYN_SENT && state == BPF_TCP_SYN_RECV)
		return; /* both ends connect at once: still a connect of ours */
	last->state = state;
	if (before == BPF_TCP_SYN_SENT)
		__sync_fetch_and_add(
			state == BPF_TCP_CLOSE ? &value->connect_failures : &value->outbound, 1);
	else if (before == BPF_TCP_SYN_RECV && state != BPF_TCP_CLOSE)
		__sync_fetch_and_add(&value->inbound, 1);
}

/*
 * Keeps what is read before apart from what is read after, on every CPU: an atomic
 * operation that returns a value is a full barrier (Documentation/atomic_t.txt). One
 * whose value nobody takes is none.
 */
static __always_inline void read_in_order(void)
{
	__u32 order = 0, taken = __sync_fetch_and_add(&order, 1);

	asm volatile("" : : "r"(taken));
}

/*
 * The totals of a socket that is not locked; false if it has ended, and its memory may
 * be another socket's by now. Read twice with a moment between at which nobody has it
 * locked, and found the same, they were right at that moment: they only grow. Else it
 * is in use, and they may be in motion: then what is certain, which is all but what is
 * on its way and a byte that may be the FIN; the rest at a later look. The connections
 * before are read first: what is counted of them is in those alone.
 */
static __always_inline bool read_in_passing(struct sock *sk, struct tcp_sock *tcp,
					    struct counted_socket *socket, struct counted *now)
{
	struct counted_socket earlier = *socket;
	struct counted again = {};
	__u32 acknowledged;
	bool locked;

	read_in_order();
	acknowledged = tcp->snd_una;
	now->state = again.state = sk->__sk_common.skc_state;
	read_payload(sk, tcp, now);
	read_in_order();
	locked = sk->sk_lock.slock.rlock.raw_lock.val.counter || sk->sk_lock.owned;
	read_in_order();
	read_payload(sk, tcp, &again);
	if (locked || now->state != sk->__sk_common.skc_state || acknowledged != tcp->snd_una ||
	    now->sent != again.sent || now->received != again.received) {
		now->sent = tcp->bytes_acked - 1;
		now->received = tcp->bytes_received - 1;
	}
	add_earlier(now, &earlier);
	read_in_order();
	return *(volatile __u32 *)&socket->last.state != BPF_TCP_CLOSE;
}

/* Every socket that has a state, once a cycle. */
SEC("iter/bpf_sk_storage_map")
int tcp_totals(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct counted_socket *socket = ctx->value;
	struct net_tcp_value *value;
	struct sock *sk = ctx->sk;
	struct counted now = {};
	struct tcp_sock *tcp;
	__u8 seen = 1;

	if (!sk || !socket)
		return 0;
	/* The reader asks for so many at a time: between two reads others may run. */
	bpf_seq_write(ctx->meta->seq, &seen, sizeof(seen));
	tcp = tcp_of(sk);
	if (!tcp || 1 << sk->__sk_common.skc_state & (1 << BPF_TCP_CLOSE | 1 << BPF_TCP_LISTEN))
		return 0;
	if (!read_in_passing(sk, tcp, socket, &now) || !grown(&socket->last, &now))
		return 0;
	value = value_of(sk);
	if (value)
		count(true, value, &socket->last, &now);
	return 0;
}

static __always_inline void look(struct sock *sk)
{
	struct tcp_sock *tcp = tcp_of(sk);
	struct counted now = {.state = READ(sk, __sk_common.skc_state)};
	struct counted_socket *socket;
	struct net_tcp_value *value;

	/* What is read after the end was counted at the change to CLOSE. */
	if (!tcp || now.state == BPF_TCP_CLOSE)
		return;
	read_payload(sk, tcp, &now);
	socket = counted_of(sk, &now);
	if (!socket || !grown(&socket->last, &now))
		return;
	value = value_of(sk);
	if (value)
		count(false, value, &socket->last, &now);
}

const volatile bool kpod_socket_iterator = true;

/*
 * Where an iterator counts bytes, some segments are to meet sockets and changes that
 * were missed (see tcp_end): a connection's first ones, those until it has received
 * something, as a message is often one "segment" of many (GRO), and one in 64 later.
 */
static __always_inline bool is_to_be_met(struct tcp_sock *tcp)
{
	__u32 segments = READ(tcp, segs_in);

	if (segments <= 4 || (segments <= 512 && !READ(tcp, bytes_received)))
		return true;
	return segments * 0x9e3779b1U >> 26 ==
	       0; /* 2^32 by the golden ratio: in no step of GRO's */
}

/* A segment for an established connection, not yet looked into. */
SEC("raw_tp/tcp_probe")
int BPF_PROG(tcp_segment, struct sock *sk)
{
	struct tcp_sock *tcp = tcp_of(sk);
	struct counted now = {.state = BPF_TCP_ESTABLISHED};
	struct counted_socket *socket;
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
	if (kpod_socket_iterator && !is_to_be_met(tcp))
		return 0;
	read_totals(tcp, &now); /* no FIN yet, in either direction */
	socket = counted_of(sk, &now);
	if (!socket)
		return 0;
	if (!kpod_socket_iterator)
		count(false, value, &socket->last, &now);
	if (socket->last.state != BPF_TCP_ESTABLISHED)
		count_change(value, &socket->last, BPF_TCP_ESTABLISHED);
	return 0;
}

/* A reader took bytes from the socket. */
SEC("raw_tp/tcp_rcv_space_adjust")
int BPF_PROG(tcp_read, struct sock *sk)
{
	look(sk);
	return 0;
}

SEC("raw_tp/tcp_retransmit_skb")
int BPF_PROG(tcp_retransmit, struct sock *sk)
{
	look(sk);
	return 0;
}

static __always_inline void change(bool shared, struct sock *sk, struct tcp_sock *tcp, __u32 from,
				   __u32 to)
{
	struct net_tcp_value *value = value_of(sk);
	struct counted now = {.state = from};
	struct counted_socket *socket;

	read_payload(sk, tcp, &now);
	socket = counted_of(sk, &now);
	if (value && socket) {
		count(shared, value, &socket->last, &now);
		if (socket->last.state != from)
			count_change(value, &socket->last, from); /* missed: see tcp_end */
		count_change(value, &socket->last, to);
	} else if (socket) {
		socket->last.state = to; /* the iterator asks for it */
	}
	if (to == BPF_TCP_CLOSE)
		tcp_sockets_drop(sk);
}

/* By connect() or as the child of a listening socket; it may have had another before. */
static __always_inline void connection_is_born(struct sock *sk, __u32 state)
{
	struct counted_socket first = {.last = {.state = state}}, *socket;

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
 * Comes before the socket has its new state. The change to CLOSE, which no
 * connection is spared, by close, reset, time-wait or timeout, is the last look:
 * the totals have all, and no segment finds the socket any more.
 */
static __always_inline int state_changes(bool shared, struct sock *sk, __u32 from, __u32 to)
{
	struct tcp_sock *tcp = tcp_of(sk);

	if (!tcp)
		return 0;
	if (from != BPF_TCP_CLOSE && from != BPF_TCP_LISTEN)
		change(shared, sk, tcp, from, to);
	else if (to == BPF_TCP_SYN_SENT || to == BPF_TCP_SYN_RECV)
		connection_is_born(sk, to);
	return 0;
}

/*
 * The kernel runs no program that is running on this CPU already: what softirq
 * does while it has interrupted tcp_state in a task is missed there. Whatever
 * comes next for the socket makes up for it; here, for the change to CLOSE.
 */
static __always_inline int socket_ends(bool shared, struct sock *sk)
{
	struct tcp_sock *tcp = tcp_of(sk);
	struct counted_socket *socket;

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
 * Sockets of all network namespaces: an iterator over sockets sees but its own.
 * Not under the socket's lock: those whose totals change meanwhile are left to a hook.
 */
SEC("iter/task_file")
int existing_sockets(struct bpf_iter__task_file *ctx)
{
	struct counted now = {}, again = {};
	struct counted_socket first = {};
	struct file *file = ctx->file;
	struct sock *sk;

	if (!file)
		return 0;
	sk = socket_of_file(file);
	if (!sk || !is_tcp(sk))
		return 0;
	read_payload_of_older(sk, &now);
	if (now.state == BPF_TCP_CLOSE || now.state == BPF_TCP_LISTEN)
		return 0;
	read_payload_of_older(sk, &again);
	if (now.state != again.state || grown(&now, &again) || grown(&again, &now))
		return 0;
	first.last = now;
	tcp_sockets_of(sk, &first);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
