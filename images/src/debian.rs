//! An image's layer of Debian packages, from the sources that this machine's apt uses.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use sha2::{Digest as _, Sha256};

use crate::command;
use crate::error::{Error, at};
use crate::list::{Base, Source};
use crate::tree::Tree;

/// Changes when the same [`Base`] is turned into other bytes.
const FORMAT: u8 = 1;

/// The layer's tar archive. It is kept in `cache` under a name that changes with the list; packages that were updated
/// since are taken only when the kept file is gone.
pub(crate) fn layer(base: &Base<'_>, cache: &Path) -> Result<Vec<u8>, Error> {
    let file = cache.join(format!("packages-{}.tar", key(base)));
    match fs::read(&file) {
        Ok(bytes) => return Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(&file)(error)),
    }
    println!("images: extracting the packages {} and what they depend on", base.packages.join(", "));
    let bytes = select(extract(base)?, base)?.to_tar().map_err(at(&file))?;
    fs::create_dir_all(cache).map_err(at(cache))?;
    write_at_once(&file, &bytes)?;
    Ok(bytes)
}

/// Writes a file that is either complete or not there.
pub(crate) fn write_at_once(file: &Path, bytes: &[u8]) -> Result<(), Error> {
    let directory = file.parent().unwrap_or(Path::new("."));
    let temporary = tempfile::NamedTempFile::new_in(directory).map_err(at(directory))?;
    fs::write(temporary.path(), bytes).map_err(at(temporary.path()))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(temporary.path(), mode).map_err(at(temporary.path()))?;
    temporary.persist(file).map_err(|error| at(file)(error.error))?;
    Ok(())
}

/// Where layers are kept: `$XDG_CACHE_HOME/kubevmm/images`.
pub(crate) fn cache_directory() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into()));
    let base = std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
    base.join("kubevmm/images")
}

fn key(base: &Base<'_>) -> String {
    // A map of strings always has a JSON form.
    let recipe = serde_json::json!({"format": FORMAT, "architecture": std::env::consts::ARCH, "base": base});
    hex::encode(&Sha256::digest(recipe.to_string())[..16])
}

/// The packages' files, as they are in the packages: no script of a package runs.
fn extract(base: &Base<'_>) -> Result<Tree, Error> {
    let work = tempfile::tempdir().map_err(at(std::env::temp_dir()))?;
    let (sources, archive) = (work.path().join("sources.list"), work.path().join("packages.tar"));
    fs::write(&sources, apt_sources(base.suite)?).map_err(at(&sources))?;
    command::output(
        Command::new("mmdebstrap")
            .args(["--variant=extract", "--format=tar"])
            .arg(format!("--include={}", base.packages.join(",")))
            .args(apt_proxies()?.iter().map(|option| format!("--aptopt={option}")))
            .args([base.suite.as_ref(), archive.as_os_str(), sources.as_os_str()]),
    )?;
    Tree::from_tar(fs::File::open(&archive).map_err(at(&archive))?, &archive)
}

/// Keeps what the list asks for and adds the files that it makes.
fn select(mut tree: Tree, base: &Base<'_>) -> Result<Tree, Error> {
    let keep: Vec<_> = base.keep.iter().map(|text| pattern(text)).collect::<Result<_, _>>()?;
    tree.retain(|path| keep.iter().any(|pattern| pattern.matches(path)));
    for file in base.files {
        let content = match &file.source {
            Source::Content(text) => text.clone().into_bytes(),
            Source::Concatenate(text) => tree.concatenate(&pattern(text)?),
        };
        if let (true, Source::Concatenate(pattern)) = (content.is_empty(), &file.source) {
            return Err(Error::NothingToConcatenate { path: file.path.clone(), pattern: pattern.clone() });
        }
        tree.insert_file(&file.path, content, 0o644);
    }
    Ok(tree)
}

fn pattern(text: &str) -> Result<glob::Pattern, Error> {
    glob::Pattern::new(text).map_err(|error| Error::List(format!("pattern {text:?}: {error}")))
}

/// `sources.list` lines for the release, its updates and its security updates, as far as this machine has them.
fn apt_sources(suite: &str) -> Result<String, Error> {
    let format = "$(ORIGIN) $(CODENAME) $(REPO_URI) $(RELEASE) $(COMPONENT)";
    let targets =
        command::output(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))?;
    let sources = sources_of(&String::from_utf8_lossy(&targets), suite);
    if sources.is_empty() { Err(Error::NoAptSource { suite: suite.to_owned() }) } else { Ok(sources) }
}

fn sources_of(targets: &str, suite: &str) -> String {
    let belongs =
        |codename: &str| codename.strip_prefix(suite).is_some_and(|r| ["", "-updates", "-security"].contains(&r));
    let line = |target: &str| match target.split_whitespace().collect::<Vec<_>>()[..] {
        ["Debian", codename, uri, release, "main"] if belongs(codename) => Some(format!("deb {uri} {release} main\n")),
        _ => None,
    };
    let lines: std::collections::BTreeSet<_> = targets.lines().filter_map(line).collect();
    lines.into_iter().collect()
}

/// The proxies that this machine's apt goes through: mmdebstrap's apt does not read this machine's configuration.
fn apt_proxies() -> Result<Vec<String>, Error> {
    let dump = command::output(Command::new("apt-config").arg("dump"))?;
    Ok(String::from_utf8_lossy(&dump).lines().filter(|line| is_proxy(line)).map(str::to_owned).collect())
}

fn is_proxy(line: &str) -> bool {
    let name = line.split(' ').next().unwrap_or_default().to_ascii_lowercase();
    ["acquire::http::proxy", "acquire::https::proxy"]
        .iter()
        .any(|proxy| name.strip_prefix(proxy).is_some_and(|rest| rest.is_empty() || rest.starts_with("::")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::{IMAGES, List};

    const TARGETS: &str = "\
Debian bookworm http://mirror/debian/ bookworm main
Debian bookworm-updates http://mirror/debian/ bookworm-updates main
Debian bookworm http://mirror/debian/ bookworm non-free
Debian bookworm-security http://mirror/security/ bookworm-security main
Debian bookworm-security http://mirror/security/ bookworm-security main
Debian Backports bookworm-backports http://mirror/debian/ bookworm-backports main
Debian trixie http://mirror/debian/ trixie main
Elsewhere bookworm http://elsewhere/ bookworm main
";

    #[test]
    fn takes_the_releases_own_sources_and_no_others() {
        let sources = "deb http://mirror/debian/ bookworm main\ndeb http://mirror/debian/ bookworm-updates main\n\
                       deb http://mirror/security/ bookworm-security main\n";
        assert_eq!(sources_of(TARGETS, "bookworm"), sources);
        assert_eq!(sources_of(TARGETS, "sid"), "");
    }

    #[test]
    fn finds_proxies_in_apts_configuration() {
        assert!(is_proxy("Acquire::http::Proxy \"http://proxy:3142\";"));
        assert!(is_proxy("Acquire::https::proxy::host.example.org \"DIRECT\";"));
        assert!(!is_proxy("Acquire::http::Proxy-Auto-Detect \"x\";"));
        assert!(!is_proxy("Acquire::Languages \"none\";"));
    }

    fn packages() -> Tree {
        let mut tree = Tree::default();
        for path in [
            "lib/x86_64-linux-gnu/libc.so.6",
            "usr/bin/openssl",
            "usr/share/ca-certificates/mozilla/A.crt",
            "usr/share/doc/libc6/changelog.gz",
            "usr/share/doc/libc6/copyright",
        ] {
            tree.insert_file(path, path.as_bytes().to_vec(), 0o644);
        }
        tree
    }

    #[test]
    fn keeps_libraries_copyrights_and_one_file_of_certificates() {
        let list = List::parse(IMAGES).unwrap();
        let tree = select(packages(), &list.base(&list.images[0]).unwrap()).unwrap();
        let paths = [
            "etc/group",
            "etc/passwd",
            "etc/ssl/certs/ca-certificates.crt",
            "lib/x86_64-linux-gnu/libc.so.6",
            "usr/share/doc/libc6/copyright",
        ];
        assert_eq!(tree.paths(), paths);
    }

    #[test]
    fn a_file_that_nothing_goes_into_is_an_error() {
        let list = List::parse(IMAGES).unwrap();
        let error = select(Tree::default(), &list.base(&list.images[0]).unwrap()).unwrap_err();
        assert!(error.to_string().contains("etc/ssl/certs/ca-certificates.crt"), "{error}");
    }

    #[test]
    fn the_key_follows_the_list() {
        let list = List::parse(IMAGES).unwrap();
        let other = List::parse(&IMAGES.replace("bookworm", "trixie")).unwrap();
        let [controller, executor, ..] = &list.images[..] else { panic!("two images") };
        let of = |list: &List, image| key(&list.base(image).unwrap());
        assert_eq!(of(&list, controller), of(&list, controller));
        assert_ne!(of(&list, controller), of(&list, executor));
        assert_ne!(of(&list, controller), of(&other, &other.images[0]));
    }

    #[test]
    fn a_kept_layer_is_used_again() {
        let list = List::parse(IMAGES).unwrap();
        let base = list.base(&list.images[0]).unwrap();
        let cache = tempfile::tempdir().unwrap();
        write_at_once(&cache.path().join(format!("packages-{}.tar", key(&base))), b"kept").unwrap();
        assert_eq!(layer(&base, cache.path()).unwrap(), b"kept");
    }
}
