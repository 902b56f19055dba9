"""KPOD_STATE of a block request, which the kernel has no storage for: in a hash by its address."""

from contextlib import closing
from pathlib import Path

import pytest

from hatch_build import compile_objects
from kpod_metrics.kernel.libbpf import Object

SOURCE = r"""
#include "state.bpf.h"

struct begun {
	__u64 start_ns;
};

KPOD_STATE(request, requests, struct begun)

SEC("raw_tp/block_rq_issue")
int BPF_PROG(issued, struct request *request)
{
	struct begun first = {.start_ns = bpf_ktime_get_ns()};

	requests_of(request, &first);
	return 0;
}

SEC("raw_tp/block_rq_complete")
int BPF_PROG(completed, struct request *request)
{
	if (requests_get(request))
		requests_drop(request);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""


@pytest.mark.parametrize("typed", [True, False])
def test_state_of_requests(tmp_path: Path, typed: bool) -> None:
    source = tmp_path / "requests.bpf.c"
    source.write_text(SOURCE)
    [path] = compile_objects([source], tmp_path / "objects")
    with closing(Object(str(path))) as opened:
        maps = {name: (map_.role, map_.of) for name, map_ in opened.maps.items() if "." not in name}
        assert maps == {"requests_by_address": ("hash", "requests"), "requests_counts": ("counts", "requests")}
        if typed:
            for program in opened.programs.values():
                program.load_as_tp_btf()
        opened.load()
        assert [program.loaded for program in opened.programs.values()] == [True, True]
        links = [program.attach() for program in opened.programs.values()]
        for link in links:
            link.close()
