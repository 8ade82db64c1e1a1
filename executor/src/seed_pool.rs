//! The cloud-init seeds on this host: small volumes in a pool of our own, readable by root and QEMU only.

use futures::FutureExt;
use futures::future::BoxFuture;
use kubevmm_analyser::lower::{Format, Permissions, PoolInput, VolumeInput, lower_pool, lower_volume};
use kubevmm_api::names;
use tokio_util::bytes::Bytes;
use uuid::{Uuid, uuid};

use crate::host::{Context, NotYet, SeedInput, Seeds};
use crate::libvirt::{self, StoragePool};
use crate::seed::Seed;

const NAME: &str = "kubevmm-system";
const PATH: &str = "/var/lib/libvirt/kubevmm-system";
/// The same on every host and for every cluster: the pool outlives a cluster whose etcd is lost.
const ID: Uuid = uuid!("6b756265-766d-4d00-8000-73797374656d");

/// The pool of the seeds. Clones share it.
#[derive(Clone)]
pub struct SeedPool {
    context: Context,
    turn: std::sync::Arc<tokio::sync::Mutex<()>>,
}

impl SeedPool {
    /// The pool on `context`'s host; made with its first seed.
    pub fn new(context: Context) -> Self {
        Self { context, turn: Default::default() }
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
        let pool = self.pool().await?;
        let name = names::seed_volume(&seed.uid);
        if let Some(old) = pool.lookup_volume(&name).await? {
            old.delete().await?;
        }
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
        Ok(volume.path().await?)
    }

    async fn delete(&self, uid: &str) -> Result<(), NotYet> {
        let connection = self.context.libvirt.connection()?;
        let Some(pool) = connection.lookup_storage_pool(ID).await? else { return Ok(()) };
        if !pool.is_active().await? {
            return Ok(());
        }
        match pool.lookup_volume(&names::seed_volume(uid)).await? {
            Some(volume) => Ok(ignore_gone(volume.delete().await)?),
            None => Ok(()),
        }
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
        self.write(seed).boxed()
    }

    fn remove<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), NotYet>> {
        self.delete(uid).boxed()
    }
}
