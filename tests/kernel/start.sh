#!/bin/busybox sh
# What init of the guest runs: modules, the host's files, the suite, power off.
# The kernel's command line gives where the tree is and the interpreter (run.py).
PATH=/bin
/bin/busybox --install -s /bin

fail() {
    echo "guest: $*"
    reboot -f
}

mkdir -p /proc /sys /dev /host /layer /root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev || fail "no devtmpfs"

value() { sed -n "s/.*\bvpoll\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
tree=$(value tree)
python=$(value python)

while read -r module; do
    insmod "/modules/$module" || fail "insmod $module"
done </modules/order

shared=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o "$shared,cache=loose,ro" host /host || fail "the host's files are not there"
mount -t tmpfs -o mode=0755 layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /root ||
    fail "no layer over the host's files"
mount -t proc proc /root/proc
mount -t sysfs sysfs /root/sys
mount -t devtmpfs dev /root/dev
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts -o ptmxmode=0666 pts /root/dev/pts
ln -sf /proc/self/fd /root/dev/fd
for folder in dev/shm run; do
    mount -t tmpfs -o mode=1777 tmpfs "/root/$folder"
done
mkdir /root/run/results
mount -t 9p -o "$shared" results /root/run/results || fail "no place for the results"
ip link set lo up
hostname guest

chroot /root /usr/bin/env -i - \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
    "$python" "$tree/tests/kernel/guest.py" </dev/null
reboot -f
