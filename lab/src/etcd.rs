//! Losing and restoring the cluster's store, for tests.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    Daemon, Error, HostName, Lab, Result,
    command::{self, program},
    error::FileContext as _,
};

/// The order in which the control plane stops: what writes to the store first.
const STOP: [Daemon; 4] = [Daemon::Scheduler, Daemon::ControllerManager, Daemon::ApiServer, Daemon::Etcd];

impl Lab {
    /// Saves etcd's data under a name, to be restored later. The API server is away for some seconds.
    ///
    /// # Errors
    /// When a daemon does not stop or start, or the copy fails.
    pub fn etcd_save(&self, name: &str) -> Result<()> {
        let backup = self.backup(name)?;
        self.without_control_plane(|data| {
            remove(&backup)?;
            copy(data, &backup)
        })
    }

    /// Replaces etcd's data by what was saved under a name. As after a real restore, watches of before see versions
    /// that are too new; the control plane starts again, everything else has to cope.
    ///
    /// # Errors
    /// When there is no such backup, or a daemon does not stop or start.
    pub fn etcd_restore(&self, name: &str) -> Result<()> {
        let backup = self.backup(name)?;
        if !backup.is_dir() {
            return Err(Error::Option { option: "NAME", reason: format!("there is no backup {}", backup.display()) });
        }
        self.without_control_plane(|data| {
            remove(data)?;
            copy(&backup, data)
        })
    }

    /// Empties etcd. The kubelets are started again, for they register their nodes only then; all objects but those
    /// that Kubernetes makes by itself are gone.
    ///
    /// # Errors
    /// When a daemon does not stop or start.
    pub fn etcd_wipe(&self) -> Result<()> {
        self.without_control_plane(remove)?;
        for host in self.running_nodes() {
            self.restart_daemon(host, Daemon::Kubelet)?;
        }
        self.wait_ready(&self.running_nodes())
    }

    fn backup(&self, name: &str) -> Result<PathBuf> {
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if !plain {
            return Err(Error::Option { option: "NAME", reason: "letters, digits, dashes and underscores".into() });
        }
        Ok(self.options().host_disk(HostName::ControlPlane).join("etcd-backups").join(name))
    }

    fn without_control_plane(&self, action: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        for daemon in STOP {
            self.stop_daemon(HostName::ControlPlane, daemon)?;
        }
        action(&self.options().host_disk(HostName::ControlPlane).join("etcd/data"))?;
        for daemon in STOP.iter().rev() {
            self.start_daemon(HostName::ControlPlane, *daemon)?;
        }
        Ok(())
    }
}

fn remove(dir: &Path) -> Result<()> {
    if dir.exists() { fs::remove_dir_all(dir).file("remove", dir) } else { Ok(()) }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).file("create", parent)?;
    }
    command::output(program("cp").arg("-a").arg(from).arg(to)).map(drop)
}
