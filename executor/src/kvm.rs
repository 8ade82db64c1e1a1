//! Can this host run guests with KVM? Decided by evidence: `/dev/kvm` may be there and still not run any.

use std::path::Path;
use std::time::Duration;

use crate::libvirt::kvm_probe;

/// Where KVM is.
pub const DEVICE: &str = "/dev/kvm";

/// The probe takes some 10 ms; a host that needs longer than this emulates guest code, which QEMU does better.
const LIMIT: Duration = Duration::from_secs(2);

/// What the probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvmProbe {
    /// Guest code ran and halted.
    Usable,
    /// It did not, or there is no KVM.
    Unusable {
        /// What went wrong, for people.
        why: String,
    },
}

/// Runs a little 64-bit guest code on `device` (normally [`DEVICE`]). Returns within a few seconds whatever the
/// kernel does.
pub async fn probe(device: &Path) -> KvmProbe {
    let path = device.to_owned();
    let outcome = tokio::task::spawn_blocking(move || kvm_probe::probe(&path, LIMIT)).await;
    let why = match outcome {
        Ok(Ok(())) => return KvmProbe::Usable,
        Ok(Err(why)) => why,
        Err(error) => error.to_string(),
    };
    KvmProbe::Unusable { why: format!("{}: {why}", device.display()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_host_without_kvm_says_so() {
        let KvmProbe::Unusable { why } = probe(Path::new("/nowhere/kvm")).await else {
            panic!("there is no such device");
        };
        assert_eq!(why, "/nowhere/kvm: cannot open the device: No such file or directory (os error 2)");
    }

    #[tokio::test]
    async fn a_file_that_is_not_kvm_says_so() {
        let KvmProbe::Unusable { why } = probe(Path::new("/dev/null")).await else {
            panic!("/dev/null runs no guests");
        };
        assert!(why.starts_with("/dev/null: cannot create a virtual machine"), "{why}");
    }

    /// What comes out depends on the host; that something does, in time, must not.
    #[tokio::test]
    async fn the_probe_always_ends() {
        let outcome = tokio::time::timeout(LIMIT * 3, probe(Path::new(DEVICE))).await;
        match outcome.expect("the probe hangs") {
            KvmProbe::Usable => assert!(Path::new(DEVICE).exists()),
            KvmProbe::Unusable { why } => assert!(why.starts_with("/dev/kvm: "), "{why}"),
        }
    }
}
