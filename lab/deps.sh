#!/bin/sh
# Installs what building and the lab need beside Rust and Go, as far as it is missing. Nothing that runs as a service.
set -eu

packages="
  binutils build-essential cpio dosfstools e2fsprogs fdisk git iproute2 kmod libvirt-dev mmdebstrap mtools openssh-client
  pkg-config qemu-utils syslinux syslinux-common systemd-boot-efi util-linux"

missing=
for package in $packages; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
echo "installing$missing"
[ "$(id -u)" = 0 ] || { echo "run this as root: apt-get install$missing" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends $missing
