#!/bin/bash
# Builds the tiny test guest, a qcow2 disk that boots with BIOS and UEFI alike, from Debian packages only.
#
#   build.sh IMAGE SUITE "deb MIRROR SUITE main"...
#
# Debian's cloud kernel, busybox, qemu-guest-agent, dropbear. Its own files are in overlay/ beside this script.
set -euo pipefail

image=$1 suite=$2
shift 2
here=$(dirname "$(readlink -f "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

boot_mib=40
root_mib=96
# Loaded when the kernel starts; the second list only if the root disk did not show up with the first.
initrd_modules="virtio_pci virtio_blk ext4"
initrd_more="virtio_mmio virtio_scsi sd_mod ata_piix ahci nvme"
# Names that the kernel does not have are left out.
root_modules="virtio_pci virtio_mmio virtio_blk virtio_scsi virtio_net virtio_console virtio_balloon virtio_mem virtio_rng
  virtio_input virtio_gpu virtiofs vmw_vsock_virtio_transport sd_mod sr_mod ata_piix ahci nvme ext4 vfat isofs overlay
  nls_cp437 nls_ascii nls_iso8859-1 nls_utf8 button evdev psmouse e1000 e1000e 8139cp i6300esb pvpanic-pci"
# Short of everything that costs time without KVM. A panic reboots after five seconds.
command_line="console=tty0 console=ttyS0,115200 quiet loglevel=3 mitigations=off nokaslr tsc=reliable no_timer_check \
rcupdate.rcu_expedited=1 cryptomgr.notests random.trust_cpu=on memhp_default_state=online panic=5 net.ifnames=0"

say() { echo "$(date +%T) $*"; }

# ---- packages: unpacked, not installed
say "fetching packages"
packages=$work/packages
mmdebstrap --quiet --variant=extract --mode=root \
  --include=linux-image-cloud-amd64,busybox-static,qemu-guest-agent,dropbear-bin,e2fsprogs \
  --dpkgopt='path-exclude=/usr/share/*' --aptopt='APT::Install-Recommends "false"' \
  "$suite" "$packages" "$@"
version=$(ls "$packages/lib/modules")
kernel=$packages/boot/vmlinuz-$version
depmod -b "$packages" "$version"

# copy_modules TREE NAME...: modules and what they depend on, without debug information and signature
copy_modules() {
  local tree=$1 file
  shift
  mkdir -p "$tree/lib/modules/$version"
  cp "$packages/lib/modules/$version"/modules.{builtin,builtin.modinfo,order} "$tree/lib/modules/$version/"
  for name; do
    modprobe -d "$packages" -S "$version" --show-depends "$name" 2>/dev/null || :
  done | sed -n "s#^insmod $packages/*\([^ ]*\).*#\1#p" | sort -u | while read -r file; do
    install -D -m 644 "$packages/$file" "$tree/$file"
    strip --strip-debug "$tree/$file"
  done
  depmod -b "$tree" "$version"
}

# ---- the root tree
say "making the root tree"
root=$work/root
mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,lib/x86_64-linux-gnu,lib64,etc/dropbear,dev,proc,sys,run,tmp,mnt,root/.ssh,home,var/log,var/lib/seed}
chmod 700 "$root/root" "$root/root/.ssh"
chmod 1777 "$root/tmp"
ln -s /run "$root/var/run"
cp "$packages/bin/busybox" "$root/bin/"
"$packages/bin/busybox" --list-full | while read -r applet; do
  mkdir -p "$root/$(dirname "$applet")"
  [ -e "$root/$applet" ] || ln -s /bin/busybox "$root/$applet"
done

# copy_libraries PROGRAM: the shared libraries that it names, and those that they name
copy_libraries() {
  local library dir
  readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | while read -r library; do
    [ ! -e "$root/lib/x86_64-linux-gnu/$library" ] || continue
    for dir in lib usr/lib; do
      [ -e "$packages/$dir/x86_64-linux-gnu/$library" ] || continue
      cp -L "$packages/$dir/x86_64-linux-gnu/$library" "$root/lib/x86_64-linux-gnu/"
      copy_libraries "$packages/$dir/x86_64-linux-gnu/$library"
      break
    done
  done
}
for program in usr/sbin/qemu-ga usr/sbin/dropbear usr/bin/dropbearkey sbin/mke2fs sbin/resize2fs; do
  rm -f "$root/$program"
  cp "$packages/$program" "$root/$program"
  copy_libraries "$packages/$program"
done
cp -L "$packages/lib64/ld-linux-x86-64.so.2" "$root/lib64/"
cp "$packages/etc/mke2fs.conf" "$root/etc/"
copy_modules "$root" $root_modules

(cd "$here/overlay" && find . -type f) | while read -r file; do
  rm -f "$root/$file"
  install -D -m 755 "$here/overlay/$file" "$root/$file"
done
cat >"$root/etc/os-release" <<END
PRETTY_NAME="KubeVMM tiny test guest (Debian $suite)"
NAME="KubeVMM tiny"
ID=kubevmm-tiny
ID_LIKE=debian
VERSION_ID="1"
END
echo tiny >"$root/etc/hostname"
echo "127.0.0.1 localhost" >"$root/etc/hosts"
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
printf 'root::19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n' >"$root/etc/shadow"
chmod 600 "$root/etc/shadow"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
echo /bin/sh >"$root/etc/shells"
echo 'export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root' >"$root/etc/profile"

# ---- the initrd: finds the root disk by its label
say "making the initrd"
initrd=$work/initrd
mkdir -p "$initrd"/{bin,dev,proc,sys,newroot}
cp "$packages/bin/busybox" "$initrd/bin/"
for applet in sh mount modprobe findfs sleep switch_root; do
  ln -s busybox "$initrd/bin/$applet"
done
ln -s bin "$initrd/sbin"
copy_modules "$initrd" $initrd_modules $initrd_more
cat >"$initrd/init" <<END
#!/bin/sh
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
modprobe -qa $initrd_modules
tries=0
until disk=\$(findfs LABEL=TINYROOT 2>/dev/null); do
  [ \$tries != 2 ] || modprobe -qa $initrd_more
  tries=\$((tries + 1))
  [ \$tries -lt 200 ] || { echo "no root disk"; exec sh; }
  sleep 0.05
done
mount -t ext4 -o noatime "\$disk" /newroot
for dir in dev proc sys; do
  mount -o move /\$dir /newroot/\$dir
done
exec switch_root /newroot /sbin/init
END
chmod 755 "$initrd/init"
(cd "$initrd" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 --reproducible) >"$work/initrd.img"

# ---- the disk: a FAT partition for both boot loaders, and the root
say "making the disk"
boot=$work/boot.raw
truncate -s ${boot_mib}M "$boot"
mkfs.vfat -F 16 -s 8 -n TINYBOOT "$boot" >/dev/null
printf 'DEFAULT linux\nPROMPT 0\nTIMEOUT 0\nLABEL linux\n  LINUX /vmlinuz\n  INITRD /initrd.img\n  APPEND %s\n' "$command_line" >"$work/syslinux.cfg"
printf 'timeout 0\ndefault linux.conf\n' >"$work/loader.conf"
printf 'title linux\nlinux /vmlinuz\ninitrd /initrd.img\noptions %s\n' "$command_line" >"$work/linux.conf"
mmd -i "$boot" ::/EFI ::/EFI/BOOT ::/loader ::/loader/entries
mcopy -i "$boot" "$kernel" ::/vmlinuz
mcopy -i "$boot" "$work/initrd.img" "$work/syslinux.cfg" ::/
mcopy -i "$boot" "$work/loader.conf" ::/loader/
mcopy -i "$boot" "$work/linux.conf" ::/loader/entries/
mcopy -i "$boot" /usr/lib/systemd/boot/efi/systemd-bootx64.efi ::/EFI/BOOT/BOOTX64.EFI
syslinux --install "$boot"

mke2fs -q -t ext4 -L TINYROOT -m 0 -d "$root" "$work/root.raw" ${root_mib}M

disk=$work/disk.raw
truncate -s $((1 + boot_mib + root_mib + 1))M "$disk"
printf 'label: dos\nstart=2048, size=%s, type=ef, bootable\nsize=%s, type=83\n' $((boot_mib * 2048)) $((root_mib * 2048)) | sfdisk -q "$disk"
dd if=/usr/lib/syslinux/mbr/mbr.bin of="$disk" bs=440 count=1 conv=notrunc status=none
dd if="$boot" of="$disk" bs=1M seek=1 conv=notrunc,sparse status=none
dd if="$work/root.raw" of="$disk" bs=1M seek=$((1 + boot_mib)) conv=notrunc,sparse status=none
qemu-img convert -f raw -O qcow2 -c "$disk" "$image"
say "done: $(du -h "$image" | cut -f1), kernel $version"
