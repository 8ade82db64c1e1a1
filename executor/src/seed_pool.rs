//! The cloud-init seeds on this host: small volumes in a pool of our own, readable by root and QEMU only.
//!
//! A start that waits for its image asks for the seed again and again, and is given up half-way each time. So a seed is
//! written by a task of its own, one at a time for each VM, and one that is there with the same bytes is left alone.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use kubevmm_analyser::lower::{Format, Permissions, PoolInput, VolumeInput, lower_pool, lower_volume};
use kubevmm_api::names;
use sha2::{Digest, Sha256};
use tokio_util::bytes::Bytes;
use uuid::{Uuid, uuid};

use crate::host::{Context, NotYet, SeedInput, Seeds};
use crate::libvirt::{self, StoragePool};
use crate::seed::Seed;
use crate::turns::Turns;

const NAME: &str = "kubevmm-system";
const PATH: &str = "/var/lib/libvirt/kubevmm-system";
/// The same on every host and for every cluster: the pool outlives a cluster whose etcd is lost.
const ID: Uuid = uuid!("6b756265-766d-4d00-8000-73797374656d");

/// The pool of the seeds. Clones share it.
#[derive(Clone)]
pub struct SeedPool {
    context: Context,
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Shared by those who write a seed, held alone by the one who may take the empty pool away.
    in_use: Arc<tokio::sync::RwLock<()>>,
    /// By the VM's UID: the digest of the bytes that were written last.
    written: Turns<Option<[u8; 32]>>,
}

impl SeedPool {
    /// The pool on `context`'s host; made with its first seed.
    pub fn new(context: Context) -> Self {
        Self { context, turn: Arc::default(), in_use: Arc::default(), written: Turns::default() }
    }

    async fn pool(&self) -> Result<StoragePool, NotYet> {
        let connection = self.context.libvirt.connection()?;
        let _turn = self.turn.lock().await;
        let pool = match connection.lookup_storage_pool_by_name(NAME).await? {
            Some(pool) if pool.uuid() != ID => {
                let message = format!("libvirt has a pool {NAME} that is not ours: rename it with virsh");
                return Err(NotYet::backoff("NameTaken", message));
            }
            Some(pool) => pool,
            None => {
                let input = PoolInput {
                    name: NAME.into(),
                    uuid: ID,
                    target_path: PATH.into(),
                    // QEMU's user must get through to its file, and must not see the others' names.
                    permissions: Some(Permissions { mode: 0o711, owner: Some((0, 0)) }),
                };
                connection.define_storage_pool(NAME, &lower_pool(&input).to_xml()).await?
            }
        };
        if !pool.is_active().await? {
            pool.build().await?;
            pool.create().await?;
        }
        Ok(pool)
    }

    async fn write(&self, seed: &SeedInput) -> Result<String, NotYet> {
        let bytes = Seed {
            instance_id: &seed.uid,
            hostname: &seed.name,
            user_data: seed.user_data.as_deref().unwrap_or(b"#cloud-config\n"),
            network_config: seed.network_data.as_deref(),
        }
        .to_image()
        .map_err(|error| NotYet::backoff("SeedFailed", format!("cannot make the cloud-init seed: {error}")))?;
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        let mut written = self.written.take(&seed.uid).await;
        let _in_use = self.in_use.read().await;
        let pool = self.pool().await?;
        let name = names::seed_volume(&seed.uid);
        if let Some(old) = pool.lookup_volume(&name).await? {
            if *written == Some(digest) {
                return Ok(old.path().await?);
            }
            old.delete().await?;
        }
        *written = None;
        let length = bytes.len() as u64;
        let input = VolumeInput {
            name: name.clone(),
            capacity_bytes: length,
            format: Format::Raw,
            backing: None,
            permissions: Some(Permissions { mode: 0o600, owner: None }),
        };
        let volume = pool.create_volume(&name, &lower_volume(&input).to_xml()).await?;
        let mut upload = volume.upload(0, length).await?;
        upload.send(Bytes::from(bytes)).await?;
        upload.finish().await?;
        *written = Some(digest);
        Ok(volume.path().await?)
    }

    async fn delete(&self, uid: &str) -> Result<(), NotYet> {
        let mut written = self.written.take(uid).await;
        *written = None;
        self.delete_alone(uid).await?;
        self.written.end(uid, written);
        Ok(())
    }

    async fn delete_alone(&self, uid: &str) -> Result<(), NotYet> {
        let _alone = self.in_use.write().await;
        let connection = self.context.libvirt.connection()?;
        let Some(pool) = connection.lookup_storage_pool(ID).await? else { return Ok(()) };
        if !pool.is_active().await? {
            // After a reboot of the host: its files are there, and may hold secrets.
            pool.create().await?;
        }
        if let Some(volume) = pool.lookup_volume(&names::seed_volume(uid)).await? {
            ignore_gone(volume.delete().await)?;
        }
        if pool.list_volumes().await?.is_empty() {
            // The next seed makes it again.
            pool.destroy().await?;
            pool.undefine().await?;
        }
        Ok(())
    }
}

fn ignore_gone(result: Result<(), libvirt::Error>) -> Result<(), libvirt::Error> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

impl Seeds for SeedPool {
    fn put<'a>(&'a self, seed: &'a SeedInput) -> BoxFuture<'a, Result<String, NotYet>> {
        let (pool, seed) = (self.clone(), seed.clone());
        async move {
            let task = tokio::spawn(async move { pool.write(&seed).await });
            task.await.unwrap_or_else(|error| Err(NotYet::backoff("SeedFailed", format!("the task ended: {error}"))))
        }
        .boxed()
    }

    fn remove<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), NotYet>> {
        self.delete(uid).boxed()
    }
}
