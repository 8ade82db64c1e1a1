//! Where libvirt is.

use std::fmt;
use std::path::{Path, PathBuf};

use super::error::{ErrorCode, Failure};

/// libvirtd's socket; virtproxyd's, where the daemons are modular.
const LIBVIRTD_SOCKET: &str = "libvirt-sock";
/// The socket of the modular daemon for QEMU. It opens virtnetworkd, virtstoraged and, where there is
/// one, virtnodedevd for its clients.
const VIRTQEMUD_SOCKET: &str = "virtqemud-sock";

/// Where libvirt is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A URI, such as `qemu:///system`.
    Uri(String),
    /// The directory of the host's sockets, such as `/run/libvirt`: libvirtd's, or else virtqemud's.
    RunDir(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(uri) => f.write_str(uri),
            Self::RunDir(directory) => directory.display().fmt(f),
        }
    }
}

impl Address {
    /// The URI to connect to. Of a directory, looked up at each call: a host may get its libvirt later, or another one.
    pub(super) fn uri(&self) -> Result<String, Failure> {
        let directory = match self {
            Self::Uri(uri) => return Ok(uri.clone()),
            Self::RunDir(directory) => directory,
        };
        let [libvirtd, virtqemud] = [LIBVIRTD_SOCKET, VIRTQEMUD_SOCKET].map(|socket| directory.join(socket));
        match [&libvirtd, &virtqemud].into_iter().find(|socket| socket.exists()) {
            Some(socket) => Ok(of_socket(socket)),
            None => Err(Failure::new(
                ErrorCode::ConnectionLost,
                format!(
                    "there is neither {} nor {}: install and start libvirtd on this host, or the modular daemons \
                     virtqemud, virtnetworkd and virtstoraged (and virtnodedevd, for devices)",
                    libvirtd.display(),
                    virtqemud.display()
                ),
            )),
        }
    }
}

fn of_socket(socket: &Path) -> String {
    format!("qemu+unix:///system?socket={}", socket.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libvirtd_is_preferred_to_virtqemud() {
        let directory = tempfile::tempdir().unwrap();
        let address = Address::RunDir(directory.path().to_owned());
        let path = |name: &str| directory.path().join(name).display().to_string();

        let failure = address.uri().unwrap_err();
        assert_eq!(failure.code, ErrorCode::ConnectionLost);
        for socket in [path("libvirt-sock"), path("virtqemud-sock")] {
            assert!(failure.message.contains(&socket), "{}", failure.message);
        }

        std::fs::write(path("virtqemud-sock"), "").unwrap();
        assert_eq!(address.uri().unwrap(), format!("qemu+unix:///system?socket={}", path("virtqemud-sock")));
        std::fs::write(path("libvirt-sock"), "").unwrap();
        assert_eq!(address.uri().unwrap(), format!("qemu+unix:///system?socket={}", path("libvirt-sock")));
    }

    #[test]
    fn a_uri_is_taken_as_it_is() {
        assert_eq!(Address::Uri("qemu+ssh://host/system".into()).uri().unwrap(), "qemu+ssh://host/system");
    }
}
