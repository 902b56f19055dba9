// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * TCP bytes, retransmits, connections and round-trip times of each cgroup.
 *
 * All is charged to the socket's own cgroup: most of it happens in softirq, where
 * current is whatever task was interrupted.
 *
 * The kernel keeps the totals of each socket itself, so nothing is added up here
 * but what they grew by since the last look, at a segment's arrival, a read, a
 * retransmit and every change of state. A connection that begins while we watch
 * is counted from 0. Those that are older are looked up once, by an iterator, and
 * counted from the totals that they have there; the few that it cannot see (no
 * process has them open) from where one of the other hooks meets them first.
 *
 * Every hook runs with the socket locked, by its user or by softirq, never both
 * (what arrives meanwhile waits in the backlog): so a socket's state needs no
 * atomic access, while a cgroup's value does. None of them hands out a
 * mini-socket (TIME_WAIT, NEW_SYN_RECV), which would have no cgroup.
 */
#include "kpod.bpf.h"
#include "compat.bpf.h"

struct net_tcp_key {
	__u64 cgroup_id;
};

struct net_tcp_value {
	__u64 born_ns;
	__u64 bytes_sent;
	__u64 bytes_received;
	__u64 retransmits;
	__u64 connect_failures;
	__u64 outbound;
	__u64 inbound;
	struct histogram rtt;
};

KPOD_METRIC_MAP(net_tcp, struct net_tcp_key, struct net_tcp_value)

/* What is counted of a socket so far. */
struct counted {
	__u64 sent;
	__u64 received;
	__u64 retransmits;
	__u32 state;
	__u32 unused;
};

KPOD_SOCKET_STATE(tcp_sockets, struct counted)

static __always_inline struct net_tcp_value *value_of(struct sock *sk)
{
	struct net_tcp_key key = {.cgroup_id = socket_cgroup_id(sk)};

	return net_tcp_of(&key);
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
	now->retransmits = READ(tcp, total_retrans);
}

/* A FIN takes one number of the sequence in each direction. Nothing follows it. */
static __always_inline void leave_out_fins(struct counted *now, bool all_sent, unsigned long flags)
{
	const __u32 queued = 1 << BPF_TCP_FIN_WAIT1 | 1 << BPF_TCP_FIN_WAIT2 |
			     1 << BPF_TCP_CLOSING | 1 << BPF_TCP_LAST_ACK;

	if (queued >> now->state & 1 && all_sent)
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
	now->retransmits = BPF_CORE_READ(tcp, total_retrans);
	leave_out_fins(now, snd_nxt == BPF_CORE_READ(tcp, write_seq),
		       BPF_CORE_READ(sk, __sk_common.skc_flags));
}

/* Totals never shrink while there is a connection; tcp_disconnect() sets them to 0. */
static __always_inline bool grown(struct counted *last, struct counted *now)
{
	return now->sent > last->sent || now->received > last->received ||
	       now->retransmits > last->retransmits;
}

static __always_inline void count(struct net_tcp_value *value, struct counted *last,
				  struct counted *now)
{
	if (now->sent > last->sent) {
		__sync_fetch_and_add(&value->bytes_sent, now->sent - last->sent);
		last->sent = now->sent;
	}
	if (now->received > last->received) {
		__sync_fetch_and_add(&value->bytes_received, now->received - last->received);
		last->received = now->received;
	}
	if (now->retransmits > last->retransmits) {
		__sync_fetch_and_add(&value->retransmits, now->retransmits - last->retransmits);
		last->retransmits = now->retransmits;
	}
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

static __always_inline void look(struct sock *sk)
{
	struct tcp_sock *tcp = tcp_of(sk);
	struct counted now = {.state = READ(sk, __sk_common.skc_state)}, *last;
	struct net_tcp_value *value;

	/* What is read after the end was counted at the change to CLOSE. */
	if (!tcp || now.state == BPF_TCP_CLOSE)
		return;
	read_payload(sk, tcp, &now);
	last = tcp_sockets_of(sk, &now);
	if (!last || !grown(last, &now))
		return;
	value = value_of(sk);
	if (value)
		count(value, last, &now);
}

/* A segment for an established connection, not yet looked into. */
SEC("raw_tp/tcp_probe")
int BPF_PROG(tcp_segment, struct sock *sk)
{
	struct tcp_sock *tcp = tcp_of(sk);
	struct counted now = {.state = BPF_TCP_ESTABLISHED}, *last;
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
	read_totals(tcp, &now); /* no FIN yet, in either direction */
	last = tcp_sockets_of(sk, &now);
	if (!last)
		return 0;
	count(value, last, &now);
	if (last->state != BPF_TCP_ESTABLISHED)
		count_change(value, last, BPF_TCP_ESTABLISHED); /* missed: see tcp_end */
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

static __always_inline void change(struct sock *sk, struct tcp_sock *tcp, __u32 from, __u32 to)
{
	struct counted now = {.state = from}, *last;
	struct net_tcp_value *value = value_of(sk);

	read_payload(sk, tcp, &now);
	last = tcp_sockets_of(sk, &now);
	if (value && last) {
		count(value, last, &now);
		if (last->state != from)
			count_change(value, last, from); /* missed: see tcp_end */
		count_change(value, last, to);
	}
	if (to == BPF_TCP_CLOSE)
		tcp_sockets_drop(sk);
}

/*
 * Comes before the socket has its new state. The change to CLOSE, which no
 * connection is spared, by close, reset, time-wait or timeout, is the last look:
 * the totals have all, and no segment finds the socket any more.
 */
SEC("raw_tp/inet_sock_set_state")
int BPF_PROG(tcp_state, struct sock *sk, int from, int to)
{
	struct tcp_sock *tcp = tcp_of(sk);
	struct counted born = {.state = to}, *last;

	if (!tcp)
		return 0;
	if (from != BPF_TCP_CLOSE && from != BPF_TCP_LISTEN) {
		change(sk, tcp, from, to);
		return 0;
	}
	/* A connection is born, by connect() or as the child of a listening socket. */
	if (to == BPF_TCP_SYN_SENT)
		born.sent = 1; /* the SYN */
	else if (to != BPF_TCP_SYN_RECV)
		return 0;
	last = tcp_sockets_of(sk, &born);
	if (last)
		*last = born; /* it had another connection before */
	return 0;
}

/*
 * The kernel runs no program that is running on this CPU already: what softirq
 * does while it has interrupted tcp_state in a task is missed there. Whatever
 * comes next for the socket makes up for it; here, for the change to CLOSE.
 */
SEC("raw_tp/tcp_destroy_sock")
int BPF_PROG(tcp_end, struct sock *sk)
{
	struct tcp_sock *tcp = tcp_of(sk);
	struct counted *last;

	if (!tcp)
		return 0;
	last = tcp_sockets_get(sk);
	if (last && last->state != BPF_TCP_CLOSE)
		change(sk, tcp, last->state, BPF_TCP_CLOSE);
	return 0;
}

/*
 * Sockets of all network namespaces: an iterator over sockets sees but its own.
 * Not under the socket's lock: totals that change meanwhile are left to a hook.
 */
SEC("iter/task_file")
int tcp_older(struct bpf_iter__task_file *ctx)
{
	struct counted now = {}, again = {};
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
	if (now.state == again.state && !grown(&now, &again) && !grown(&again, &now))
		tcp_sockets_of(sk, &now);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
