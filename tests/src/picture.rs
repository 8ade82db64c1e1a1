//! How things on the hosts look: to be compared byte by byte.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

use crate::host::Host;

/// How each thing looked, by host and thing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture(BTreeMap<String, String>);

impl Picture {
    /// Every domain, network, pool and volume of the hosts. Of volumes whose name starts with `written`, a guest
    /// writes the content: only which file it is counts.
    ///
    /// # Errors
    /// Those of virsh.
    pub fn of_everything(hosts: &[Host], written: &str) -> Result<Self> {
        let mut picture = Self::default();
        for host in hosts {
            for domain in host.domains()? {
                let xml = host.virsh(["dumpxml", "--inactive", &domain])?;
                let state = host.domain_state(&domain)?;
                picture.note(host, &format!("domain {domain}"), state + "\n" + &xml);
            }
            for network in host.networks()? {
                let xml = host.virsh(["net-dumpxml", "--inactive", &network])?;
                let state = host.virsh(["net-info", &network])?;
                picture.note(host, &format!("network {network}"), state + "\n" + &xml);
            }
            for pool in host.pools()? {
                let xml = host.virsh(["pool-dumpxml", &pool])?;
                let directory = between(&xml, "<path>", "</path>").with_context(|| format!("{pool} has no path"))?;
                for volume in host.volumes(&pool)? {
                    let content = if volume.starts_with(written) { "" } else { " && sha256sum \"$f\"" };
                    let look = format!("f='{directory}/{volume}'; stat -c 'inode %i born %w' \"$f\"{content}");
                    picture.note(host, &format!("volume {pool}/{volume}"), host.sh(&look)?);
                }
                picture.note(host, &format!("pool {pool}"), without_sizes(&xml));
            }
        }
        Ok(picture)
    }

    /// Adds how a thing looks.
    pub(crate) fn note(&mut self, host: &Host, what: &str, text: String) {
        self.0.insert(format!("{} {what}", host.name), text);
    }

    /// Takes over how one thing looks now, where that may have changed.
    pub(crate) fn forgive(&mut self, host: &Host, what: &str, now: &Self) {
        let key = format!("{} {what}", host.name);
        if let Some(text) = now.0.get(&key) {
            self.0.insert(key, text.clone());
        }
    }

    /// Fails when something has changed, gone or come since `before`.
    ///
    /// # Errors
    /// With each thing that differs, before and after.
    pub fn is_the_same_as(&self, before: &Self) -> Result<()> {
        let things: BTreeSet<_> = self.0.keys().chain(before.0.keys()).collect();
        let nothing = "not there".to_owned();
        let look = |picture: &Self, thing: &String| picture.0.get(thing).unwrap_or(&nothing).clone();
        let changed: Vec<_> = things
            .into_iter()
            .filter(|thing| self.0.get(*thing) != before.0.get(*thing))
            .map(|thing| format!("{thing} was:\n{}\nand is:\n{}", look(before, thing), look(self, thing)))
            .collect();
        if changed.is_empty() { Ok(()) } else { bail!("this was not to change:\n{}", changed.join("\n")) }
    }
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    text.split_once(start)?.1.split_once(end).map(|(inside, _)| inside)
}

/// A pool's free space is the whole file system's: anybody changes it.
pub(crate) fn without_sizes(text: &str) -> String {
    let size = |line: &&str| ["capacity", "allocation", "available"].iter().any(|w| line.to_lowercase().contains(w));
    text.lines().filter(|line| !size(line)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(things: &[(&str, &str)]) -> Picture {
        Picture(things.iter().map(|(thing, text)| ((*thing).to_owned(), (*text).to_owned())).collect())
    }

    #[test]
    fn sizes_of_a_pool_do_not_count() {
        assert_eq!(without_sizes("<a/>\n<capacity unit='bytes'>7</capacity>\n<b/>"), "<a/>\n<b/>");
        assert_eq!(without_sizes("State: running\nAvailable: 7 GiB"), "State: running");
    }

    #[test]
    fn a_change_is_named() {
        let before = picture(&[("h1 domain", "a"), ("h1 pool", "p")]);
        assert!(before.is_the_same_as(&before).is_ok());
        for (after, told) in [
            (picture(&[("h1 domain", "b"), ("h1 pool", "p")]), "h1 domain was:\na\nand is:\nb"),
            (picture(&[("h1 domain", "a")]), "h1 pool was:\np\nand is:\nnot there"),
            (picture(&[("h1 domain", "a"), ("h1 pool", "p"), ("h1 x", "y")]), "h1 x was:\nnot there\nand is:\ny"),
        ] {
            assert!(after.is_the_same_as(&before).unwrap_err().to_string().ends_with(told));
        }
    }
}
