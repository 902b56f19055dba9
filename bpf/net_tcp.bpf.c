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

/* A socket's totals, as counted so far. */
struct totals {
	__u64 sent;
	__u64 received;
	__u64 retransmits;
};

KPOD_SOCKET_STATE(tcp_sockets, struct totals)

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
static __always_inline void read_totals(struct tcp_sock *tcp, struct totals *now)
{
	now->sent = tcp->bytes_acked + (__u32)(tcp->snd_nxt - tcp->snd_una);
	now->received = tcp->bytes_received;
	now->retransmits = tcp->total_retrans;
}

/* A FIN takes one number of the sequence in each direction. Nothing follows it. */
static __always_inline void leave_out_fins(struct sock *sk, struct tcp_sock *tcp, __u32 state,
					   struct totals *now)
{
	const __u32 queued = 1 << BPF_TCP_FIN_WAIT1 | 1 << BPF_TCP_FIN_WAIT2 |
			     1 << BPF_TCP_CLOSING | 1 << BPF_TCP_LAST_ACK;

	if (queued >> state & 1 && tcp->snd_nxt == tcp->write_seq)
		now->sent--;
	if (sk->__sk_common.skc_flags >> bpf_core_enum_value(enum sock_flags, SOCK_DONE) & 1)
		now->received--; /* tcp_fin() was here */
}

/* Totals never shrink while there is a connection; tcp_disconnect() sets them to 0. */
static __always_inline bool grown(struct totals *last, struct totals *now)
{
	return now->sent > last->sent || now->received > last->received ||
	       now->retransmits > last->retransmits;
}

static __always_inline void count(struct net_tcp_value *value, struct totals *last,
				  struct totals *now)
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

static __always_inline void look(struct sock *sk)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	__u32 state = sk->__sk_common.skc_state;
	struct net_tcp_value *value;
	struct totals now, *last;

	/* What is read after the end was counted at the change to CLOSE. */
	if (!tcp || state == BPF_TCP_CLOSE)
		return;
	read_totals(tcp, &now);
	leave_out_fins(sk, tcp, state, &now);
	last = tcp_sockets_of(sk, &now);
	if (!last || !grown(last, &now))
		return;
	value = value_of(sk);
	if (value)
		count(value, last, &now);
}

/* A segment for an established connection, not yet looked into. */
SEC("tp_btf/tcp_probe")
int BPF_PROG(tcp_segment, struct sock *sk)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	struct net_tcp_value *value;
	struct totals now, *last;

	if (!tcp)
		return 0;
	value = value_of(sk);
	if (!value)
		return 0;
	if (tcp->srtt_us)
		histogram_observe(&value->rtt, (__u64)(tcp->srtt_us >> 3) * 1000);
	read_totals(tcp, &now); /* no FIN yet, in either direction */
	last = tcp_sockets_of(sk, &now);
	if (last)
		count(value, last, &now);
	return 0;
}

/* A reader took bytes from the socket. */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(tcp_read, struct sock *sk)
{
	look(sk);
	return 0;
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(tcp_retransmit, struct sock *sk)
{
	look(sk);
	return 0;
}

/*
 * Comes before the socket has its new state. The change to CLOSE, which no
 * connection is spared, by close, reset, time-wait or timeout, is the last look:
 * the totals have all, and no segment finds the socket any more.
 */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(tcp_state, struct sock *sk, int old_state, int new_state)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	struct totals now = {}, *last;
	struct net_tcp_value *value;

	if (!tcp)
		return 0;
	if (old_state == BPF_TCP_CLOSE || old_state == BPF_TCP_LISTEN) {
		/* A connection is born, by connect() or as the child of a listening socket. */
		if (new_state == BPF_TCP_SYN_SENT)
			now.sent = 1; /* the SYN */
		else if (new_state != BPF_TCP_SYN_RECV)
			return 0;
		last = tcp_sockets_of(sk, &now);
		if (last)
			*last = now; /* it had another connection before */
		return 0;
	}
	read_totals(tcp, &now);
	leave_out_fins(sk, tcp, old_state, &now);
	last = tcp_sockets_of(sk, &now);
	value = value_of(sk);
	if (value && last)
		count(value, last, &now);
	if (value && new_state == BPF_TCP_ESTABLISHED)
		__sync_fetch_and_add(
			old_state == BPF_TCP_SYN_SENT ? &value->outbound : &value->inbound, 1);
	if (value && new_state == BPF_TCP_CLOSE && old_state == BPF_TCP_SYN_SENT)
		__sync_fetch_and_add(&value->connect_failures, 1);
	if (new_state == BPF_TCP_CLOSE)
		tcp_sockets_drop(sk);
	return 0;
}

/*
 * Sockets of all network namespaces: an iterator over sockets sees but its own.
 * Not under the socket's lock: totals that change meanwhile are left to a hook.
 */
SEC("iter/task_file")
int tcp_older(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;
	struct totals now, again;
	struct socket *socket;
	struct tcp_sock *tcp;
	struct sock *sk;
	__u32 state;

	if (!file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp)
		return 0;
	state = sk->__sk_common.skc_state;
	if (state == BPF_TCP_CLOSE || state == BPF_TCP_LISTEN)
		return 0;
	read_totals(tcp, &now);
	leave_out_fins(sk, tcp, state, &now);
	barrier();
	read_totals(tcp, &again);
	leave_out_fins(sk, tcp, sk->__sk_common.skc_state, &again);
	if (!grown(&now, &again) && !grown(&again, &now))
		tcp_sockets_of(sk, &now);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
