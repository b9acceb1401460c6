#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Customize hook of mmdebstrap: $1 is the new root. Makes the packages a host of the testbed.
set -eu
root=$1
here=$(dirname "$0")
cp -R --no-preserve=ownership "$here/rootfs/." "$root/"
chmod 0755 "$root/usr/local/sbin/testbed-init"
rm -f "$root"/etc/ssh/ssh_host_*_key* "$root"/etc/hostname "$root"/etc/resolv.conf
: > "$root/etc/machine-id"
chroot "$root" systemctl enable ssh.service ssh-host-key.service docker.service
chroot "$root" systemctl disable docker-registry.service ssh.socket
chroot "$root" systemctl mask systemd-modules-load.service systemd-logind.service getty.target \
    console-getty.service apt-daily.timer apt-daily-upgrade.timer
install -d -m 0700 "$root/root/.ssh"
