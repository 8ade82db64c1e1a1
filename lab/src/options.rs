//! What can be chosen about a lab. Kept in its directory, so that later commands need only that.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::{Error, HostName, Result, address::MAX_HOSTS, error::FileContext as _};

/// Where a lab's state is when nothing else is said.
pub const DEFAULT_DIR: &str = "/run/kubevmm-lab";

/// How fast Kubernetes notices that a node is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Timings {
    /// Upstream's defaults: a node is NotReady after 50 s, its pods are evicted 300 s later.
    #[default]
    Real,
    /// For tests: NotReady after 8 s, pods evicted 5 s later.
    Short,
}

/// The options of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct Options {
    /// How many nodes
    #[arg(value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_HOSTS)))]
    pub nodes: u8,

    /// Directory of the lab's state; short, for sockets have their path in it
    #[arg(skip = PathBuf::from(DEFAULT_DIR))]
    pub dir: PathBuf,

    /// Where the hosts' disks (guests, images, containers) are, in a directory named as that of --dir
    #[arg(long, env = "LAB_DISKS", value_name = "DIR", default_value = "/var/tmp")]
    pub disks: PathBuf,

    /// Prefix of the lab's network interface and name of its cgroups; another tag, directory and networks make a
    /// second lab beside the first
    #[arg(long, env = "LAB_TAG", default_value = "lab")]
    pub tag: String,

    /// The lab's network, a /24
    #[arg(long, env = "LAB_NETWORK", default_value = "10.77.0.0", value_name = "ADDRESS")]
    pub network: Ipv4Addr,

    /// The pods' network, a /16: pods of host hK have the K-th /24 of it
    #[arg(long, env = "LAB_PODS", default_value = "10.78.0.0", value_name = "ADDRESS")]
    pub pods: Ipv4Addr,

    /// The Services' network, a /24: the API server is at .1
    #[arg(long, env = "LAB_SERVICES", default_value = "10.96.0.0", value_name = "ADDRESS")]
    pub services: Ipv4Addr,

    /// Nodes that have no libvirt, for example h3
    #[arg(long, value_delimiter = ',', value_name = "HOST")]
    pub no_libvirt: Vec<HostName>,

    /// Hosts with libvirt that are no nodes: without container runtime and kubelet, for example h4
    #[arg(long, value_delimiter = ',', value_name = "HOST")]
    #[serde(default)]
    pub external: Vec<HostName>,

    /// How fast Kubernetes notices that a node is gone
    #[arg(long, env = "LAB_TIMINGS", value_enum, default_value_t)]
    pub timings: Timings,

    /// How many pods a node takes
    #[arg(long, default_value_t = 110)]
    pub max_pods: u16,

    /// Log each request that the API server has answered, one JSON document a line: /var/log/audit.log of cp
    #[arg(long)]
    #[serde(default)]
    pub audit: bool,

    /// One more argument for kube-apiserver; may be given several times
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub api_arg: Vec<String>,

    /// One more argument for the kubelets; may be given several times
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub kubelet_arg: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 2,
            dir: PathBuf::from(DEFAULT_DIR),
            disks: PathBuf::from("/var/tmp"),
            tag: "lab".to_owned(),
            network: Ipv4Addr::new(10, 77, 0, 0),
            pods: Ipv4Addr::new(10, 78, 0, 0),
            services: Ipv4Addr::new(10, 96, 0, 0),
            no_libvirt: Vec::new(),
            external: Vec::new(),
            timings: Timings::Real,
            max_pods: 110,
            audit: false,
            api_arg: Vec::new(),
            kubelet_arg: Vec::new(),
        }
    }
}

impl Options {
    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// [`Error::Option`] names the option and what would do.
    pub fn check(&self) -> Result<()> {
        let refuse = |option, reason: &str| Err(Error::Option { option, reason: reason.to_owned() });
        let tag_is_plain = self.tag.starts_with(|c: char| c.is_ascii_lowercase())
            && self.tag.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !tag_is_plain || self.tag.len() > 10 {
            return refuse("--tag", "a small letter, then small letters, digits and dashes; at most 10 characters");
        }
        if !self.dir.is_absolute() || self.dir.components().count() < 3 || self.dir.as_os_str().len() > 60 {
            return refuse("--dir", "an absolute path below a top directory, at most 60 characters");
        }
        if !self.disks.is_absolute() {
            return refuse("--disks", "an absolute path");
        }
        if self.disks().to_string_lossy().contains([':', ',', '\\']) {
            return refuse("--disks", "no colon, comma or backslash: the path becomes an option of an overlay mount");
        }
        for (option, address) in [("--network", self.network), ("--pods", self.pods), ("--services", self.services)] {
            if address.octets()[3] != 0 {
                return refuse(option, "the address of a network ends in .0");
            }
        }
        if self.pods.octets()[2] != 0 {
            return refuse("--pods", "the address of a /16 ends in .0.0");
        }
        if !(1..=MAX_HOSTS).contains(&self.nodes) {
            return refuse("N", "from 1 to 32 nodes");
        }
        if self.no_libvirt.contains(&HostName::ControlPlane) {
            return refuse("--no-libvirt", "cp has no libvirt anyway; name nodes");
        }
        if self.external.iter().any(|host| host.is_control_plane() || self.no_libvirt.contains(host)) {
            return refuse("--external", "hosts other than cp, and not those of --no-libvirt");
        }
        Ok(())
    }

    /// The directory of the hosts' disks.
    pub fn disks(&self) -> PathBuf {
        self.disks.join(self.dir.file_name().unwrap_or_default())
    }

    /// The hosts that `up` makes, beside cp.
    pub fn node_names(&self) -> Vec<HostName> {
        (1..=self.nodes).map(HostName::Node).collect()
    }

    /// Whether a node gets a libvirtd.
    pub fn has_libvirt(&self, host: HostName) -> bool {
        !host.is_control_plane() && !self.no_libvirt.contains(&host)
    }

    /// Whether a host is a node: it has a container runtime and a kubelet.
    pub fn has_kubelet(&self, host: HostName) -> bool {
        !host.is_control_plane() && !self.external.contains(&host)
    }

    /// The nodes that `up` makes, without external hosts.
    pub fn kubelet_names(&self) -> Vec<HostName> {
        self.node_names().into_iter().filter(|name| self.has_kubelet(*name)).collect()
    }

    /// The directory of one host's state that does not survive a reboot of the machine.
    pub(crate) fn host_dir(&self, host: HostName) -> PathBuf {
        self.dir.join(host.to_string())
    }

    /// The directory of one host's disk.
    pub(crate) fn host_disk(&self, host: HostName) -> PathBuf {
        self.disks().join(host.to_string())
    }

    /// A file in the host's root file system, as it is seen from the machine: only for files that the lab made.
    pub(crate) fn host_file(&self, host: HostName, path: &str) -> PathBuf {
        self.host_disk(host).join("upper").join(path.trim_start_matches('/'))
    }

    /// The log of a daemon.
    pub(crate) fn log(&self, host: HostName, name: &str) -> PathBuf {
        self.host_file(host, &format!("/var/log/{name}.log"))
    }

    pub(crate) fn save(&self) -> Result<()> {
        let path = self.dir.join("lab.json");
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::Unexpected { what: "the lab's options".into(), reason: error.to_string() })?;
        fs::write(&path, text).file("write", path)
    }

    pub(crate) fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("lab.json");
        let text = fs::read(&path).map_err(|_| Error::NoLab(dir.to_owned()))?;
        serde_json::from_slice(&text).map_err(|error| Error::Unexpected {
            what: path.display().to_string(),
            reason: format!("{error}; remove the file's directory when no process uses it"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Options)) -> String {
        let mut options = Options::default();
        change(&mut options);
        options.check().unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_good() {
        Options::default().check().unwrap();
    }

    #[test]
    fn bad_values_are_refused_with_the_option_named() {
        assert!(refused(|o| o.tag = "a-long-tag-name".into()).starts_with("option --tag"));
        assert!(refused(|o| o.tag = "../x".into()).starts_with("option --tag"));
        assert!(refused(|o| o.dir = "/".into()).starts_with("option --dir"));
        assert!(refused(|o| o.dir = "relative".into()).starts_with("option --dir"));
        assert!(refused(|o| o.disks = "/var/a,b".into()).starts_with("option --disks"));
        assert!(refused(|o| o.network = Ipv4Addr::new(10, 0, 0, 1)).starts_with("option --network"));
        assert!(refused(|o| o.pods = Ipv4Addr::new(10, 0, 1, 0)).starts_with("option --pods"));
        assert!(refused(|o| o.nodes = 0).starts_with("option N"));
        assert!(refused(|o| o.no_libvirt = vec![HostName::ControlPlane]).starts_with("option --no-libvirt"));
        assert!(refused(|o| o.external = vec![HostName::ControlPlane]).starts_with("option --external"));
        let both = |o: &mut Options| (o.external, o.no_libvirt) = (vec![HostName::Node(2)], vec![HostName::Node(2)]);
        assert!(refused(both).starts_with("option --external"));
    }

    #[test]
    fn options_survive_being_saved() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            dir: dir.path().to_owned(),
            no_libvirt: vec![HostName::Node(3)],
            timings: Timings::Short,
            ..Options::default()
        };
        options.save().unwrap();
        assert_eq!(Options::load(dir.path()).unwrap(), options);
    }

    #[test]
    fn a_directory_without_a_lab_is_said_to_be_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Options::load(dir.path()).unwrap_err().to_string().starts_with("no lab in"));
    }
}
