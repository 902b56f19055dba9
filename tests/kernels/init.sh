# Process 1 of a test machine: mounts what a node has, runs the tests, turns the machine off.
mkdir -p /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs none /run
mount -t tmpfs none /tmp
mount -t cgroup2 none /sys/fs/cgroup
mount -t ext4 -o ro "$(disk 2)" /usr/lib/modules
ip link set lo up
cd /work
export KPOD_RESULT_DISK=$(disk 4) KPOD_TEST_DISK=$(disk 5)
export KPOD_TEST_WORKLOADS=/work/workloads
export KPOD_TEST_SCALE=25
export HOME=/root LANG=C.UTF-8 CI=true PYTHONPATH=/work/src:/work PYTHONUNBUFFERED=1
python3 -m tests.kernels.inside
echo "tests.kernels.inside ended with status $?"
sync
echo o > /proc/sysrq-trigger
sleep 60
