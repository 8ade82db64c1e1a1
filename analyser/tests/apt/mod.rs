//! Debian 12's backports by a configuration of apt of its own: the machine's sources and packages stay as they are.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory with its own apt.
pub(crate) struct Apt {
    pub(crate) directory: PathBuf,
}

impl Apt {
    /// Makes the directory if it is not there. `kind` is `deb` or `deb-src`.
    pub(crate) fn new(name: &str, kind: &str) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(directory.join("lists/partial")).unwrap();
        std::fs::create_dir_all(directory.join("cache/archives/partial")).unwrap();
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let source = format!("{kind} [signed-by={keyring}] {} bookworm-backports main\n", debian());
        std::fs::write(directory.join("sources.list"), source).unwrap();
        Self { directory }
    }

    /// Runs apt-get in the directory; whether it succeeded.
    pub(crate) fn get(&self, words: &[&str]) -> bool {
        let at = |name: &str| self.directory.join(name).display().to_string();
        let mut command = Command::new("apt-get");
        command.current_dir(&self.directory).arg("-qq").args(["-o", "APT::Sandbox::User=root"]);
        command.arg("-o").arg(format!("Dir::Etc::SourceList={}", at("sources.list")));
        command.arg("-o").arg("Dir::Etc::SourceParts=/dev/null");
        command.arg("-o").arg(format!("Dir::State::Lists={}", at("lists")));
        command.arg("-o").arg(format!("Dir::Cache={}", at("cache")));
        command.args(words).status().unwrap().success()
    }

    /// The file in the directory whose name ends so.
    pub(crate) fn find(&self, end: &str) -> Option<PathBuf> {
        let entries = std::fs::read_dir(&self.directory).unwrap().map(|entry| entry.unwrap().path());
        entries.into_iter().find(|path| path.display().to_string().ends_with(end))
    }
}

/// Where this machine has Debian 12 from.
fn debian() -> String {
    let format = "$(REPO_URI) $(RELEASE)";
    let targets =
        Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]).output().unwrap();
    let targets = String::from_utf8(targets.stdout).unwrap();
    targets.lines().find_map(|line| line.strip_suffix(" bookworm")).expect("apt knows no Debian 12").to_owned()
}
