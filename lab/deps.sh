#!/bin/sh
# Installs what building and the lab need beside Rust and Go, as far as it is missing. Nothing that runs as a service,
# and no other libvirt under one that runs.
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

# libvirt's daemons of this machine, not those of a lab or a container, which have another root.
running=
for process in /proc/[0-9]*; do
  case "$(cat "$process/comm" 2>/dev/null)" in
    libvirtd | virtlockd | virtlogd | virtproxyd | virtqemud | virtnetworkd | virtstoraged)
      [ ! "$process/root/." -ef / ] || running="$running $(cat "$process/comm") (process ${process#/proc/})" ;;
  esac
done
if [ -n "$running" ]; then
  changes=$(apt-get --simulate --no-install-recommends install $missing | grep -E '^(Inst libvirt[^ ]* \[|Remv libvirt)' || :)
  if [ -n "$changes" ]; then
    cat >&2 <<END
There run on this machine:$running.
What is missing here would change libvirt under them:
$changes
Either install libvirt-dev in the version of libvirt0 that is installed, from where that came from
  apt-get install --no-install-recommends libvirt-dev=\$(dpkg-query -W -f '\${Version}' libvirt0)
or upgrade libvirt when it suits you, and run this again.
END
    exit 1
  fi
fi
apt-get install -y -qq --no-install-recommends $missing
