//! Who uses a volume on this host: domains, as their XML says, and volumes that are based on it.

use std::collections::BTreeSet;
use std::path::Path;

use kubevmm_analyser::mark::Mark;
use kubevmm_analyser::read::{read_pool, read_volume};
use kubevmm_analyser::{Element, Tree};
use serde_json::Value;

use crate::host::NotYet;
use crate::libvirt::{self, Connection, Domain, DomainFilter, StoragePool, XmlOptions};
use crate::pool::refresh;

/// A volume, by all the names that a domain may give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Volume {
    pub path: String,
    pub name: String,
    /// The libvirt pools that show it.
    pub pools: BTreeSet<String>,
}

impl Volume {
    /// Whether a path is this volume's. Links are not followed: that would take the host's files.
    fn is_at(&self, path: &str) -> bool {
        Path::new(path) == Path::new(&self.path)
    }

    /// Whether a text names the volume: a path, or an argument of QEMU that contains it.
    fn is_named_by(&self, text: &str) -> bool {
        if text.starts_with('/') { self.is_at(text) } else { text.contains(&self.path) }
    }

    /// Whether a part of a `spec.domain` names the volume.
    pub(super) fn is_in(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => *text == self.name || self.is_named_by(text),
            Value::Array(items) => items.iter().any(|item| self.is_in(item)),
            Value::Object(fields) => fields.values().any(|field| self.is_in(field)),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
}

/// What a domain's XML names, wherever it does: sources of disks with all that they are based on or are copied to, but
/// also kernels, UEFI variables and arguments of QEMU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    texts: BTreeSet<String>,
    /// Pools and volumes of sources of the type `volume`.
    volumes: BTreeSet<(String, String)>,
}

impl Names {
    fn add(&mut self, xml: &str) -> kubevmm_analyser::Result<()> {
        self.collect(&Tree::from_xml(xml)?.root);
        Ok(())
    }

    fn collect(&mut self, element: &Element) {
        if let (Some(pool), Some(volume)) = (element.attribute("pool"), element.attribute("volume")) {
            self.volumes.insert((pool.to_owned(), volume.to_owned()));
        }
        let own_text = element.own_text();
        let values = element.attributes().iter().map(|attribute| attribute.value());
        let paths = values.chain([own_text.trim()]).filter(|value| value.contains('/'));
        self.texts.extend(paths.map(str::to_owned));
        // What people and other programs write about a domain uses nothing.
        let elements = element.elements().filter(|it| !["metadata", "title", "description"].contains(&it.name()));
        elements.for_each(|element| self.collect(element));
    }

    fn contain(&self, volume: &Volume) -> bool {
        let is_it = |(pool, name): &(String, String)| *name == volume.name && volume.pools.contains(pool);
        self.texts.iter().any(|text| volume.is_named_by(text)) || self.volumes.iter().any(is_it)
    }
}

/// A domain of this host, as far as it uses volumes.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub name: String,
    pub mark: Option<Mark>,
    pub active: bool,
    names: Names,
}

impl User {
    /// The domain of these documents: what is defined, and what runs.
    pub(super) fn read(name: &str, definition: &str, live: Option<&str>) -> kubevmm_analyser::Result<Self> {
        let mut names = Names::default();
        for xml in [Some(definition), live].into_iter().flatten() {
            names.add(xml)?;
        }
        // A mark that cannot be read is nobody's of ours.
        let mark = Mark::find(&Tree::from_xml(definition)?.root).ok().flatten();
        Ok(Self { name: name.to_owned(), mark, active: live.is_some(), names })
    }
}

/// The domains of this host, and where its pools lie.
#[derive(Clone, Debug)]
pub(super) struct Users {
    domains: Vec<User>,
    /// Names and targets of the libvirt pools.
    targets: Vec<(String, String)>,
}

impl Users {
    /// Reads them all. What goes meanwhile is left out.
    pub(super) async fn read(connection: &Connection) -> Result<Self, NotYet> {
        let mut domains = Vec::new();
        for domain in connection.list_domains(DomainFilter::All).await? {
            let Some((definition, live)) = if_there(documents(&domain).await)? else { continue };
            let user = User::read(domain.name(), &definition, live.as_deref());
            domains.push(user.map_err(|error| unreadable("domain", domain.name(), &error))?);
        }
        domains.sort_by(|a, b| a.name.cmp(&b.name));
        let mut targets = Vec::new();
        for pool in connection.list_storage_pools().await? {
            let Some(xml) = if_there(pool.xml(true).await)? else { continue };
            let info = read_pool(&xml).map_err(|error| unreadable("pool", pool.name(), &error))?;
            targets.extend(info.target_path.map(|path| (info.name, path)));
        }
        Ok(Self { domains, targets })
    }

    /// The volume of this pool, with the other pools of the same directory.
    pub(super) fn volume(&self, pool: &str, name: &str, path: String) -> Volume {
        let target = self.targets.iter().find(|(other, _)| other == pool).map(|(_, target)| Path::new(target));
        let same = self.targets.iter().filter(|(_, other)| target == Some(Path::new(other)));
        let pools = same.map(|(name, _)| name.clone()).chain([pool.to_owned()]);
        Volume { path, name: name.to_owned(), pools: pools.collect() }
    }

    /// The domains that use the volume, by name.
    pub(super) fn of<'a>(&'a self, volume: &'a Volume) -> impl Iterator<Item = &'a User> {
        self.domains.iter().filter(|domain| domain.names.contain(volume))
    }
}

/// The XML of what is defined, and of what runs.
async fn documents(domain: &Domain) -> libvirt::Result<(String, Option<String>)> {
    let live = if domain.is_active().await? { Some(domain.xml(XmlOptions::default()).await?) } else { None };
    Ok((domain.xml(XmlOptions { inactive: true, ..Default::default() }).await?, live))
}

/// A volume that another one is based on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    path: String,
    /// Name and libvirt pool of the other one.
    pub overlay: (String, String),
}

/// The volumes of all active pools that others are based on.
#[derive(Clone, Debug, Default)]
pub(super) struct Bases(Vec<Base>);

impl Bases {
    /// Reads them all; pools of these names anew, and any other one as libvirt knows it, unless that is out of date.
    pub(super) async fn read(connection: &Connection, anew: &BTreeSet<String>) -> Result<Self, NotYet> {
        let mut bases = Vec::new();
        for pool in connection.list_storage_pools().await? {
            if if_there(pool.is_active().await)? != Some(true) {
                continue;
            }
            if anew.contains(pool.name()) {
                refresh(&pool).await?;
            }
            bases.extend(match bases_of(&pool).await {
                Ok(bases) => bases,
                // A file that is gone is an error until the pool is read anew.
                Err(_) => {
                    refresh(&pool).await?;
                    bases_of(&pool).await?
                }
            });
        }
        Ok(Self(bases))
    }

    pub(super) fn of(&self, volume: &Volume) -> Option<&Base> {
        self.0.iter().find(|base| volume.is_at(&base.path))
    }
}

async fn bases_of(pool: &StoragePool) -> Result<Vec<Base>, NotYet> {
    let mut bases = Vec::new();
    for volume in if_there(pool.list_volumes().await)?.unwrap_or_default() {
        let Some(xml) = if_there(volume.xml().await)? else { continue };
        let info = read_volume(&xml).map_err(|error| unreadable("volume", volume.key(), &error))?;
        let overlay = (info.name, pool.name().to_owned());
        let paths = info.backing.map(|backing| backing.path).into_iter().chain(info.data_file);
        bases.extend(paths.map(|path| Base { path, overlay: overlay.clone() }));
    }
    Ok(bases)
}

/// What went between two calls is not there.
fn if_there<T>(read: libvirt::Result<T>) -> libvirt::Result<Option<T>> {
    match read {
        Err(error) if error.is_not_found() => Ok(None),
        read => read.map(Some),
    }
}

fn unreadable(kind: &str, name: &str, error: &kubevmm_analyser::Error) -> NotYet {
    let message = format!("the XML of {kind} {name} cannot be read, so it is not known what it uses: {error}");
    NotYet::backoff("LibvirtError", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
        names.map(str::to_owned).into()
    }

    fn volume() -> Volume {
        Volume { path: "/srv/web.img".into(), name: "web.img".into(), pools: pools(["fast", "alias"]) }
    }

    fn domain(inside: &str) -> String {
        format!("<domain type='kvm'><name>mail</name>{inside}</domain>")
    }

    fn uses(inside: &str) -> bool {
        User::read("mail", &domain(inside), None).unwrap().names.contain(&volume())
    }

    #[test]
    fn a_domain_uses_the_sources_of_its_disks_and_what_they_are_based_on() {
        let disk = |inside: &str| format!("<devices><disk type='file' device='disk'>{inside}</disk></devices>");
        for used in [
            "<source file='/srv/web.img'/>",
            "<source file='/srv//./web.img' index='1'/>",
            "<source dev='/srv/web.img'/>",
            "<source pool='fast' volume='web.img'/>",
            "<source pool='alias' volume='web.img'/>",
            "<source file='/a'/><backingStore type='file'><format type='qcow2'/><source file='/b'/>\
             <backingStore type='file'><source file='/srv/web.img'/><backingStore/></backingStore></backingStore>",
            "<source file='/a'><dataStore type='file'><source file='/srv/web.img'/></dataStore></source>",
            "<source file='/a'/><mirror type='file' job='copy'><source file='/srv/web.img'/></mirror>",
            "<source file='/a'/><mirror file='/srv/web.img' format='raw'/>",
        ] {
            assert!(uses(&disk(used)), "{used}");
        }
        for other in [
            "<source file='/srv/web.img.old'/>",
            "<source file='/mnt/srv/web.img'/>",
            "<source file='web.img'/>",
            "<source pool='slow' volume='web.img'/>",
            "<source pool='fast' volume='other.img'/>",
            "<target dev='vda' bus='virtio'/>",
        ] {
            assert!(!uses(&disk(other)), "{other}");
        }
    }

    #[test]
    fn a_domain_uses_what_it_names_elsewhere_but_for_what_people_write() {
        for used in [
            "<os><kernel>/srv/web.img</kernel></os>",
            "<os><nvram>\n  /srv/web.img\n</nvram></os>",
            "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
             <qemu:arg value='file=/srv/web.img,if=none'/></qemu:commandline>",
        ] {
            assert!(uses(used), "{used}");
        }
        assert!(!uses("<description>/srv/web.img</description>"));
        assert!(!uses("<metadata><a:note xmlns:a='https://example.org/a' path='/srv/web.img'/></metadata>"));
    }

    #[test]
    fn what_runs_and_what_is_defined_both_count() {
        let (with, without) = (domain("<devices><disk><source file='/srv/web.img'/></disk></devices>"), domain(""));
        for (definition, live, wanted) in
            [(&with, Some(&without), true), (&without, Some(&with), true), (&without, Some(&without), false)]
        {
            let user = User::read("mail", definition, live.map(String::as_str)).unwrap();
            assert!(user.active);
            assert_eq!(user.names.contain(&volume()), wanted);
        }
        assert!(User::read("mail", "no xml", None).is_err(), "it is not taken for a domain that uses nothing");
    }

    #[test]
    fn pools_of_one_directory_show_the_same_volumes() {
        let target = |name: &str, path: &str| (name.to_owned(), path.to_owned());
        let targets = vec![target("fast", "/srv"), target("alias", "/srv/"), target("slow", "/mnt")];
        let users = Users { domains: vec![], targets };
        let shown = |pool: &str| users.volume(pool, "web.img", "/srv/web.img".into()).pools;
        assert_eq!(shown("fast"), pools(["alias", "fast"]));
        assert_eq!(shown("unknown"), pools(["unknown"]));
    }

    #[test]
    fn a_base_is_known_by_its_path() {
        let base = |path: &str| Base { path: path.to_owned(), overlay: ("over".into(), "slow".into()) };
        assert_eq!(Bases(vec![base("/a"), base("/srv/web.img")]).of(&volume()), Some(&base("/srv/web.img")));
        assert_eq!(Bases(vec![base("/a")]).of(&volume()), None);
    }

    #[test]
    fn the_domain_of_a_spec_names_volumes_by_path_and_by_name() {
        let named = |json: &str| volume().is_in(&serde_json::from_str(json).unwrap());
        assert!(named(r#"{"devices": {"disk": [{"source": {"file": "/srv/web.img"}}]}}"#));
        assert!(named(r#"{"devices": {"disk": [{"source": {"pool": "fast", "volume": "web.img"}}]}}"#));
        assert!(!named(r#"{"devices": {"disk": [{"source": {"file": "/srv/other.img"}}], "n": 1, "b": true}}"#));
    }
}
