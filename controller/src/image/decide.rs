//! What an image's status says: pure.

use kubevmm_api::VirtualMachineImageStatus;
use kubevmm_api::condition::{READY, Wanted};
use kubevmm_api::hypervisor::{HostImage, ImageState};

use crate::hosts::{Hosts, complaints};
use crate::lifecycle::{Action, steps};
use crate::object::{enumerate, uid};
use crate::write::Object;

/// What an image is judged by.
#[derive(Debug)]
pub struct View<'a> {
    /// Its status.
    pub status: &'a VirtualMachineImageStatus,
    /// `spec.checksum`.
    pub checksum: Option<&'a str>,
    /// Disks that are copies of it.
    pub users: Vec<String>,
    /// The hosts.
    pub hosts: &'a Hosts,
}

/// The steps for an image.
pub fn decide<K: Object>(image: &K, view: &View<'_>) -> Vec<Action<VirtualMachineImageStatus>> {
    let told = view.hosts.told(|status| &status.images);
    let copies: Vec<(&str, &HostImage)> = told.filter(|(_, copy)| copy.uid == uid(image)).collect();
    let hosts: Vec<&str> = copies.iter().map(|(host, _)| *host).collect();
    steps(image, &view.users, &hosts, || status(view, &copies))
}

fn status(view: &View<'_>, copies: &[(&str, &HostImage)]) -> (VirtualMachineImageStatus, Wanted) {
    let downloaded = || copies.iter().filter(|(_, copy)| copy.state == ImageState::Downloaded);
    // The first download is what all others must be; its digest is never given up.
    let digest = view
        .checksum
        .map(str::to_owned)
        .or_else(|| view.status.digest.clone())
        .or_else(|| downloaded().find_map(|(_, copy)| copy.digest.clone()));
    let good = || downloaded().filter(|(_, copy)| copy.digest.is_some() && copy.digest == digest);
    let mut ready_hosts: Vec<&str> = good().map(|(host, _)| *host).collect();
    ready_hosts.dedup();
    let percent = copies
        .iter()
        .filter(|(_, copy)| copy.state == ImageState::Downloading)
        .map(|(_, copy)| copy.percent.unwrap_or(0))
        .max();
    let failed: Vec<(&str, &HostImage)> =
        copies.iter().filter(|(_, copy)| copy.state == ImageState::Failed).map(|(host, copy)| (*host, *copy)).collect();
    let other: Vec<&str> = downloaded()
        .filter(|(_, copy)| copy.digest.is_some() && copy.digest != digest)
        .map(|(host, _)| *host)
        .collect();
    let ready = if !ready_hosts.is_empty() {
        Wanted::yes(READY, "Downloaded", trouble(&failed))
    } else if let Some(percent) = percent {
        Wanted::no(READY, "Downloading", format!("{percent}% downloaded"))
    } else if let Some((_, copy)) = failed.first() {
        Wanted::no(READY, reason(copy.reason.as_deref()), trouble(&failed))
    } else if !other.is_empty() {
        Wanted::no(
            READY,
            "DigestChanged",
            format!(
                "the hosts {} downloaded something else than {}: the source has changed; create another image",
                enumerate(&other),
                digest.as_deref().unwrap_or_default()
            ),
        )
    } else {
        Wanted::unknown(READY, "NotDownloaded", "each host downloads it when the first disk there needs it")
    };
    let status = VirtualMachineImageStatus {
        observed_generation: None,
        virtual_size: good()
            .find_map(|(_, copy)| copy.virtual_size.clone())
            .or_else(|| view.status.virtual_size.clone()),
        digest,
        ready_hosts: Some(i32::try_from(ready_hosts.len()).unwrap_or(i32::MAX)),
        progress: percent.map(|percent| format!("{percent}%")),
        conditions: vec![],
    };
    (status, ready)
}

fn trouble(failed: &[(&str, &HostImage)]) -> String {
    complaints(failed.iter().map(|(host, copy)| (*host, &copy.message, &copy.reason)), "the download failed")
}

/// The hosts' reasons are these; a condition's reason is one of a fixed set.
fn reason(given: Option<&str>) -> &'static str {
    const KNOWN: [&str; 7] = [
        "ChecksumMismatch",
        "DigestChanged",
        "FormatMismatch",
        "BackingFileRefused",
        "NotAnImage",
        "ImageInDoubt",
        "LibvirtError",
    ];
    KNOWN.into_iter().find(|known| given == Some(*known)).unwrap_or("DownloadFailed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{hosts, yaml};
    use kubevmm_api::VirtualMachineImage;

    const IMAGE: &str = "metadata: {name: debian, namespace: shop, uid: i, finalizers: [kubevmm.io/cleanup]}\n\
                         spec: {source: {http: {url: \"http://x/y\"}}}";

    fn run(hosts: &Hosts, status: &VirtualMachineImageStatus) -> (VirtualMachineImageStatus, Wanted) {
        let image: VirtualMachineImage = yaml(IMAGE);
        let view = View { status, checksum: None, users: vec![], hosts };
        match decide(&image, &view).as_slice() {
            [Action::Write(status, ready)] => (status.clone(), ready.clone()),
            other => panic!("{other:?}"),
        }
    }

    fn copy(state: &str, more: &str) -> String {
        format!(
            "images: [{{kind: VirtualMachineImage, namespace: shop, name: debian, uid: i, poolName: fast, \
             volumeName: v, state: {state}, {more}}}]"
        )
    }

    #[test]
    fn the_first_download_sets_the_digest_for_all_others() {
        let none = VirtualMachineImageStatus::default();
        let (status, ready) = run(&hosts(&[("a", "")]), &none);
        assert_eq!((status.digest.clone(), ready.status, ready.reason), (None, None, "NotDownloaded"));
        let (status, ready) = run(&hosts(&[("a", &copy("Downloading", "percent: 40"))]), &none);
        assert_eq!((status.progress.as_deref(), ready.reason), (Some("40%"), "Downloading"));
        let first = copy("Downloaded", "digest: 'sha256:1', virtualSize: 2Gi");
        let (status, ready) = run(&hosts(&[("a", &first)]), &none);
        assert_eq!(
            (status.digest.as_deref(), status.ready_hosts, ready.status),
            (Some("sha256:1"), Some(1), Some(true))
        );
        let both = hosts(&[("a", &first), ("b", &copy("Downloaded", "digest: 'sha256:2'"))]);
        let (after, ready) = run(&both, &status);
        assert_eq!((after.digest.as_deref(), after.ready_hosts), (Some("sha256:1"), Some(1)));
        assert_eq!(ready.status, Some(true), "the host that has it can use it");
    }

    #[test]
    fn a_failure_is_told_with_its_host() {
        let bad = copy("Failed", "reason: ChecksumMismatch, message: 'the digest is sha256:3'");
        let (_, ready) = run(&hosts(&[("a", &bad)]), &VirtualMachineImageStatus::default());
        assert_eq!(
            (ready.status, ready.reason, ready.message.as_str()),
            (Some(false), "ChecksumMismatch", "a: the digest is sha256:3")
        );
        let doubtful = copy("Failed", "reason: ImageInDoubt");
        let (_, ready) = run(&hosts(&[("a", &doubtful)]), &VirtualMachineImageStatus::default());
        assert_eq!(ready.reason, "ImageInDoubt");
    }

    #[test]
    fn a_deleted_image_waits_for_the_hosts() {
        let mut image: VirtualMachineImage = yaml(IMAGE);
        image.metadata.deletion_timestamp = yaml::<VirtualMachineImage>(
            "metadata: {name: d, deletionTimestamp: \"2026-01-01T00:00:00Z\"}\nspec: {source: {http: {url: u}}}",
        )
        .metadata
        .deletion_timestamp;
        let status = VirtualMachineImageStatus::default();
        let there = hosts(&[("a", &copy("Downloaded", ""))]);
        let view = View { status: &status, checksum: None, users: vec![], hosts: &there };
        let actions = decide(&image, &view);
        let [Action::Write(_, ready)] = actions.as_slice() else { panic!("{actions:?}") };
        assert_eq!(ready.reason, "Deleting");
        let gone = hosts(&[("a", "")]);
        let view = View { status: &status, checksum: None, users: vec![], hosts: &gone };
        assert_eq!(decide(&image, &view), [Action::RemoveFinalizer]);
    }
}
