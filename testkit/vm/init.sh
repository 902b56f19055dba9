# Process 1 of a test machine: mounts what a node has, runs the tests, turns the machine off.
mkdir -p /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs none /run
mount -t tmpfs none /tmp
mount -t cgroup2 none /sys/fs/cgroup
# A root with the kernel's headers has something of its own there, and needs no module.
if [ ! -e "/usr/lib/modules/$(uname -r)" ]; then
	mount -t ext4 -o ro "$(disk 2)" /usr/lib/modules
	# Without udev nobody loads these when they are asked for.
	for module in tun fuse; do modprobe $module; done
fi
# What a container runtime does: hand the controllers on.
for controller in cpu io memory; do echo +$controller > /sys/fs/cgroup/cgroup.subtree_control; done
ip link set lo up
cd /kpod
export RESULT_DISK=$(disk 4) LIVE_DISK=$(disk 5)
export LIVE_WORKLOADS=/kpod/workloads PATH=$PATH:/kpod/workloads
export LIVE_SCALE=25
export HOME=/run LANG=C.UTF-8 CI=true PYTHONPATH=/kpod/src:/kpod PYTHONUNBUFFERED=1
python3 -m "$MACHINE_MAIN"
echo "$MACHINE_MAIN ended with status $?"
sync
echo o > /proc/sysrq-trigger
sleep 60
