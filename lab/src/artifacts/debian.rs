//! The machine's own Debian mirrors, which the lab's builds use.

use std::{fs, path::PathBuf, process::Command};

use crate::{Error, Result, command};

/// The release of Debian that hosts and guests are made of.
pub(super) const SUITE: &str = "bookworm";

/// A program of a Debian build: with the caller's proxies, which apt may need.
pub(super) fn program(name: &str) -> Command {
    let mut command = command::program(name);
    for (key, value) in std::env::vars_os() {
        if key.to_str().is_some_and(|key| key.to_ascii_lowercase().ends_with("_proxy")) {
            command.env(key, value);
        }
    }
    command
}

/// The mirrors of Debian and of its security updates.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sources {
    archive: String,
    security: String,
}

impl Sources {
    /// Those in the machine's apt configuration.
    pub(super) fn of_machine() -> Result<Self> {
        let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
        if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
            files.extend(entries.filter_map(|entry| entry.ok().map(|entry| entry.path())));
        }
        files.sort();
        let text: Vec<_> = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
        let found: Vec<_> = text.iter().flat_map(|text| entries(text)).collect();
        Self::choose(&found).ok_or_else(|| Error::Unexpected {
            what: "apt's sources in /etc/apt".into(),
            reason: "there is no Debian mirror among them; add one to /etc/apt/sources.list".into(),
        })
    }

    /// The mirrors of this release, or of another release of Debian, for both have the same archive.
    fn choose(found: &[(String, String)]) -> Option<Self> {
        let security_suite = format!("{SUITE}-security");
        let of_suite = |suite: &str| found.iter().find(|entry| entry.1 == suite).map(|entry| entry.0.clone());
        let archive = of_suite(SUITE).or_else(|| {
            let is_archive = |(uri, suite): &&(String, String)| {
                !suite.contains('-') && uri.trim_end_matches('/').ends_with("/debian")
            };
            found.iter().find(is_archive).map(|entry| entry.0.clone())
        })?;
        let security = of_suite(&security_suite).or_else(|| {
            let is_security = |(uri, suite): &&(String, String)| suite.ends_with("-security") && uri.contains("debian");
            found.iter().find(is_security).map(|entry| entry.0.clone())
        });
        let security = security.unwrap_or_else(|| format!("{}-security", archive.trim_end_matches('/')));
        Some(Self { archive, security })
    }

    /// Lines for apt: the stable release with its updates.
    pub(super) fn stable(&self) -> [String; 3] {
        let Self { archive, security } = self;
        [
            format!("deb {archive} {SUITE} main"),
            format!("deb {archive} {SUITE}-updates main"),
            format!("deb {security} {SUITE}-security main"),
        ]
    }

    /// The same, and backports.
    pub(super) fn with_backports(&self) -> Vec<String> {
        let mut lines = self.stable().to_vec();
        lines.push(format!("deb {} {SUITE}-backports main", self.archive));
        lines
    }
}

/// The mirrors and suites in a file of apt's, in the one-line or the deb822 format.
fn entries(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for line in text.lines().filter_map(|line| line.trim().strip_prefix("deb ")) {
        let without_options =
            line.trim().strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(line, |(_, rest)| rest);
        let mut words = without_options.split_ascii_whitespace();
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            found.push((uri.to_owned(), suite.to_owned()));
        }
    }
    for paragraph in text.split("\n\n") {
        let field = |name: &str| {
            paragraph
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .unwrap_or_default()
                .split_ascii_whitespace()
        };
        for uri in field("URIs") {
            found.extend(field("Suites").map(|suite| (uri.to_owned(), suite.to_owned())));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\n\
        Types: deb\nURIs: http://mirror.example/security\nSuites: bookworm-security\nComponents: main\n";

    #[test]
    fn both_formats_of_apt_are_read() {
        let lines = "# deb http://no.example/x y z\ndeb [arch=amd64 signed-by=/k] http://a.example/debian/ bookworm main\ndeb-src http://b.example c d\n";
        assert_eq!(entries(lines), [("http://a.example/debian/".into(), "bookworm".into())]);
        assert_eq!(entries(DEB822).len(), 3);
    }

    #[test]
    fn mirrors_are_chosen_by_suite() {
        let sources = Sources::choose(&entries(DEB822)).unwrap();
        assert_eq!(sources.archive, "http://mirror.example/debian");
        assert_eq!(sources.security, "http://mirror.example/security");
        assert_eq!(sources.with_backports()[3], "deb http://mirror.example/debian bookworm-backports main");
    }

    #[test]
    fn a_machine_of_another_release_has_the_same_archive() {
        let sources = Sources::choose(&entries("deb http://x.example/debian trixie main\n")).unwrap();
        assert_eq!(sources.archive, "http://x.example/debian");
        assert_eq!(sources.security, "http://x.example/debian-security");
        assert_eq!(Sources::choose(&entries("deb http://x.example/docker trixie stable\n")), None);
    }
}
