//! The images that are cached on this host.
//!
//! An image is downloaded once per host and pool, by a job of its own, however many VMs wait. Its commit point is the
//! entry `Downloaded` in the Hypervisor's status, read back or confirmed as written: without it the volume is written
//! again from the start, and nothing can be based on it. It is used when its digest is the one in the image's status.

mod download;
mod format;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::ResourceExt;
use kubevmm_analyser::lower::{Format, VolumeInput, lower_volume};
use kubevmm_analyser::read::read_volume;
use kubevmm_api::common::{ImageKind, ImageRef};
use kubevmm_api::hypervisor::{HostImage, ImageState};
use kubevmm_api::image::ImageFormat;
use kubevmm_api::{Quantity, names};
use tokio::task::AbortHandle;

use self::download::{DownloadError, Downloaded, Source};
use crate::host::{Context, NotYet, Retry};
use crate::libvirt::{self, StorageVol};
use crate::pool::{PoolGuests, UsablePool, find_volume, refresh};

const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How soon a copy that could not be deleted is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// Progress is reported in steps of this many per cent.
const PERCENT_STEP: u64 = 5;

/// An image object, whichever of the two kinds it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Image {
    kind: ImageKind,
    namespace: Option<String>,
    name: String,
    uid: String,
    url: String,
    checksum: Option<String>,
    format: Option<ImageFormat>,
    /// The digest that every copy must have, once it is known.
    digest: Option<String>,
    deleted: bool,
}

macro_rules! image_of {
    ($object:expr, $kind:expr) => {{
        let object = $object;
        Image {
            kind: $kind,
            namespace: object.namespace(),
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
            url: object.spec.source.http.url.clone(),
            checksum: object.spec.checksum.clone(),
            format: object.spec.format,
            digest: object.status.as_ref().and_then(|status| status.digest.clone()),
            deleted: object.metadata.deletion_timestamp.is_some(),
        }
    }};
}

/// An image that disks can be based on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOnHost {
    /// Path of the volume.
    pub path: String,
    /// Its format.
    pub format: Format,
    /// Size of the disk inside, in bytes.
    pub virtual_size: u64,
}

/// Why a downloaded image is not used.
#[derive(Debug, thiserror::Error)]
enum ImageError {
    #[error(transparent)]
    Download(#[from] DownloadError),
    #[error("the server sent {got}, but spec.checksum is {wanted}: correct the one that is wrong in a new image")]
    Checksum { wanted: String, got: String },
    #[error(
        "the server sent {got}, but other hosts have {wanted}: the file at spec.source.http.url has changed; make a new image for the new content, with a checksum"
    )]
    DigestChanged { wanted: String, got: String },
    #[error("disks are based on the volume {0}, which is not whole: restore it, or delete those disks")]
    InDoubt(String),
}

impl ImageError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Download(error) => error.reason(),
            Self::Checksum { .. } => "ChecksumMismatch",
            Self::DigestChanged { .. } => "DigestChanged",
            Self::InDoubt(_) => "ImageInDoubt",
        }
    }
}

impl From<libvirt::Error> for ImageError {
    fn from(error: libvirt::Error) -> Self {
        Self::Download(error.into())
    }
}

/// One copy: the image's uid and the pool that it lies in.
type Key = (String, String);

#[derive(Default)]
struct State {
    entries: BTreeMap<Key, HostImage>,
    jobs: HashMap<Key, AbortHandle>,
    failures: HashMap<Key, Failure>,
}

struct Failure {
    times: u32,
    again: Instant,
}

/// The cached images of this host. Clones share them.
#[derive(Clone)]
pub struct Images {
    context: Context,
    http: reqwest::Client,
    state: Arc<Mutex<State>>,
}

impl Images {
    /// The images of `context`'s host, whose stores have been listed: what an earlier executor has downloaded counts.
    ///
    /// # Errors
    /// When no TLS client can be made: the system has no root certificates.
    pub fn new(context: Context) -> Result<Self, reqwest::Error> {
        let mut state = State::default();
        let status = context.store.hypervisors.get_cluster(&context.node).and_then(|object| object.status.clone());
        for entry in status.unwrap_or_default().images {
            if entry.state == ImageState::Downloaded {
                state.entries.insert((entry.uid.clone(), entry.pool_name.clone()), entry);
            }
        }
        let images = Self { context, http: download::client()?, state: Arc::new(Mutex::new(state)) };
        images.publish();
        Ok(images)
    }

    /// The image in this pool, or what keeps it from being used. Starts the download when there is none.
    pub async fn ensure(
        &self,
        namespace: &str,
        reference: &ImageRef,
        pool: &UsablePool,
    ) -> Result<ImageOnHost, NotYet> {
        let Some(image) = self.find(namespace, reference) else {
            return Err(NotYet::on_change(
                "ImageNotFound",
                format!("there is no {:?} {}", reference.kind, reference.name),
            ));
        };
        if image.deleted {
            return Err(NotYet::on_change("ImageDeleted", format!("image {} is being deleted", image.name)));
        }
        let key = (image.uid.clone(), pool.name.clone());
        if let Some(entry) = self.downloaded(&key) {
            match find_volume(&pool.pool, &entry.volume_name).await? {
                Some(volume) => return self.verified(&image, &key, &entry, &volume).await,
                None => drop(self.lock().entries.remove(&key)),
            }
        }
        Err(self.start(image, key, pool))
    }

    /// Follows the image objects for ever: a deleted one takes its copies along.
    pub async fn run(self) {
        let mut images = self.context.store.images.changes();
        let mut cluster_images = self.context.store.cluster_images.changes();
        let mut disks = self.context.store.disks.changes();
        loop {
            let again = self.reconcile().await;
            tokio::select! {
                Ok(()) = images.changed() => {}
                Ok(()) = cluster_images.changed() => {}
                // A disk that goes may be what a deleted image waits for.
                Ok(()) = disks.changed(), if again => {}
                () = tokio::time::sleep(RETRY), if again => {}
                else => return,
            }
        }
    }

    /// Takes the copies of deleted images away; whether one could not be.
    async fn reconcile(&self) -> bool {
        let mut again = false;
        let entries: Vec<(Key, HostImage)> =
            self.lock().entries.iter().map(|(key, entry)| (key.clone(), entry.clone())).collect();
        for (key, entry) in entries {
            let image = self.of_entry(&entry);
            // An object that is merely gone (an etcd that lost it) takes nothing along: only a deletion does.
            match image {
                Some(image) if !image.deleted => {}
                Some(image) if self.has_disks(&image) => again = true,
                Some(_) => match self.discard(&key, &entry).await {
                    Ok(()) => self.forget(&key),
                    Err(error) => {
                        tracing::warn!(image = entry.name, error = error.message, "cannot delete the copy");
                        again = true;
                    }
                },
                None => self.forget(&key),
            }
        }
        again
    }

    /// Whether a disk of this host is made from the image: its volume may be based on the copy.
    fn has_disks(&self, image: &Image) -> bool {
        self.context.store.disks.list().iter().any(|disk| {
            let source = disk.spec.source.image.as_ref();
            let same_namespace = image.namespace.is_none() || disk.namespace() == image.namespace;
            same_namespace && source.is_some_and(|source| source.kind == image.kind && source.name == image.name)
        })
    }

    /// The volume is there: its digest decides.
    async fn verified(
        &self,
        image: &Image,
        key: &Key,
        entry: &HostImage,
        volume: &StorageVol,
    ) -> Result<ImageOnHost, NotYet> {
        let Some(wanted) = &image.digest else {
            let message = format!("image {} is downloaded; its digest is not in the image's status yet", image.name);
            return Err(NotYet::on_change("ImageVerifying", message));
        };
        let got = entry.digest.clone().unwrap_or_default();
        if *wanted != got {
            let error = ImageError::DigestChanged { wanted: wanted.clone(), got };
            self.discard(key, entry).await?;
            return Err(self.failed(image, key, &entry.volume_name, &error));
        }
        Ok(ImageOnHost {
            path: volume.path().await?,
            format: match entry.format {
                Some(ImageFormat::Qcow2) => Format::Qcow2,
                Some(ImageFormat::Raw) | None => Format::Raw,
            },
            virtual_size: entry.virtual_size.as_ref().and_then(|size| size.bytes().ok()).unwrap_or_default(),
        })
    }

    /// Starts the job unless it runs or has to wait; says how it stands.
    fn start(&self, image: Image, key: Key, pool: &UsablePool) -> NotYet {
        let mut state = self.lock();
        let downloading = NotYet::on_change(
            "ImageDownloading",
            format!("image {} is being downloaded to this host; its progress is in the image's status", image.name),
        );
        if state.jobs.contains_key(&key) {
            return downloading;
        }
        if let Some(failure) = state.failures.get(&key)
            && let Some(pause) = failure.again.checked_duration_since(Instant::now())
            && let Some(entry) = state.entries.get(&key)
        {
            return NotYet { retry: Retry::After(pause), ..explain(entry) };
        }
        let volume_name = self.volume_name(&image, pool);
        state.entries.insert(key.clone(), entry(&image, &key, &volume_name, ImageState::Downloading));
        let job = self.clone().job(image, key.clone(), pool.clone(), volume_name);
        state.jobs.insert(key, tokio::spawn(job).abort_handle());
        drop(state);
        self.publish();
        downloading
    }

    async fn job(self, image: Image, key: Key, pool: UsablePool, volume_name: String) {
        let result = self.fetch(&image, &key, &pool, &volume_name).await;
        match result {
            Ok(downloaded) => {
                let mut done = entry(&image, &key, &volume_name, ImageState::Downloaded);
                done.digest = Some(downloaded.digest);
                done.format = Some(downloaded.format);
                done.virtual_size = Some(Quantity::from_bytes(downloaded.virtual_size));
                self.lock().entries.insert(key.clone(), done);
                self.publish();
                self.context.report.written().await;
                let mut state = self.lock();
                state.failures.remove(&key);
                state.jobs.remove(&key);
                tracing::info!(image = image.name, pool = pool.name, "image downloaded");
            }
            Err(error) => {
                tracing::warn!(image = image.name, %error, "image could not be downloaded");
                if let Err(error) = discard_volume(&pool, &volume_name).await {
                    tracing::warn!(volume = volume_name, error = error.message, "cannot delete what was downloaded");
                }
                self.failed(&image, &key, &volume_name, &error);
                self.lock().jobs.remove(&key);
            }
        }
        self.context.changes.notify();
    }

    async fn fetch(
        &self,
        image: &Image,
        key: &Key,
        pool: &UsablePool,
        volume_name: &str,
    ) -> Result<Downloaded, ImageError> {
        if let Some(left) = find_volume(&pool.pool, volume_name).await? {
            if is_base(pool, &left.path().await?).await? {
                return Err(ImageError::InDoubt(volume_name.to_owned()));
            }
            left.delete().await?;
        }
        let source = Source::open(&self.http, &image.url).await?;
        let length = source.length();
        let input = VolumeInput {
            name: volume_name.to_owned(),
            capacity_bytes: length.unwrap_or_default(),
            // Raw whatever it holds: these are its bytes, and libvirt must not interpret them.
            format: Format::Raw,
            backing: None,
            permissions: None,
        };
        let volume = pool.pool.create_volume(volume_name, &lower_volume(&input).to_xml()).await?;
        let mut upload = volume.upload(0, length.unwrap_or_default()).await?;
        let progress = |bytes: u64| {
            if let Some(percent) = length.and_then(|length| (bytes * 100).checked_div(length)) {
                self.progressed(key, percent / PERCENT_STEP * PERCENT_STEP);
            }
        };
        let downloaded = source.copy(&mut upload, image.format, progress).await?;
        upload.finish().await?;
        if let Some(wanted) = image.checksum.as_ref().filter(|wanted| **wanted != downloaded.digest) {
            return Err(ImageError::Checksum { wanted: wanted.clone(), got: downloaded.digest });
        }
        let known = self.digest_of(image);
        if let Some(wanted) = known.filter(|wanted| *wanted != downloaded.digest) {
            return Err(ImageError::DigestChanged { wanted, got: downloaded.digest });
        }
        Ok(downloaded)
    }

    fn failed(&self, image: &Image, key: &Key, volume_name: &str, error: &ImageError) -> NotYet {
        let mut failed = entry(image, key, volume_name, ImageState::Failed);
        failed.reason = Some(error.reason().to_owned());
        failed.message = Some(error.to_string());
        let not_yet = explain(&failed);
        let mut state = self.lock();
        let times = state.failures.get(key).map_or(0, |failure| failure.times);
        let pause = FIRST_PAUSE.saturating_mul(1 << times.min(10)).min(LONGEST_PAUSE);
        state.failures.insert(key.clone(), Failure { times: times + 1, again: Instant::now() + pause });
        state.entries.insert(key.clone(), failed);
        drop(state);
        self.publish();
        NotYet { retry: Retry::After(pause), ..not_yet }
    }

    fn progressed(&self, key: &Key, percent: u64) {
        let percent = i32::try_from(percent).ok();
        let mut state = self.lock();
        let Some(entry) = state.entries.get_mut(key).filter(|entry| entry.percent != percent) else { return };
        entry.percent = percent;
        drop(state);
        self.publish();
    }

    /// Stops the job and deletes the copy, unless a volume is based on it.
    async fn discard(&self, key: &Key, entry: &HostImage) -> Result<(), NotYet> {
        if let Some(job) = self.lock().jobs.remove(key) {
            job.abort();
        }
        let connection = self.context.libvirt.connection()?;
        let Some(object) = self.context.store.pools.get_cluster(&entry.pool_name) else { return Ok(()) };
        let Some(pool) = connection.lookup_storage_pool_by_name(&object.libvirt_name()).await? else { return Ok(()) };
        match discard_volume(&UsablePool { name: entry.pool_name.clone(), pool }, &entry.volume_name).await? {
            Discarded::Gone => Ok(()),
            // A disk that has moved on in a shared pool, or a retained one.
            Discarded::IsBase => Err(NotYet::on_change(
                "InUse",
                format!("a volume of pool {} is based on {}", entry.pool_name, entry.volume_name),
            )),
        }
    }

    fn forget(&self, key: &Key) {
        let mut state = self.lock();
        state.entries.remove(key);
        state.failures.remove(key);
        drop(state);
        self.publish();
    }

    /// In a shared pool each host has a copy of its own: two must not write one file.
    fn volume_name(&self, image: &Image, pool: &UsablePool) -> String {
        let object = self.context.store.pools.get_cluster(&pool.name);
        let suffix = match object.is_some_and(|object| object.spec.shared) {
            true => format!("{}.img", names::short_hash(&self.context.node, 8)),
            false => "img".to_owned(),
        };
        names::image_volume(image.namespace.as_deref(), &image.name, &image.uid, &suffix)
    }

    fn downloaded(&self, key: &Key) -> Option<HostImage> {
        let state = self.lock();
        // While its job lives, the entry may not be written yet.
        let committed = !state.jobs.contains_key(key);
        state.entries.get(key).filter(|entry| committed && entry.state == ImageState::Downloaded).cloned()
    }

    fn find(&self, namespace: &str, reference: &ImageRef) -> Option<Image> {
        match reference.kind {
            ImageKind::VirtualMachineImage => {
                let object = self.context.store.images.get(namespace, &reference.name)?;
                Some(image_of!(object, ImageKind::VirtualMachineImage))
            }
            ImageKind::ClusterVirtualMachineImage => {
                let object = self.context.store.cluster_images.get_cluster(&reference.name)?;
                Some(image_of!(object, ImageKind::ClusterVirtualMachineImage))
            }
        }
    }

    fn of_entry(&self, entry: &HostImage) -> Option<Image> {
        let reference = ImageRef { kind: entry.kind, name: entry.name.clone() };
        let image = self.find(entry.namespace.as_deref().unwrap_or_default(), &reference)?;
        (image.uid == entry.uid).then_some(image)
    }

    /// The digest of now: another host may have been first while this one downloaded.
    fn digest_of(&self, image: &Image) -> Option<String> {
        let reference = ImageRef { kind: image.kind, name: image.name.clone() };
        self.find(image.namespace.as_deref().unwrap_or_default(), &reference)?.digest
    }

    fn publish(&self) {
        let entries = self.lock().entries.values().cloned().collect();
        self.context.report.images(entries);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolGuests for Images {
    async fn leave(&self, pool: &UsablePool) -> Result<(), NotYet> {
        let entries: Vec<(Key, HostImage)> = {
            let state = self.lock();
            let inside = state.entries.iter().filter(|((_, name), _)| *name == pool.name);
            inside.map(|(key, entry)| (key.clone(), entry.clone())).collect()
        };
        for (key, entry) in entries {
            match self.discard(&key, &entry).await {
                // What is retained in a pool keeps its base when the pool goes.
                Err(not_yet) if not_yet.reason != "InUse" => return Err(not_yet),
                Ok(()) | Err(_) => self.forget(&key),
            }
        }
        Ok(())
    }
}

fn entry(image: &Image, key: &Key, volume_name: &str, state: ImageState) -> HostImage {
    HostImage {
        kind: image.kind,
        namespace: image.namespace.clone(),
        name: image.name.clone(),
        uid: image.uid.clone(),
        pool_name: key.1.clone(),
        volume_name: volume_name.to_owned(),
        state,
        percent: None,
        digest: None,
        format: None,
        virtual_size: None,
        reason: None,
        message: None,
    }
}

/// A failed entry as what a VM waits for.
fn explain(entry: &HostImage) -> NotYet {
    let reason = match entry.reason.as_deref() {
        Some("ChecksumMismatch") => "ChecksumMismatch",
        Some("DigestChanged") => "DigestChanged",
        Some("FormatMismatch") => "FormatMismatch",
        Some("BackingFileRefused") => "BackingFileRefused",
        Some("NotAnImage") => "NotAnImage",
        Some("ImageInDoubt") => "ImageInDoubt",
        Some("LibvirtError") => "LibvirtError",
        _ => "DownloadFailed",
    };
    let message = entry.message.clone().unwrap_or_default();
    NotYet::backoff(reason, format!("image {}: {message}", entry.name))
}

/// What became of a volume that is no longer wanted.
pub(crate) enum Discarded {
    /// It is not there (any more).
    Gone,
    /// It is left, for a volume is based on it.
    IsBase,
}

/// Deletes a volume, unless another one of its pool is based on it.
pub(crate) async fn discard_volume(pool: &UsablePool, name: &str) -> Result<Discarded, NotYet> {
    let Some(volume) = find_volume(&pool.pool, name).await? else { return Ok(Discarded::Gone) };
    if is_base(pool, &volume.path().await?).await? {
        tracing::warn!(volume = name, pool = pool.name, "left in its pool: a volume is based on it");
        return Ok(Discarded::IsBase);
    }
    volume.delete().await?;
    Ok(Discarded::Gone)
}

/// Whether a volume of the pool is a copy-on-write copy of `path`.
async fn is_base(pool: &UsablePool, path: &str) -> Result<bool, libvirt::Error> {
    refresh(&pool.pool).await?;
    for volume in pool.pool.list_volumes().await? {
        let Ok(info) = read_volume(&volume.xml().await?) else { continue };
        if info.backing.is_some_and(|backing| backing.path == path) {
            return Ok(true);
        }
    }
    Ok(false)
}
