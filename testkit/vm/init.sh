# Process 1 of a test machine: mounts the file systems of a node, runs the tests, switches the machine off.
mkdir -p /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs none /run
mount -t tmpfs none /tmp
mount -t cgroup2 none /sys/fs/cgroup
# A root with kernel headers has its own folder there, and needs no modules.
if [ ! -e "/usr/lib/modules/$(uname -r)" ]; then
	mount -t ext4 -o ro "$(disk 2)" /usr/lib/modules
	# There is no udev to load these on demand.
	for module in tun fuse; do modprobe $module; done
fi
# Enable the controllers, as a container runtime does.
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
