//! What QEMU needs of a host beside the memory of its guest: counted by the placement pod, and by the host for each of
//! its domains.

const MIB: u64 = 1 << 20;

/// Bound of the translated code that QEMU keeps for a guest without KVM, in MiB: without a bound of ours, QEMU takes up to
/// 1 GiB.
pub const TCG_CACHE_MIB: u32 = 64;

/// QEMU, its libraries, the devices that it plays, and what their I/O has in flight. A guest with a disk, a NIC and a
/// console was measured with 36 MiB of its own; the caches of qcow2 images and full queues come on top.
const BASE: u64 = 64 * MIB;
/// A thread with its stack, the CPU's state, and its part of interrupt controllers and queues. 1 to 3 MiB were measured
/// with idle ones.
const VCPU: u64 = 8 * MIB;
/// Guest memory that one byte of page tables stands for: an entry has 8 bytes, and stands for a page of 4096.
const MEMORY_OF_TABLES: u64 = 512;

/// Bytes that QEMU needs beside the `memory_bytes` of a guest with `vcpus` virtual CPUs:
///
/// | | |
/// |---|---|
/// | QEMU, its devices and I/O | 64 MiB |
/// | translated code ([`TCG_CACHE_MIB`]) | 64 MiB; it is counted for each VM: whether the host has KVM is not known before there is a host |
/// | each virtual CPU | 8 MiB |
/// | page tables | 1/512 of the guest's memory, in whole MiB |
///
/// So a guest with one virtual CPU and 2 GiB has 140 MiB. KubeVirt counts about the same for QEMU, and 200 MiB more for
/// the programs that it has around each one.
pub fn bytes(memory_bytes: u64, vcpus: u32) -> u64 {
    BASE + u64::from(TCG_CACHE_MIB) * MIB
        + u64::from(vcpus) * VCPU
        + memory_bytes.div_ceil(MEMORY_OF_TABLES * MIB) * MIB
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overhead_is_what_qemu_was_seen_to_need_and_some_more() {
        assert_eq!(bytes(2 << 30, 1), 140 * MIB);
        assert_eq!(bytes(64 << 30, 16), (64 + 64 + 128 + 128) * MIB);
        // Pss, less what the guest had of its memory, of guests under TCG with this bound: 192 MiB, 1 and 4 CPUs.
        assert!(bytes(192 * MIB, 1) > 100 * MIB && bytes(192 * MIB, 4) > 104 * MIB);
        assert_eq!(bytes(u64::MAX, 512) >> 55, 1, "no size overflows");
    }

    #[test]
    fn more_of_a_guest_is_never_less_overhead() {
        let sizes = [0, 1, 1 << 20, 1 << 29, (1 << 29) + 1, 1 << 40];
        assert!(sizes.windows(2).all(|pair| bytes(pair[0], 1) <= bytes(pair[1], 1)));
        assert!((1..512).all(|vcpus| bytes(1 << 30, vcpus) < bytes(1 << 30, vcpus + 1)));
    }
}
